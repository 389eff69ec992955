"""The classes of tissue that are rendered; `weights` arrays have them as their first axis."""

CLASSES = ("glass", "tumour", "stroma", "host", "lymphoid", "necrosis")
GLASS, TUMOUR, STROMA, HOST, LYMPHOID, NECROSIS = range(6)

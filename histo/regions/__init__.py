"""Tumour, stroma, host tissue and necrosis; distance to the tumour border; zones."""

"""Rendered fields and slides as datasets: cells known exactly, on seeds that nobody trained on."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np

from histo.datasets.image import CD8_POSITIVE, OTHER_NUCLEUS, AnnotatedImage, Dataset, Item, Kind
from histo.errors import ConfigError
from histo.slide.geometry import Box
from histo.synthetic.cohort import demo_specs
from histo.synthetic.field import Field, FieldStyle, render_field
from histo.synthetic.slide import SlideSpec, render_window_field

RenderedKind = Literal["brightfield", "fluorescence", "both"]
# Side of a window of a rendered slide.
_WINDOW_UM = 320.0


def rendered_dataset(
    n: int,
    *,
    first_seed: int = 5_000_000,
    kind: RenderedKind = "brightfield",
    size_px: int = 512,
    mpp: float = 0.5,
    style: FieldStyle | None = None,
) -> Dataset:
    """Return rendered fields, each a group of its own; the same arguments give the same fields.

    The white point of a brightfield field is told: a slide shows bare glass, a field of it often none.

    Parameters
    ----------
    n : how many. first_seed : the seeds count up from it.
    kind : "both" takes turns, brightfield first.
    size_px, mpp, style : as in `render_field`.

    Raises
    ------
    ConfigError : nothing to render, or a negative seed.
    """
    items = []
    for seed, own in _seeds_and_kinds(n, first_seed, kind):
        load = partial(rendered_image, seed, kind=own, size_px=size_px, mpp=mpp, style=style)
        items.append(Item(f"{own} {seed}", str(seed), None, load))
    return Dataset(f"rendered {kind}", items, "Apache-2.0", True)


def rendered_slides_dataset(
    n: int, *, first_seed: int = 5_000_000, kind: RenderedKind = "brightfield"
) -> Dataset:
    """Return windows of rendered slides: primaries and liver metastases as in the demo, stained as intended.

    Fields are rendered as hard as staining and scanners ever make them; slides look as most slides do.

    Parameters
    ----------
    n : how many windows, 320 um wide, each of a slide and a group of its own.
    first_seed : the seeds count up from it; of every six, three are primaries and three metastases.
    kind : "both" takes turns, brightfield first.

    Raises
    ------
    ConfigError : nothing to render, or a negative seed.
    """
    items = []
    for index, (seed, own) in enumerate(_seeds_and_kinds(n, first_seed, kind)):
        lesions = demo_specs(seed)
        spec = replace(lesions[index // (1 + (kind == "both")) % len(lesions)], kind=own)
        side = round(_WINDOW_UM / spec.mpp)
        margin = round(spec.margin_um / spec.mpp)
        rng = np.random.default_rng([seed, 5])
        x, y = (int(rng.integers(margin, length - margin - side)) for length in spec.size_px)
        load = partial(rendered_window, spec, Box(x, y, side, side))
        items.append(Item(f"{own} slide {seed} {spec.slide_id.partition('_')[2]}", str(seed), None, load))
    return Dataset(f"rendered {kind} slides", items, "Apache-2.0", True)


def rendered_window(spec: SlideSpec, box: Box) -> AnnotatedImage:
    """Render a window of a slide and hand over all that is known of it."""
    return _annotated(render_window_field(spec, box), spec.kind)


def _seeds_and_kinds(n: int, first_seed: int, kind: RenderedKind) -> list[tuple[int, Kind]]:
    """Return the seed and kind of each image; "both" takes turns, brightfield first."""
    if n < 1:
        raise ConfigError(f"{n} fields are nothing to evaluate", fix="Give 1 or more")
    if first_seed < 0:
        raise ConfigError(f"seed {first_seed} is negative", fix="Give a seed of 0 or more")
    kinds: tuple[Kind, ...] = ("brightfield", "fluorescence") if kind == "both" else (kind,)
    return [(first_seed + index, kinds[index % len(kinds)]) for index in range(n)]


def rendered_image(
    seed: int, *, kind: Kind, size_px: int, mpp: float, style: FieldStyle | None = None
) -> AnnotatedImage:
    """Render a field and hand over all that is known of it."""
    return _annotated(render_field(seed, size_px=size_px, mpp=mpp, kind=kind, style=style), kind)


def _annotated(field: Field, kind: Kind) -> AnnotatedImage:
    red, green, blue = (float(level) for level in field.white_point)
    return AnnotatedImage(
        kind=kind,
        pixels=field.pixels,
        mpp=field.mpp,
        labels=field.labels,
        points_um=np.column_stack([field.x_um, field.y_um]).astype(np.float64),
        classes=np.where(field.is_cd8, CD8_POSITIVE, OTHER_NUCLEUS).astype(np.uint8),
        white_point=(red, green, blue) if kind == "brightfield" else None,
    )

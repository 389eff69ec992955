"""Rendered fields as training samples, kept on disk where asked."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from collections.abc import Mapping
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import histo.synthetic
from histo.datasets.image import CD8_POSITIVE, OTHER_NUCLEUS
from histo.errors import ConfigError
from histo.stain.space import channel_scale
from histo.synthetic.field import Field, FieldStyle, render_field
from histo.training.config import TrainConfig
from histo.training.log import each
from histo.training.sample import RENDERED, Kind, Part, Sample
from histo.training.targets import pack_targets

# Beside the renderer's own sources, what its pixels come from.
_LIBRARIES = ("numpy", "scipy", "imagecodecs")


def field_seeds(config: TrainConfig, part: Part) -> range:
    """Return the seeds of the fields of a part; no two parts share one."""
    fields = config.fields
    start = {
        "train": fields.first_seed,
        "validation": fields.first_seed + fields.train,
        "test": fields.first_seed + fields.train + fields.validation,
    }[part]
    return range(start, start + getattr(fields, part))


def kind_of(index: int, fluorescence_share: float) -> Kind:
    """Spread fluorescence evenly among fields: the kind of the field at a place in its part."""
    before, after = int(index * fluorescence_share), int((index + 1) * fluorescence_share)
    return "fluorescence" if after > before else "brightfield"


def render_part(config: TrainConfig, part: Part) -> list[Sample]:
    """Render all fields of a part, or take them from `fields.cache`, on `fields.workers` processes."""
    fields = config.fields
    jobs = [
        (seed, kind_of(index, fields.fluorescence_share))
        for index, seed in enumerate(field_seeds(config, part))
    ]
    work = partial(
        render_sample,
        size_px=fields.size_px,
        mpp=config.mpp,
        style=fields.style if part == "train" else {},
        cache=fields.cache,
    )
    return each(work, jobs, workers=fields.workers, what=f"{part} fields rendered")


def render_sample(
    job: tuple[int, Kind],
    *,
    size_px: int,
    mpp: float,
    style: Mapping[str, Any] | None = None,
    cache: Path | None = None,
) -> Sample:
    """Render one field of a seed and kind; `style` and `cache` as in the configuration."""
    seed, kind = job
    field = _cached_field(seed, size_px, mpp, kind, style or {}, cache)
    background, full_scale = np.zeros(3, np.float32), np.ones(3, np.float32)
    if kind == "fluorescence":
        background, full_scale = fluorescence_scale(field, seed)
    return Sample(
        source=RENDERED,
        kind=kind,
        pixels=field.pixels,
        labels=field.labels,
        classes=np.where(field.is_cd8, CD8_POSITIVE, OTHER_NUCLEUS).astype(np.uint8),
        centroids_um=np.column_stack([field.x_um, field.y_um]).astype(np.float64),
        targets=pack_targets(field.labels, field.is_cd8, mpp),
        white_point=field.white_point,
        stain_vectors=field.stain_vectors,
        background=background,
        full_scale=full_scale,
    )


def fluorescence_scale(field: Field, seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return background and full scale (3,) of a field's channels, as inference fits them to a slide.

    A field is not a slide, which may have brighter cells elsewhere. So the scale of CD8 is that of the field
    for half the seeds; for the others up to 5 times that where it has few CD8+ cells, up to 2.7 where many.
    """
    flat = field.pixels.reshape(-1, 3)
    fitted = [channel_scale(flat[:, i], dense=i == 0)[:2] for i in range(3)]
    background, full_scale = np.array(fitted, np.float32).T
    rng = np.random.default_rng([seed, 4])
    if rng.random() < 0.5:
        few = np.concatenate([[False], field.is_cd8])[field.labels].mean() < 0.03
        full_scale[1] *= np.exp(rng.uniform(0, 1.6 if few else 1.0))
    return background, full_scale


def recipe(size_px: int, mpp: float, style: Mapping[str, Any]) -> str:
    """Return a name for everything but seed and kind that a rendered field depends on.

    The renderer's sources and the libraries that compute its pixels are part of it.
    """
    text = json.dumps([_renderer(), size_px, mpp, sorted(style.items())], default=repr)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


@lru_cache(maxsize=1)
def _renderer() -> str:
    digest = hashlib.sha256()
    (room,) = histo.synthetic.__path__
    for path in sorted(Path(room).rglob("*.py")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    versions = {name: metadata.version(name) for name in _LIBRARIES}
    digest.update(json.dumps(versions, sort_keys=True).encode())
    return digest.hexdigest()


def _cached_field(
    seed: int, size_px: int, mpp: float, kind: Kind, style: Mapping[str, Any], cache: Path | None
) -> Field:
    path = None if cache is None else cache / recipe(size_px, mpp, style) / f"{kind}_{seed}.npz"
    if path is not None and (kept := _read_field(path)) is not None:
        return kept
    field = render_field(seed, size_px=size_px, mpp=mpp, kind=kind, style=FieldStyle(**style))
    if path is not None:
        _write_field(path, field)
    return field


def _read_field(path: Path) -> Field | None:
    """Read a field from the cache; None where it is not there, or damaged: then it is rendered again."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            values = {name: kept[name] for name in kept.files}
        labels = values.pop("labels").astype(np.int32)
        mpp, context = float(values.pop("mpp")), str(values.pop("context"))
        return Field(labels=labels, mpp=mpp, context=context, **values)  # type: ignore[arg-type]
    except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile):
        return None


def _write_field(path: Path, field: Field) -> None:
    """Write a field under a name of its own, then rename it: several runs may share a cache."""
    values: dict[str, Any] = dict(vars(field))
    values["labels"] = field.labels.astype(np.uint16 if len(field.is_cd8) < 2**16 else np.int32)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
            try:
                np.savez_compressed(part, **values)
                part.close()
                os.replace(part.name, path)  # noqa: PTH105 - a name, not a Path
            except BaseException:
                part.close()
                Path(part.name).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise ConfigError(
            f"the cache of rendered fields cannot be written ({error.strerror or error})",
            path=path.parent,
            fix="Set fields.cache to a folder that can be written, or to null",
        ) from None

"""Real images as training samples: at the working pixel size, with stain fitted as inference does."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histo.config import StainVectors
from histo.datasets.arrays import centroids_um
from histo.datasets.image import CD8_POSITIVE, UNKNOWN, AnnotatedImage, Dataset, Item
from histo.datasets.open import licence_warning, open_dataset
from histo.datasets.split import grouped_split
from histo.errors import DatasetError
from histo.evaluation.stain import prepare
from histo.slide.geometry import Box
from histo.slide.resample import nearest_labels
from histo.stain.deconvolution import stain_matrix
from histo.stain.space import BrightfieldTransform
from histo.training.config import DatasetConfig, TrainConfig
from histo.training.log import each
from histo.training.sample import PARTS, Part, Sample
from histo.training.targets import (
    PackedTargets,
    discs_from_points,
    known_classes,
    known_from_outlines,
    pack_targets,
)

log = logging.getLogger("histo")

# Pixels more than this coarser than the working size show no cell well enough to teach.
_COARSEST = 1.6


@dataclass(frozen=True)
class OpenDataset:
    """A dataset of the run and what of it goes where.

    title : its name, made unique in the run.
    """

    title: str
    config: DatasetConfig
    dataset: Dataset
    parts: dict[Part, list[Item]]

    def record(self) -> dict[str, Any]:
        """Return what the weights should say of it, as JSON values."""
        return {
            "name": self.dataset.name,
            "licence": self.dataset.licence,
            "commercial_use": self.dataset.commercial_use,
            "weight": self.config.weight,
            "images": {part: len(items) for part, items in self.parts.items()},
        }


def open_datasets(config: TrainConfig) -> list[OpenDataset]:
    """Open the datasets of a run, split them by patient, and warn of licences.

    Raises
    ------
    DatasetError : one is not there, not laid out as published, or has no image to train on.
    """
    opened = []
    for index, own in enumerate(config.datasets):
        dataset = open_dataset(own.name, own.path, mpp=own.mpp)
        before = sum(other.name == own.name for other in config.datasets[:index])
        title = own.name if before == 0 else f"{own.name}_{before + 1}"
        split = grouped_split(dataset.items, validation=own.validation, test=own.test, seed=config.seed)
        parts = {part: list(split[part]) for part in PARTS}
        if not parts["train"]:
            raise DatasetError("no image is left to train on", path=own.path, fix="Lower validation and test")
        opened.append(OpenDataset(title, own, dataset, parts))
        counts = ", ".join(f"{len(items)} {part}" for part, items in parts.items())
        log.info("dataset %s: %s images, licence %s", title, counts, dataset.licence)
        if (warning := licence_warning(dataset)) is not None:
            log.warning("%s", warning)
    return opened


def load_images(opened: OpenDataset, part: Part, config: TrainConfig) -> list[Sample]:
    """Read the images of a part, on `fields.workers` processes.

    Of the validation part at most `max_validation` are read, evenly spread.
    """
    items = opened.parts[part]
    if part == "validation" and len(items) > (most := opened.config.max_validation):
        items = [items[i] for i in np.linspace(0, len(items) - 1, most).round().astype(int)]
    work = partial(
        load_sample, source=opened.title, mpp=config.mpp, largest_px=config.optimiser.crop_px, part=part
    )
    what = f"{part} images of {opened.title} read"
    samples = each(work, items, workers=config.fields.workers, what=what)
    return [sample for sample in samples if sample is not None]


def load_sample(
    item: Item, *, source: str, mpp: float, largest_px: int, part: Part = "train"
) -> Sample | None:
    """Read one image and bring it to the working pixel size.

    Parameters
    ----------
    largest_px : a training image of which only the count is known must fit into a square of this size.

    Returns
    -------
    None for an image of validation or test of whose cells nothing is published.

    Raises
    ------
    DatasetError : it is damaged, too coarse or too small; or, for training, nothing is known of its cells, or
        only a count and it is too large.
    """
    image = item.load()
    unknown = image.labels is None and image.points_um is None and image.n_cd8 is None
    if unknown and part != "train":
        return None
    try:
        return sample_of(image, source=source, mpp=mpp, largest_px=largest_px if part == "train" else None)
    except DatasetError as error:
        raise DatasetError(f"{source}, image {item.name}: {error.what}", fix=error.fix) from None


def sample_of(image: AnnotatedImage, *, source: str, mpp: float, largest_px: int | None) -> Sample:
    """Return an image as a sample; errors as in `load_sample`."""
    scale = mpp / image.mpp
    if scale < 1 / _COARSEST:
        raise DatasetError(f"{image.mpp:g} um/px is too coarse to train at {mpp:g}", fix="Raise mpp")
    # Even, so that the centre map's grid fits; what is cut off is under 2 pixels.
    height, width = (2 * int(size / scale / 2 + 1e-6) for size in image.pixels.shape[:2])
    if min(height, width) < 16:
        raise DatasetError(f"only {width} x {height} px at {mpp:g} um/px", fix="Leave it out")
    prepared = prepare(image, name=source)
    pixels = prepared.slide.read(Box(0, 0, width, height), mpp)
    stain = prepared.stain
    white, vectors = np.full(3, 255, np.float32), stain_matrix(StainVectors())
    background, full_scale = np.zeros(3, np.float32), np.ones(3, np.float32)
    if isinstance(stain, BrightfieldTransform):
        white, vectors = np.array(stain.white_point, np.float32), stain.matrix()
    else:
        background = np.array(stain.background, np.float32)
        full_scale = np.array(stain.full_scale, np.float32)
    labels, classes, centres_um, targets = _cells(image, (height, width), mpp)
    if targets is None:
        if image.n_cd8 is None:
            raise DatasetError("nothing is known of its cells", fix="Leave it out")
        if largest_px is not None and max(height, width) > largest_px:
            raise DatasetError(
                f"only the count of its {width} x {height} px is known, so that it must be seen whole",
                fix=f"Raise optimiser.crop_px to {max(height, width)} or more",
            )
    return Sample(
        source=source,
        kind=image.kind,
        pixels=pixels,
        labels=labels,
        classes=classes,
        centroids_um=centres_um,
        targets=targets,
        white_point=white,
        stain_vectors=vectors,
        background=background,
        full_scale=full_scale,
        background_known=image.background_known,
        n_cd8=image.n_cd8 if targets is None else None,
    )


def _cells(
    image: AnnotatedImage, shape: tuple[int, int], mpp: float
) -> tuple[NDArray[Any] | None, NDArray[np.uint8], NDArray[np.float64], PackedTargets | None]:
    """Return labels at the working pixel size, classes, centroids in um, and targets."""
    if image.labels is None and image.points_um is None:
        return None, np.zeros(0, np.uint8), np.zeros((0, 2)), None
    if image.labels is not None:
        n = int(image.labels.max(initial=0))
    else:
        points_um = np.asarray(image.points_um, np.float64).reshape(-1, 2)
        n = len(points_um)
    classes = np.full(n, UNKNOWN, np.uint8) if image.classes is None else image.classes
    if len(classes) != n:
        raise DatasetError(f"{n} cells and the classes of {len(classes)}", fix="Correct its annotation")
    if image.labels is not None:
        labels = nearest_labels(image.labels, image.mpp, shape, mpp)
        centres_um = centroids_um(labels, n, mpp)
        known = known_from_outlines(labels, classes, background_known=image.background_known)
        targets = pack_targets(labels, classes == CD8_POSITIVE, mpp)
    else:
        centres_um, points_px = points_um, points_um / mpp - 0.5
        labels, known = discs_from_points(
            points_px, classes, shape, mpp, background_known=image.background_known
        )
        targets = pack_targets(labels, classes == CD8_POSITIVE, mpp, centroids_px=points_px)
    # A cell of unknown class is no other nucleus: `known` says which it may be.
    targets = targets._replace(classes=known_classes(known), known=known)
    return labels.astype(np.uint16) if n < 2**16 else labels, classes, centres_um, targets

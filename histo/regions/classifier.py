"""The tissue classifier: few annotations, a linear model, one file.

Multinomial logistic regression with a strong ridge. From some strokes on one slide it carries over to slides
stained otherwise better than a forest or a discriminant analysis does (docs/regions.md), and it is its
coefficients: what is on disk is what is applied, whatever version of scikit-learn reads it.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from math import isfinite
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from histo import __version__
from histo.errors import ClassifierError
from histo.regions.features import CELL_UM, FEATURE_MPP_UM, feature_names
from histo.regions.windows import Channel
from histo.slide.base import Kind

TUMOUR: Final = "tumour"
# Standard deviation of the Gaussian that classes are averaged over, and the smallest piece that is kept.
SMOOTHING_UM: Final = 48.0
MIN_AREA_UM2: Final = 50_000.0

_FORMAT: Final = "histo tissue classifier"
_VERSION: Final = 1
_HEADER_KEY: Final = "histo"
_MAX_BYTES: Final = 1 << 24
# A Gaussian wider than that takes hours.
_MAX_SMOOTHING_UM: Final = 10_000.0
# Weight of the data against the ridge, per annotation: more annotations allow a finer rule.
_C_PER_ANNOTATION: Final = 0.05


class ClassAccuracy(BaseModel):
    """The share of a class's held-out pixels that were recognised, or why there is none."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float | None
    n_pixels: int
    not_assessable: str | None = None


class CrossValidation(BaseModel):
    """How well a classifier recognised annotated pixels that it was not trained on.

    scheme : what was left out in turn: "slides" or "annotations"; None where nothing could be.
    by_class : over all slides. by_slide : the same for each slide, by its name.
    confusion : by slide, held-out pixels: rows the true class, columns the class found, in the order of the
        classifier's classes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    scheme: str | None
    by_class: dict[str, ClassAccuracy]
    by_slide: dict[str, dict[str, ClassAccuracy]]
    confusion: dict[str, list[list[int]]]

    def sentence(self) -> str:
        """Say the accuracies in one sentence."""
        if self.scheme is None:
            reason = next((a.not_assessable for a in self.by_class.values() if a.not_assessable), "unknown")
            return f"cross-validated accuracy NA: {reason}"
        parts = [
            f"{name} {'NA' if accuracy.value is None else f'{accuracy.value:.2f}'}"
            for name, accuracy in self.by_class.items()
        ]
        return f"cross-validated accuracy (leaving {self.scheme} out): {', '.join(parts)}"


@dataclass(frozen=True, eq=False)
class Samples:
    """Annotated cells: features (n, n_features) float32, and for each cell the places of its class in
    `classes` and of its slide in `slides`, and the number of its annotation.
    """

    classes: tuple[str, ...]
    slides: tuple[str, ...]
    features: NDArray[np.float32]
    label: NDArray[np.int64]
    slide: NDArray[np.int64]
    annotation: NDArray[np.int64]

    def where(self, mask: NDArray[np.bool_]) -> Samples:
        """Return some of the cells."""
        return replace(
            self,
            features=self.features[mask],
            label=self.label[mask],
            slide=self.slide[mask],
            annotation=self.annotation[mask],
        )


@dataclass(frozen=True, eq=False)
class TissueClassifier:
    """What tells tissues apart.

    classes : what it tells apart; a cell's class is the greatest of features @ coefficient + intercept.
    kind, channels : of the slides that it was trained on, see `channels_of`.
    coefficient : (n_features, n_classes) float32. intercept : (n_classes,).
    smoothing_um, min_area_um2 : how its answers become regions.
    cross_validation : of the annotations that it was trained on.
    training : what it was made from and with, as JSON values.
    sha256 : of the file; "" before it is saved.
    """

    classes: tuple[str, ...]
    kind: Kind
    channels: tuple[Channel, ...]
    coefficient: NDArray[np.float32]
    intercept: NDArray[np.float32]
    cross_validation: CrossValidation
    smoothing_um: float = SMOOTHING_UM
    min_area_um2: float = MIN_AREA_UM2
    training: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""


def train_classifier(
    samples: Samples,
    *,
    kind: Kind,
    channels: tuple[Channel, ...],
    smoothing_um: float = SMOOTHING_UM,
    min_area_um2: float = MIN_AREA_UM2,
) -> TissueClassifier:
    """Train on all samples and cross-validate.

    Every class weighs the same, and within a class every annotation, whatever its size.

    Raises
    ------
    ClassifierError : there is no tumour among the samples, or nothing else.
    """
    present = [samples.classes[k] for k in np.unique(samples.label)]
    if TUMOUR not in present:
        raise ClassifierError(
            f"no assessed tissue is annotated as tumour (only: {', '.join(present) or 'nothing'})",
            fix="Draw some tumour, or map your name for it to tumour in regions.names",
        )
    if len(present) < 2:
        raise ClassifierError(
            "all annotations are tumour: there is nothing to tell it from",
            fix="Draw some of the other tissues too (stroma, host, necrosis ...)",
        )
    coefficient, intercept = _fit(samples)
    counts = np.bincount(samples.label, minlength=len(samples.classes))
    training = {
        "slides": list(samples.slides),
        "n_annotations": {
            name: len(np.unique(samples.annotation[samples.label == k]))
            for k, name in enumerate(samples.classes)
        },
        "n_pixels": {name: int(counts[k]) for k, name in enumerate(samples.classes)},
        "versions": {
            "histo": __version__,
            "numpy": np.__version__,
            "scikit-learn": metadata.version("scikit-learn"),
            "python": platform.python_version(),
        },
    }
    return TissueClassifier(
        classes=samples.classes,
        kind=kind,
        channels=channels,
        coefficient=coefficient,
        intercept=intercept,
        cross_validation=cross_validate(samples),
        smoothing_um=smoothing_um,
        min_area_um2=min_area_um2,
        training=training,
    )


def cross_validate(samples: Samples) -> CrossValidation:
    """Leave out each slide in turn, or each annotation where there is only one slide.

    With one slide, the k-th annotation of every class is left out together. Pixels are judged one by one;
    what is applied to a slide is smoothed, and better. Annotations of one slide resemble each other more than
    those of another slide, so leaving annotations out flatters.
    """
    n = len(samples.classes)
    by_slide = len(samples.slides) > 1
    fold = samples.slide if by_slide else _rank_in_class(samples)
    confusion = np.zeros((len(samples.slides), n, n), np.int64)
    for left_out in np.unique(fold):
        held, rest = samples.where(fold == left_out), samples.where(fold != left_out)
        known = np.unique(rest.label)
        if len(known) < 2:
            continue
        coefficient, intercept = _fit(rest)
        found = np.argmax(held.features @ coefficient + intercept, axis=1)
        # A class that was not trained cannot be recognised: that is no error of the rule.
        judged = np.isin(held.label, known)
        np.add.at(confusion, (held.slide[judged], held.label[judged], found[judged]), 1)
    unit = "slide" if by_slide else "annotation"

    annotated = np.stack(
        [np.bincount(samples.label[samples.slide == k], minlength=n) for k in range(len(samples.slides))]
    )
    return CrossValidation(
        scheme=f"{unit}s" if confusion.any() else None,
        by_class=_accuracies(samples.classes, confusion.sum(axis=0), annotated.sum(axis=0), unit),
        by_slide={
            name: _accuracies(samples.classes, confusion[k], annotated[k], unit)
            for k, name in enumerate(samples.slides)
        },
        confusion={name: confusion[k].tolist() for k, name in enumerate(samples.slides)},
    )


def _accuracies(
    classes: Sequence[str], confusion: NDArray[np.int64], annotated: NDArray[np.int64], unit: str
) -> dict[str, ClassAccuracy]:
    accuracies: dict[str, ClassAccuracy] = {}
    for k, name in enumerate(classes):
        total = int(confusion[k].sum())
        if total:
            accuracies[name] = ClassAccuracy(value=float(confusion[k, k] / total), n_pixels=total)
            continue
        reason = f"no other {unit} shows this class" if annotated[k] else "not annotated"
        accuracies[name] = ClassAccuracy(value=None, n_pixels=0, not_assessable=reason)
    return accuracies


def _rank_in_class(samples: Samples) -> NDArray[np.int64]:
    """Number the annotations of each class from 0."""
    rank = np.zeros(len(samples.label), np.int64)
    for label in np.unique(samples.label):
        members = samples.label == label
        _, rank[members] = np.unique(samples.annotation[members], return_inverse=True)
    return rank


def _fit(samples: Samples) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return coefficients (n_features, n_classes) and intercepts on the features as they are."""
    # Imported where it is needed: applying a classifier needs none of it.
    from sklearn.linear_model import LogisticRegression

    annotations, which, size = np.unique(samples.annotation, return_inverse=True, return_counts=True)
    present, label = np.unique(samples.label, return_inverse=True)
    first = np.unique(samples.annotation, return_index=True)[1]
    per_class = np.bincount(label[first], minlength=len(present))
    weight = len(annotations) / (len(present) * per_class[label] * size[which])
    mean = np.average(samples.features, axis=0, weights=weight)
    spread = np.sqrt(np.average((samples.features - mean) ** 2, axis=0, weights=weight))
    # A feature that is all but constant here says nothing, and must not shout on another slide.
    spread = np.maximum(spread, 1e-3)
    model = LogisticRegression(C=_C_PER_ANNOTATION, max_iter=2000, tol=1e-6)
    model.fit((samples.features - mean) / spread, label, sample_weight=weight)
    own, offset = model.coef_, model.intercept_
    if len(present) == 2:
        own, offset = np.vstack([-own / 2, own / 2]), np.concatenate([-offset / 2, offset / 2])
    coefficient = np.zeros((samples.features.shape[1], len(samples.classes)))
    # A class without samples is never the greatest.
    intercept = np.full(len(samples.classes), -np.inf)
    coefficient[:, present] = (own / spread).T
    intercept[present] = offset - own @ (mean / spread)
    return coefficient.astype(np.float32), intercept.astype(np.float32)


def save_classifier(classifier: TissueClassifier, path: Path) -> TissueClassifier:
    """Write a classifier to a safetensors file and return it with the file's hash."""
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        "classes": classifier.classes,
        "kind": classifier.kind,
        "channels": classifier.channels,
        "features": feature_names(classifier.channels),
        "feature_mpp_um": FEATURE_MPP_UM,
        "cell_um": CELL_UM,
        "smoothing_um": classifier.smoothing_um,
        "min_area_um2": classifier.min_area_um2,
        "cross_validation": classifier.cross_validation.model_dump(mode="json"),
        "training": classifier.training,
    }
    content = safetensors.numpy.save(
        {"coefficient": classifier.coefficient, "intercept": classifier.intercept},
        metadata={_HEADER_KEY: json.dumps(header, sort_keys=True)},
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        raise ClassifierError(
            f"the classifier cannot be written ({error.strerror or error})",
            path=path,
            fix="Name another --out",
        ) from None
    return replace(classifier, sha256=hashlib.sha256(content).hexdigest())


def load_classifier(path: Path) -> TissueClassifier:
    """Read a classifier.

    Raises
    ------
    ClassifierError : the file is missing or damaged, or was made for another pixel size or by a version of
        this package that looks at other features.
    """
    again = "Train it again with histo regions train"
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"larger than {_MAX_BYTES >> 20} MiB")
        content = path.read_bytes()
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError:
        raise ClassifierError(
            "no such file", path=path, fix="Give a file that histo regions train has written"
        ) from None
    except (OSError, ValueError, TypeError, AttributeError, KeyError, safetensors.SafetensorError) as error:
        # A dtype that numpy does not have is no SafetensorError; a path with a NUL is a ValueError.
        raise ClassifierError(f"the classifier cannot be read ({error})", path=path, fix=again) from None
    try:
        header = json.loads(metadata.get(_HEADER_KEY, "null"))
        if not isinstance(header, dict) or header.get("format") != _FORMAT:
            raise ClassifierError("no tissue classifier", path=path, fix=again)
        channels = tuple(header["channels"])
        if not set(channels) <= set(get_args(Channel)) or len(set(channels)) < len(channels):
            raise ValueError("channels of no known name")
        for key, wanted in (
            ("version", _VERSION),
            ("feature_mpp_um", FEATURE_MPP_UM),
            ("cell_um", CELL_UM),
            ("features", list(feature_names(channels))),
        ):
            if header[key] != wanted:
                given = "others" if key == "features" else f"{header[key]!r} instead of {wanted!r}"
                raise ClassifierError(
                    f"made for other data than this version of the package has: {key} {given}",
                    path=path,
                    fix=again,
                )
        classifier = TissueClassifier(
            classes=tuple(map(str, header["classes"])),
            kind=header["kind"],
            channels=channels,
            coefficient=tensors["coefficient"],
            intercept=tensors["intercept"],
            cross_validation=CrossValidation.model_validate(header["cross_validation"]),
            smoothing_um=float(header["smoothing_um"]),
            min_area_um2=float(header["min_area_um2"]),
            training=dict(header["training"]),
            sha256=hashlib.sha256(content).hexdigest(),
        )
        _check(classifier)
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ClassifierError(f"the file is damaged ({error!r:.200})", path=path, fix=again) from None
    return classifier


def _check(classifier: TissueClassifier) -> None:
    """Raise ValueError for what no trained classifier holds."""
    n, n_features = len(classifier.classes), len(feature_names(classifier.channels))
    if classifier.kind not in get_args(Kind):
        raise ValueError(f"kind {classifier.kind!r}")
    if classifier.coefficient.shape != (n_features, n) or classifier.intercept.shape != (n,):
        raise ValueError("its tensors do not fit")
    # A class without samples has an intercept of -inf.
    if not np.isfinite(classifier.coefficient).all() or not (classifier.intercept < np.inf).all():
        raise ValueError("coefficients that are not finite")
    if not (0 <= classifier.smoothing_um <= _MAX_SMOOTHING_UM and isfinite(classifier.min_area_um2)):
        raise ValueError(f"smoothing_um {classifier.smoothing_um}, min_area_um2 {classifier.min_area_um2}")

"""Network weights and what must be known to use them, in one safetensors file.

The header of the file carries, as JSON, what the tensors were trained for: classes, stain space, pixel size,
width and the centre threshold. A file that was made for something else is refused.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from histo.cells.layers import tensor_shapes
from histo.cells.table import CELL_CLASSES
from histo.errors import WeightsError
from histo.slide.pixel_size import believable
from histo.stain.deconvolution import AMOUNT_RANGE, STAINS

if TYPE_CHECKING:
    from histo.cells.network import CellNet

BACKGROUND: Final = "background"
CLASSES: Final = (BACKGROUND, *CELL_CLASSES)
FORMAT: Final = "histo cells"
VERSION: Final = 1

_SHIPPED: Final = {"default": "cd8.safetensors"}
_SHIPPED_LICENCE: Final = "Apache-2.0"
_HEADER_KEY: Final = "histo"
_AGAIN: Final = "Fetch or train the file again"
# Far above the networks that are trained here (16 to 32 channels, 5 MB).
_MAX_BYTES: Final = 1 << 28
_MAX_WIDTH: Final = 256


@dataclass(frozen=True)
class Weights:
    """Trained weights of a `CellNet`.

    state : tensors by name: those of `layers.tensor_shapes`, float32 but for the counts of batches.
    width : channels of the network, see `CellNet`.
    mpp : um per pixel that they were trained at.
    centre_threshold : probability that a cell's centre must reach, chosen on images not trained on.
    name : what they are called in outputs.
    sha256 : of the file; "" before they are saved.
    training : how they came to be (configuration, metrics), as JSON values.
    licence : "" where none is stated.
    """

    state: Mapping[str, NDArray[Any]]
    width: int
    mpp: float
    centre_threshold: float
    name: str
    sha256: str = ""
    training: Mapping[str, Any] = field(default_factory=dict)
    licence: str = ""
    classes: tuple[str, ...] = CLASSES
    stains: tuple[str, ...] = STAINS
    amount_range: tuple[float, float] = AMOUNT_RANGE

    def network(self) -> CellNet:
        """Build the network of torch with these weights, in evaluation mode."""
        # Half a gigabyte, which inference on a CPU does without.
        import torch

        from histo.cells.network import CellNet

        network = CellNet(self.width)
        network.load_state_dict({name: torch.from_numpy(values) for name, values in self.state.items()})
        return network.eval()


def save_weights(weights: Weights, path: Path) -> Weights:
    """Write weights to a file and return them with the file's hash."""
    header = {
        "format": FORMAT,
        "version": VERSION,
        "name": weights.name,
        "classes": list(weights.classes),
        "stains": list(weights.stains),
        "amount_range": list(weights.amount_range),
        "mpp": weights.mpp,
        "width": weights.width,
        "centre_threshold": weights.centre_threshold,
        "training": dict(weights.training),
        "licence": weights.licence,
    }
    state = {
        # Unlike `ascontiguousarray`, leaves a single number a single number.
        name: np.require(values, np.float32 if np.issubdtype(values.dtype, np.floating) else None, "C")
        for name, values in weights.state.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    content = safetensors.numpy.save(state, metadata={_HEADER_KEY: json.dumps(header, sort_keys=True)})
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)
    return load_weights(str(path))


def load_weights(name_or_path: str = "default") -> Weights:
    """Read weights by the name of a shipped file ("default") or by path.

    Raises
    ------
    WeightsError : the file is missing or damaged, or was made for other classes, another stain space or
        another version of this package.
    """
    if name_or_path in _SHIPPED:
        resource = resources.files("histo.cells") / "weights" / _SHIPPED[name_or_path]
        with resources.as_file(resource) as path:
            weights = _read(path)
        return replace(weights, licence=weights.licence or _SHIPPED_LICENCE)
    return _read(Path(name_or_path))


def _read(path: Path) -> Weights:
    known = ", ".join(sorted(_SHIPPED))
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ValueError(f"larger than {_MAX_BYTES >> 20} MiB")
        content = path.read_bytes()
        # Nothing in this format is run: no pickle.
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError:
        raise WeightsError(
            "no such weights file", path=path, fix=f"Give the path of a .safetensors file, or one of: {known}"
        ) from None
    except (OSError, ValueError, TypeError, AttributeError, KeyError, safetensors.SafetensorError) as error:
        # A dtype that numpy does not have is no SafetensorError; a path with a NUL is a ValueError.
        raise WeightsError(f"the weights cannot be read ({error})", path=path, fix=_AGAIN) from None
    if _HEADER_KEY not in metadata:
        raise WeightsError(
            "a safetensors file, but not weights of this package", path=path, fix="Train with train.py"
        )
    header = _checked_header(metadata[_HEADER_KEY], path)
    try:
        weights = Weights(
            state=state,
            width=int(header["width"]),
            mpp=float(header["mpp"]),
            centre_threshold=float(header["centre_threshold"]),
            name=str(header["name"]),
            sha256=hashlib.sha256(content).hexdigest(),
            training=dict(header["training"]),
            licence=str(header.get("licence", "")),
        )
        _check(weights)
        _check_tensors(weights)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise WeightsError(
            f"the header of the weights is damaged ({error!r})", path=path, fix=_AGAIN
        ) from None
    except WeightsError as error:
        raise WeightsError(error.what, path=path, fix=_AGAIN) from None
    return weights


def _check(weights: Weights) -> None:
    """Raise ValueError for numbers that no trained network has, before one is built with them."""
    if not 1 <= weights.width <= _MAX_WIDTH:
        raise ValueError(f"width {weights.width}")
    if not believable(weights.mpp):
        raise ValueError(f"mpp {weights.mpp}")
    if not 0 < weights.centre_threshold < 1:
        raise ValueError(f"centre_threshold {weights.centre_threshold}")
    if not all(np.isfinite(values).all() for values in weights.state.values()):
        raise ValueError("weights that are not finite")


def _check_tensors(weights: Weights) -> None:
    """Raise WeightsError unless the tensors are those of a network of this width."""
    wanted = tensor_shapes(weights.width)
    found = {name: values.shape for name, values in weights.state.items()}
    wrong = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if wrong:
        listed = "; ".join(
            f"{name} is {found.get(name, 'missing')}, expected {wanted.get(name, 'no such tensor')}"
            for name in wrong[:3]
        )
        raise WeightsError(
            f"{len(wrong)} tensors do not fit a network of width {weights.width} ({listed})", fix=_AGAIN
        )


def _checked_header(text: str, path: Path) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"the header of the weights is damaged ({error})", path=path, fix=_AGAIN) from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise WeightsError("not weights of a cell network", path=path, fix="Train with train.py")
    for key, wanted in (
        ("version", VERSION),
        ("classes", list(CLASSES)),
        ("stains", list(STAINS)),
        ("amount_range", list(AMOUNT_RANGE)),
    ):
        if header.get(key) != wanted:
            raise WeightsError(
                f"the weights have {key} {header.get(key)!r}; this package needs {wanted!r}",
                path=path,
                fix="Use weights trained with this version of the package",
            )
    return header

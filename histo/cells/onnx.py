"""The network as an ONNX file that carries all that is needed to use it without this package."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from histo import __version__
from histo.cells.network import Maps, folded
from histo.cells.weights import Weights
from histo.errors import ConfigError, WeightsError

OPSET: Final = 18
INPUT: Final = "stain"
OUTPUTS: Final = Maps._fields


def export_onnx(weights: Weights, path: Path) -> None:
    """Write the network with these weights as one ONNX file.

    The file takes `stain` (N, 3, H, W) float32, any N, H and W multiples of 8, and gives `classes`
    (N, 3, H, W) and `centre` (N, 1, H/2, W/2) as logits, and `offsets` (N, 2, H, W) in um; see `Maps`.
    Normalisations are folded into the convolutions. Its metadata properties are those of `onnx_metadata`.

    Raises
    ------
    ConfigError : the packages of the extra `onnx` are not installed.
    WeightsError : the file cannot be written.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401 - torch's exporter needs it, and says so less clearly
    except ImportError as error:
        raise ConfigError(
            f"writing ONNX needs the package {error.name!r}", fix="Install it with: pip install 'histo[onnx]'"
        ) from None

    # Before the work, which takes seconds.
    with _written(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    network = folded(weights.network())
    side = 8 * network.multiple
    n = torch.export.Dim("n")
    height, width = (network.multiple * torch.export.Dim(name) for name in ("height_8", "width_8"))
    # Its remarks on its own operator versions are of no use to a user.
    chatty = logging.getLogger("torch.onnx")
    level = chatty.level
    chatty.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (torch.zeros(2, 3, side, side + network.multiple),),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_shapes={INPUT: {0: n, 2: height, 3: width}},
                verbose=False,
            )
    finally:
        chatty.setLevel(level)
    assert program is not None
    model = program.model_proto
    _forget_sources(model)
    # The exporter does not see that these are halves of the input's.
    for axis, name in ((2, "height_8"), (3, "width_8")):
        model.graph.output[OUTPUTS.index("centre")].type.tensor_type.shape.dim[axis].dim_param = f"4*{name}"
    onnx.helper.set_model_props(model, onnx_metadata(weights))
    model.producer_name, model.producer_version = "histo", __version__
    model.doc_string = "CD8+ cells and other nuclei in stain space; see the metadata"
    onnx.checker.check_model(model, full_check=True)
    with _written(path):
        partial = path.with_name(path.name + ".partial")
        partial.write_bytes(model.SerializeToString(deterministic=True))
        partial.replace(path)


def onnx_metadata(weights: Weights) -> dict[str, str]:
    """Return what a user of the file must know, as ONNX metadata properties.

    name, licence, sha256 of the weights file; mpp_um, centre_threshold : numbers; multiple : of H and W;
    receptive_radius_px : how wide a margin of a tile is not to be trusted; classes, stains, amount_range :
    JSON; inputs, outputs : JSON, what each is; training : JSON, as in the weights.
    """
    network = weights.network()
    values: dict[str, Any] = {
        "classes": list(weights.classes),
        "stains": list(weights.stains),
        "amount_range": list(weights.amount_range),
        "inputs": {
            INPUT: "(N, 3, H, W) stain amounts clipped to amount_range: optical density along unit stain "
            "vectors, or fluorescence less background over full scale"
        },
        "outputs": {
            "classes": "(N, 3, H, W) logits; a softmax gives the probability of each of `classes`",
            "centre": "(N, 1, H/2, W/2) logit of a cell's centre, on the grid of twice the pixel size",
            "offsets": "(N, 2, H, W) um from the pixel's centre to its cell's centre, x then y",
        },
        "training": dict(weights.training),
    }
    return {
        "name": weights.name,
        "sha256": weights.sha256,
        "licence": weights.licence or "not stated",
        "histo_version": __version__,
        "mpp_um": repr(weights.mpp),
        "centre_threshold": repr(weights.centre_threshold),
        "multiple": str(network.multiple),
        "receptive_radius_px": str(network.receptive_radius_px),
    } | {key: json.dumps(value, sort_keys=True) for key, value in values.items()}


@contextmanager
def _written(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise WeightsError(
            f"the file cannot be written ({error.strerror})", path=path, fix="Name another file"
        ) from None


def _forget_sources(model: Any) -> None:
    """Drop the exporter's notes on source files: they name folders of this machine."""
    graph = model.graph
    del model.metadata_props[:], graph.value_info[:]
    for item in [graph, *graph.node, *graph.input, *graph.output, *graph.initializer]:
        item.doc_string = ""
        del item.metadata_props[:]

from __future__ import annotations

import builtins
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from histo.cells.decode import decode
from histo.cells.detect import CellDetector
from histo.cells.maps import TileMaps
from histo.cells.network import Maps, folded
from histo.cells.onnx import export_onnx, onnx_metadata
from histo.cells.table import CD8
from histo.cells.weights import CLASSES, Weights, load_weights
from histo.cli import app
from histo.config import CellsConfig, StainVectors
from histo.errors import ConfigError, WeightsError
from histo.slide.geometry import Box
from histo.slide.tiles import Tile
from histo.stain.deconvolution import AMOUNT_RANGE, STAINS, stain_amounts, stain_matrix
from histo.synthetic.field import FieldStyle, render_field

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "onnx.md"


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "deeper" / "cd8.onnx"
    done = CliRunner().invoke(app, ["export", "--onnx", str(path)])
    assert done.exit_code == 0, done.output
    return path


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    """A field that fits the stain vectors and the glass of the guide."""
    matrix = stain_matrix(StainVectors())
    style = FieldStyle(context="stroma", stain_vectors=matrix, white_point=(255.0, 255.0, 255.0))
    return render_field(8, size_px=400, mpp=0.5, style=style).pixels


@pytest.fixture(scope="module")
def stain(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    return stain_amounts(pixels, (255.0, 255.0, 255.0), stain_matrix(StainVectors()))[None]


def _run(path: Path, stain: NDArray[np.float32]) -> Maps:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return Maps(*(torch.from_numpy(out) for out in session.run(list(Maps._fields), {"stain": stain})))


def _torch(stain: NDArray[np.float32]) -> Maps:
    with torch.inference_mode():
        return folded(load_weights().network())(torch.from_numpy(stain))


# None of these is the size that the network is traced with.
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 136, 200), (1, 264, 64)])
def test_it_computes_what_torch_computes(shipped: Path, shape: tuple[int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = (torch.rand(shape[0], 3, *shape[1:], generator=generator) * 3.5 - 0.5).numpy()
    for ours, theirs in zip(_torch(noise), _run(shipped, noise), strict=True):
        assert ours.shape == theirs.shape
        assert float((ours - theirs).abs().max()) < 1e-4


def test_it_finds_the_same_cells(shipped: Path, stain: NDArray[np.float32]) -> None:
    ours, theirs = (
        decode(
            TileMaps(maps.classes[0].numpy(), maps.centre[0, 0].numpy(), maps.offsets[0].numpy()),
            mpp=0.5,
            centre_threshold=0.4,
            area_um2=(10, 400),
        )
        for maps in (_torch(stain), _run(shipped, stain))
    )
    assert len(ours.area_px) > 50
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    np.testing.assert_array_equal(ours.cell_class, theirs.cell_class)
    np.testing.assert_allclose(ours.probability, theirs.probability, atol=1e-5)


def test_the_file_says_what_is_needed_to_use_it(shipped: Path) -> None:
    weights = load_weights()
    model = onnx.load(shipped)
    facts = {item.key: item.value for item in model.metadata_props}
    assert facts["sha256"] == weights.sha256
    assert facts["licence"] == "Apache-2.0"
    assert float(facts["mpp_um"]) == weights.mpp
    assert float(facts["centre_threshold"]) == weights.centre_threshold
    assert tuple(json.loads(facts["classes"])) == CLASSES
    assert tuple(json.loads(facts["stains"])) == STAINS
    assert tuple(json.loads(facts["amount_range"])) == AMOUNT_RANGE
    assert json.loads(facts["training"]) == weights.training
    assert set(json.loads(facts["outputs"])) == set(Maps._fields)
    assert [item.version for item in model.opset_import if item.domain == ""] == [18]
    dims = [dim.dim_param or dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["n", 3, "8*height_8", "8*width_8"]


def test_the_file_names_no_folder_of_the_machine(shipped: Path) -> None:
    content = shipped.read_bytes()
    assert str(Path(torch.__file__).parent).encode() not in content
    assert str(GUIDE.parents[1]).encode() not in content
    assert b".py" not in content


def test_a_licence_is_not_guessed(random_weights: Weights) -> None:
    assert onnx_metadata(random_weights)["licence"] == "not stated"
    bound = replace(random_weights, licence="CC BY-NC 4.0")
    assert onnx_metadata(bound)["licence"] == "CC BY-NC 4.0"


def test_the_guide_works_as_written(
    shipped: Path,
    pixels: NDArray[np.uint8],
    stain: NDArray[np.float32],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code = re.search(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert code is not None
    assert "histo" not in code[1].replace("histo_version", "")
    (tmp_path / "cd8.onnx").write_bytes(shipped.read_bytes())
    Image.fromarray(pixels).save(tmp_path / "field.png")
    monkeypatch.chdir(tmp_path)
    exec(code[1], {})
    said = re.fullmatch(r"(\d+) CD8\+ cells, (\d+) other nuclei\n", capsys.readouterr().out)
    assert said is not None
    n_cd8, n_other = int(said[1]), int(said[2])

    detector = CellDetector(load_weights(), CellsConfig())
    k = detector.halo_px
    around = np.pad(stain[0], ((0, 0), (k, k), (k, k)))
    tile = Tile(0, Box(0, 0, 400, 400), Box(-k, -k, 400 + 2 * k, 400 + 2 * k))
    table = detector.detect(around, tile).table
    assert n_cd8 + n_other == pytest.approx(len(table), rel=0.1)
    # The guide takes the class of 4.5 um round the peak, the package that of the cell: one or two differ.
    assert n_cd8 == pytest.approx((table["cell_class"] == CD8).sum(), rel=0.15, abs=2)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def hide(package: str) -> None:
        real = builtins.__import__

        def missing(name: str, *args: Any, **kwargs: Any) -> Any:
            if name == package:
                raise ImportError(f"No module named {name!r}", name=name)
            return real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", missing)

    return hide


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_missing_packages_are_named(
    random_weights: Weights, tmp_path: Path, without: Callable[[str], None], package: str
) -> None:
    without(package)
    with pytest.raises(ConfigError, match=rf"{package}.*histo\[onnx\]"):
        export_onnx(random_weights, tmp_path / "none.onnx")
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(random_weights: Weights, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="cannot be written"):
        export_onnx(random_weights, tmp_path / "file" / "cd8.onnx")

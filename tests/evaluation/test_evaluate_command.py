from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from histo.cli import main
from histo.config import load_config
from histo.datasets.image import AnnotatedImage, Dataset, Item
from histo.errors import ConfigError, DatasetError
from histo.evaluation.command import KATHER2018
from histo.evaluation.rendered import rendered_image
from histo.evaluation.run import choose_items, evaluate
from histo.evaluation.summary import Evaluation
from histo.synthetic.field import FieldStyle

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rendered fields as one's own images: one with points of both classes, one with CD8+ outlines."""
    root = tmp_path_factory.mktemp("own")
    for name in ("images", "labels"):
        (root / name).mkdir()
    style = FieldStyle(context="stroma", cd8_per_mm2=900.0)
    for name, seed in (("points", 1), ("outlines", 2)):
        image = rendered_image(seed, kind="brightfield", size_px=256, mpp=0.5, style=style)
        Image.fromarray(image.pixels).save(root / "images" / f"{name}.png")
        if name == "points":
            rows = pd.DataFrame(image.points_um, columns=["x_um", "y_um"])
            rows["class"] = np.where(image.classes == 1, "cd8_positive", "other_nucleus")
            rows.to_csv(root / "labels" / "points.csv", index=False)
        else:
            positive = np.concatenate([[False], image.classes == 1])
            labels = np.where(positive[image.labels], image.labels, 0).astype(np.uint16)
            tifffile.imwrite(root / "labels" / "outlines.tif", labels)
    (root / "dataset.yaml").write_text("mpp: 0.5\ndefault_class: cd8_positive\nlicence: mine\n")
    return root


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Run `histo evaluate` and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["histo", "evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_own_images_from_the_command_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(monkeypatch, "--dataset", f"folder:{folder}", "--out", tmp_path, "--device", "cpu") == 0
    summary = Evaluation.model_validate_json((tmp_path / "summary.json").read_text())
    assert (summary.n_images, summary.n_groups, summary.part, summary.licence) == (2, 2, "all", "mine")
    cd8 = summary.scores["cd8"]
    assert cd8["f1_4um"].value is not None
    assert cd8["f1_4um"].value > 0.8
    assert cd8["f1_4um"].low is not None
    assert cd8["pq"].n_images == 1
    assert "one group" in str(cd8["pq"].no_interval)
    assert summary.scores["other"]["pq"].value is None
    table = pd.read_csv(tmp_path / "images.csv").set_index("image")
    assert set(table.index) == {"points", "outlines"}
    assert np.isnan(table.loc["points", "cd8_pq"])
    assert table.loc["outlines", "cd8_pq"] > 0.5
    assert "cells are annotated as points" in table.loc["points", "not_assessable"]
    tp, fp, fn = table[
        [f"cd8_{n}_4um" for n in ("true_positives", "false_positives", "false_negatives")]
    ].sum()
    assert cd8["f1_4um"].value == pytest.approx(2 * tp / (2 * tp + fp + fn))
    page = (tmp_path / "summary.md").read_text()
    assert "| f1_4um |" in page
    assert "cells are annotated as points" in page or "others may lie anywhere" in page
    wrong = (table["cd8_false_positives_4um"] + table["cd8_false_negatives_4um"] > 0).sum()
    assert len(list((tmp_path / "failures").glob("*.png"))) == wrong


def test_rendered_fields_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--rendered", "fields", "--n", "2", "--first-seed", "5000010", "--pictures", "1"]
    arguments += ["--device", "cpu"]
    (tmp_path / "failures").mkdir()
    (tmp_path / "failures" / "old.png").touch()
    assert run(monkeypatch, *arguments, "--out", tmp_path) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["dataset"] == "rendered brightfield"
    assert summary["edge_um"] == 16
    assert summary["clumps"]["n_true"] > 20
    assert abs(summary["clumps"]["bias"]["value"]) < 0.5
    assert summary["scores"]["all"]["f1_4um"]["value"] > 0.8
    (picture,) = (tmp_path / "failures").iterdir()
    table = pd.read_csv(tmp_path / "images.csv")
    errors = table["cd8_false_positives_4um"] + table["cd8_false_negatives_4um"]
    assert table["image"][errors.idxmax()].replace(" ", "_") in picture.name


def test_windows_of_rendered_slides_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shipped weights find the CD8+ cells of a typical slide: the floor is far below what they reach."""
    arguments = ["--rendered", "slides", "--n", "1", "--pictures", "0", "--device", "cpu"]
    assert run(monkeypatch, *arguments, "--out", tmp_path) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["dataset"] == "rendered brightfield slides"
    table = pd.read_csv(tmp_path / "images.csv")
    assert table["image"].tolist() == ["brightfield slide 5000000 primary"]
    assert summary["scores"]["cd8"]["f1_4um"]["value"] > 0.7


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "name either a dataset or --rendered"),
        (["--rendered", "fields", "--dataset", "folder:x"], "name either"),
        (["--dataset", "lysto"], "NAME:PATH"),
        (["--dataset", "nonsense:/x"], "nonsense"),
        (["--dataset", "folder:/absent"], "/absent"),
        (["--rendered", "fields", "--n", "0"], "nothing to evaluate"),
        (["--rendered", "fields", "--mpp", "0.5"], "for datasets"),
        (["--dataset", "folder:x", "--kind", "both"], "for --rendered"),
        (["--rendered", "fields", "--weights", "absent.safetensors"], "absent.safetensors"),
        (["--rendered", "fields", "--detector", "kather2018", "--weights", "w.safetensors"], "no effect"),
        (["--rendered", "fields", "--device", "abacus"], "abacus"),
    ],
)
def test_bad_usage_says_so_and_ends_with_2(
    arguments: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *arguments, "--out", tmp_path / "out") == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out" / "summary.json").exists()


def test_a_part_that_was_not_published_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset", f"folder:{folder}", "--part", "test", "--out", tmp_path / "out"]
    assert run(monkeypatch, *arguments) == 2
    assert "--part all" in capsys.readouterr().err


def broken() -> AnnotatedImage:
    raise DatasetError("its labels are cut off", path="b.png", fix="Fetch it again")


def test_images_that_cannot_be_read_are_listed_and_left_out(tmp_path: Path) -> None:
    def good() -> AnnotatedImage:
        return rendered_image(1, kind="brightfield", size_px=128, mpp=0.5)

    dataset = Dataset("two", [Item("a", "p", None, good), Item("b", "q", None, broken)], "none", None)
    steps: list[tuple[int, int]] = []
    evaluation = evaluate(
        dataset.items,
        dataset,
        load_config(),
        tmp_path,
        n_pictures=0,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert evaluation.n_images == 1
    assert [(failed.name, "cut off" in failed.error) for failed in evaluation.failed] == [("b", True)]
    assert "b: b.png: its labels are cut off" in (tmp_path / "summary.md").read_text()
    assert steps == [(0, 2), (1, 2), (2, 2)]


def test_a_brightfield_rule_refuses_fluorescence(tmp_path: Path) -> None:
    def dark() -> AnnotatedImage:
        return rendered_image(1, kind="fluorescence", size_px=64, mpp=0.5)

    dataset = Dataset("one", [Item("a", "p", None, dark)], "none", None)
    evaluation = evaluate(dataset.items, dataset, load_config(None, KATHER2018), tmp_path)
    assert "rule for brightfield" in evaluation.failed[0].error
    assert evaluation.scores["cd8"]["f1_4um"].value is None


def test_the_classical_rule_has_the_settings_of_its_configuration_file() -> None:
    assert load_config(None, KATHER2018) == load_config(ROOT / "configs" / "kather2018.yaml")


def items_of(*splits: str | None) -> Dataset:
    items = [Item(f"{i}", f"{i}", split, broken) for i, split in enumerate(splits)]  # type: ignore[arg-type]
    return Dataset("some", items, "none", None)


def test_the_test_part_is_the_default_where_there_is_one() -> None:
    published = items_of("train", "test", "validation", "test")
    items, part = choose_items(published, None)
    assert ([item.name for item in items], part) == (["1", "3"], "test")
    assert len(choose_items(published, "all")[0]) == 4
    items, part = choose_items(items_of(None, None), None)
    assert (len(items), part) == (2, "all")
    with pytest.raises(ConfigError, match="published parts: test, train, validation"):
        choose_items(published, "nonsense")


def test_some_of_the_images_are_evenly_spread() -> None:
    dataset = items_of(*[None] * 101)
    assert [item.name for item in choose_items(dataset, "all", 3)[0]] == ["0", "50", "100"]
    assert len(choose_items(dataset, "all", 500)[0]) == 101
    with pytest.raises(ConfigError, match="nothing to evaluate"):
        choose_items(dataset, "all", 0)

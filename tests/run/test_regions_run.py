"""Slides whose tumour nobody annotated: regions found on the way, or beforehand by the command."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from looking import train
from rich.console import Console

from histo.cells.detect import CellDetector
from histo.cli import main
from histo.cohort.manifest import read_manifest
from histo.config import Config, load_config
from histo.errors import ClassifierError
from histo.run.batch import run_batch
from histo.run.demo import compare
from histo.run.pipeline import SlideJob, analyse_slide
from histo.run.regions import apply_regions
from histo.synthetic.cohort import demo_cohort
from histo.synthetic.scribbles import write_scribbles
from histo.synthetic.slide import RenderedSlide

QUIET = Console(quiet=True)
SMALL = ["regions.min_border_length_um=300", "measure.min_zone_area_mm2=0.01"]


@pytest.fixture(scope="module")
def bare(rendered: RenderedSlide, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rendered slide without its annotations."""
    path = tmp_path_factory.mktemp("bare") / "small.tif"
    shutil.copy(rendered.slide, path)
    return path


@pytest.fixture(scope="module")
def tissue(rendered: RenderedSlide, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tissue")
    write_scribbles(rendered, folder / "strokes" / "small.geojson", length_um=100.0)
    train([rendered.slide], folder / "strokes", folder / "tissue.safetensors")
    return folder / "tissue.safetensors"


def test_infer_applies_the_classifier_and_says_so(
    bare: Path, tissue: Path, rendered: RenderedSlide, detector: CellDetector, tmp_path: Path
) -> None:
    config = load_config(None, [*SMALL, f"regions.classifier={tissue}"])
    job = SlideJob(path=bare, slide_id="small", folder=tmp_path / "small")
    summary, _ = analyse_slide(job, config, detector)
    assert summary.annotations is None
    assert summary.exclusion.border_length_um == pytest.approx(rendered.truth["border_length_um"], rel=0.2)
    flags = {flag.code: flag.message for flag in summary.flags}
    assert "cross-validated accuracy" in flags["classified_regions"]
    regions = json.loads((tmp_path / "small" / "regions.geojson").read_text())
    assert {"tumour", "host", "tumour border"} <= {f["properties"]["name"] for f in regions["features"]}
    # Kept as long as the classifier is the same file.
    assert analyse_slide(job, config, detector)[1]
    content = tissue.read_bytes().replace(b'\\"min_area_um2\\": 50000.0', b'\\"min_area_um2\\": 60000.0')
    assert content != tissue.read_bytes()
    before = tissue.read_bytes()
    try:
        tissue.write_bytes(content)
        assert not analyse_slide(job, config, detector)[1]
    finally:
        tissue.write_bytes(before)


def test_a_classifier_that_cannot_be_read_stops_the_run_before_it_begins(bare: Path, tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match="no such file"):
        run_batch(
            [bare],
            tmp_path / "out",
            load_config(None, ["regions.classifier=absent.safetensors"]),
            console=QUIET,
        )


def test_applied_regions_are_annotations_for_infer(
    bare: Path, tissue: Path, detector: CellDetector, tmp_path: Path
) -> None:
    assert apply_regions([bare], tissue, tmp_path / "regions", Config(), console=QUIET) == 0
    assert (tmp_path / "regions" / "small.geojson").is_file()
    job = SlideJob(bare, "small", tmp_path / "small", annotations_folder=tmp_path / "regions")
    summary, _ = analyse_slide(job, load_config(None, SMALL), detector)
    assert summary.exclusion.border_length_um is not None
    assert summary.annotations == str(tmp_path / "regions" / "small.geojson")
    assert "unmapped_annotations" not in {flag.code for flag in summary.flags}


def test_a_slide_that_cannot_be_classified_does_not_stop_the_others(
    bare: Path, tissue: Path, tmp_path: Path
) -> None:
    shutil.copy(bare, tmp_path / "a.tif")
    (tmp_path / "b.svs").write_bytes(b"no slide")
    assert apply_regions([tmp_path], tissue, tmp_path / "out", Config(), console=QUIET) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.geojson"]


def test_slides_of_one_name_are_refused(bare: Path, tissue: Path, tmp_path: Path) -> None:
    shutil.copy(bare, tmp_path / "small.tif")
    with pytest.raises(ClassifierError, match="several slides are called small"):
        apply_regions([bare, tmp_path], tissue, tmp_path / "out", Config(), console=QUIET)


def test_the_commands(
    rendered: RenderedSlide,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_scribbles(rendered, tmp_path / "strokes" / "small.geojson", length_um=100.0)

    def histo(*arguments: str | Path) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["histo", "regions", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, " ".join(capsys.readouterr().err.split())

    out = tmp_path / "t.safetensors"
    code, said = histo("train", rendered.slide, "--annotations", tmp_path / "strokes", "--out", out)
    assert (code, "leaving annotations" in said) == (0, True), said
    code, said = histo("apply", rendered.slide, "--classifier", out, "--out", tmp_path / "regions")
    assert (code, "tumour" in said) == (0, True), said
    code, said = histo("train", rendered.slide, "--annotations", tmp_path, "--out", out)
    assert (code, "none of the slides has an annotation file" in said) == (2, True), said


@pytest.mark.slow
def test_phenotypes_of_the_demo_without_any_annotation(tmp_path: Path) -> None:
    """Three strokes a class on one slide; the other five are never annotated."""
    cohort = demo_cohort(tmp_path / "cohort")
    taught = next(slide for slide in cohort.slides if slide.spec.slide_id == "P1_metastasis")
    write_scribbles(taught, tmp_path / "strokes" / "P1_metastasis.geojson")
    train([taught.slide], tmp_path / "strokes", tmp_path / "tissue.safetensors")
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    result = run_batch(
        list(cohort.slide_paths),
        tmp_path / "results",
        load_config(None, [f"regions.classifier={tmp_path / 'tissue.safetensors'}"]),
        manifest=read_manifest(cohort.manifest),
        annotations=nothing,
        console=QUIET,
    )
    for slide, row in zip(cohort.slides, result.rows, strict=True):
        comparison = compare(slide, row)
        assert comparison.passed, comparison

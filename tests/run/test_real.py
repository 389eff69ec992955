"""The main job on real files."""

from __future__ import annotations

from pathlib import Path

from histo.config import load_config
from histo.run.batch import run_batch

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def test_a_folder_of_all_sorts_is_done_or_refused_with_a_reason(data_dir: Path, tmp_path: Path) -> None:
    result = run_batch(
        [data_dir / "slides", data_dir / "ihc"], tmp_path, load_config(CONFIGS / "cd8_ihc.yaml")
    )
    rows = {Path(row.path).name: row for row in result.rows}
    done = {name for name, row in rows.items() if row.status == "done"}
    assert done == {"boxes_0.dcm", "he_cmu1_small_region.svs", "small.svs", "ki67_os2_ndpi.ome.tif"}
    for name, says in {
        "boxes.tiff": "352.778 um",
        "he_tcga_no_mpp_j2k.svs": "--mpp",
        "cd31_crc_kather.png": "--mpp",
        "corrupt_broken.svs": "no known slide format",
        "unreadable.svs": "damaged",
        "unopenable.tiff": "compression",
    }.items():
        assert says in str(rows[name].error), name
    assert "not_the_stain" in str(rows["he_cmu1_small_region.svs"].values["flags"])
    assert rows["ki67_os2_ndpi.ome.tif"].values["flags"] is None


def test_a_pixel_size_by_flag_makes_the_slide_without_one_run(data_dir: Path, tmp_path: Path) -> None:
    slide = data_dir / "slides" / "he_tcga_no_mpp_j2k.svs"
    row = run_batch([slide], tmp_path, load_config(), mpp=0.25).rows[0]
    assert (row.status, row.values["mpp_um"]) == ("done", 0.25)
    assert str(row.values["flags"]).split() == ["not_the_stain"]


def test_a_fluorescence_field_runs_and_has_its_cells(data_dir: Path, tmp_path: Path) -> None:
    field = next((data_dir / "mif").glob("FIHC4*component_data.tif"))
    row = run_batch([field], tmp_path, load_config(CONFIGS / "cd8_mif.yaml")).rows[0]
    assert row.status == "done", row.error
    n_cells, n_cd8 = row.values["n_cells"], row.values["n_cd8"]
    # Its own table has 270 cells, 6 of them cytotoxic T cells; the model card says what is off.
    assert isinstance(n_cells, int)
    assert isinstance(n_cd8, int)
    assert 270 * 0.8 < n_cells < 270 * 2
    assert 2 <= n_cd8 <= 20

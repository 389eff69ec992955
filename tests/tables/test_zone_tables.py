from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histo.errors import PixelSizeError, TableError
from histo.measure.summary import ZONES
from histo.tables.mapping import TableMapping
from histo.tables.open import open_table
from histo.tables.zones import ZONE_TABLE_COLUMNS, ZoneCount, ZoneSlide, ZoneTable, zone_frame

QUPATH_HEADER = (
    "Name\tClass\tROI\tCentroid X µm\tCentroid Y µm\tNum Negative\tNum Positive\tPositive %\t"
    "Num Positive per mm^2\tArea µm^2\tPerimeter µm\n"
)
COUNTS = st.integers(0, 10**6)


def zones_of(path: Path, **arguments: object) -> ZoneTable:
    table = open_table(path, **arguments)  # type: ignore[arg-type]
    assert isinstance(table, ZoneTable)
    return table


def write_kather(folder: Path, name: str, *rows: str, header: str = QUPATH_HEADER) -> Path:
    path = folder / name
    path.write_bytes((header + "".join(f"{row}\n" for row in rows) + "\n").encode("latin-1"))
    return path


def region(zone: str, negative: int, positive: int, area_um2: float) -> str:
    density = positive / area_um2 * 1e6
    return f"{zone}\t{zone}\tArea\t9.8\t6\t{negative}\t{positive}\t1\t{density:.4g}\t{area_um2}\tNaN"


def test_kather_text_becomes_a_slide_named_by_its_file(tmp_path: Path) -> None:
    path = write_kather(
        tmp_path,
        "CL_COAD_MET_ID_UMM_12ab_AG_CD8_code_Cat_CD8val_RESULT.txt",
        region("TU_CORE", 90, 10, 2e6),
        region("MARG_500_IN", 20, 0, 5e5),
        region("MARG_LUMEN", 7, 3, 1e5),
    )
    table = zones_of(path)
    assert table.source_format == "qupath_zones"
    row = table.frame.iloc[0]
    assert (row.slide_id, row.patient, row.stain) == ("COAD_MET_UMM_12ab_CD8", "UMM_12ab", "CD8")
    assert (row.group, row.site) == ("COAD_MET", "metastasis")
    assert (row.n_positive_core, row.n_cells_core, row.area_core_mm2) == (10, 100, 2.0)
    assert row.density_core_per_mm2 == 5.0
    assert row.density_inner_margin_per_mm2 == 0.0
    assert pd.isna(row.n_positive_far)
    assert row.not_assessable == "outer_margin: not in the table; far: not in the table"
    assert any("'MARG_LUMEN' (1 slides)" in note for note in table.notes)


def test_kather_folder_is_joined_and_a_file_without_zones_is_a_row_without_numbers(tmp_path: Path) -> None:
    write_kather(tmp_path, "CL_COAD_PRI_ID_A_AG_CD8_code_x_RESULT.txt", region("TU_CORE", 1, 1, 1e6))
    write_kather(tmp_path, "CL_MEL_ID_B_AG_CD8_code_x_RESULT.txt")
    table = zones_of(tmp_path)
    assert table.frame["slide_id"].tolist() == ["COAD_PRI_A_CD8", "MEL_B_CD8"]
    assert table.frame["site"].tolist() == ["primary", pd.NA]
    assert table.frame[[f"density_{zone}_per_mm2" for zone in ZONES]].iloc[1].isna().all()
    assert any("none of our zones: 'MEL_B_CD8'" in note for note in table.notes)
    assert any("by group: MEL (1)" in note for note in table.notes)


def test_newer_qupath_exports_name_the_image_and_zones_by_class(tmp_path: Path) -> None:
    path = tmp_path / "annotations.tsv"
    path.write_text(
        "Image\tObject type\tName\tClassification\tNum Detections\tNum Positive\tArea px^2\n"
        "a.svs\tAnnotation\t\tTumour centre\t10\t4\t1000000\n"
        "b.svs\tAnnotation\tdrawn by me\tTumour centre\t8\t2\t4000000\n",
        encoding="utf-8",
    )
    mapping = TableMapping(zones={"tumour centre": "core"})
    with pytest.raises(PixelSizeError, match=r"areas are in pixels.*mpp"):
        open_table(path, mapping=mapping)
    frame = zones_of(path, mapping=mapping, mpp=0.5).frame
    assert frame["slide_id"].tolist() == ["a.svs", "b.svs"]
    assert frame["area_core_mm2"].tolist() == [0.25, 1.0]
    assert frame["n_cells_core"].tolist() == [10, 8]
    with pytest.raises(TableError, match=r"no zone of the mapping.*'Tumour centre'"):
        open_table(path, mpp=0.5)


def test_csv_of_zones_needs_few_columns_and_takes_more(tmp_path: Path) -> None:
    path = tmp_path / "zones.csv"
    path.write_text(
        "slide,zone,n_positive,area_mm2,patient,lesion,site,stain,n_cells,grade\n"
        "s1,core,3,1.5,P1,L1,Metastasis,CD8,30,2\n"
        "s1,FAR,4,2,P1,L1,Metastasis,CD8,,2\n"
        "s2,core,,1,,,,,,\n"
        "s2,outer_margin,5,0,,,,,,\n"
    )
    table = zones_of(path)
    first, second = (table.frame.iloc[i] for i in range(2))
    assert (first.patient, first.lesion, first.site, first.stain) == ("P1", "L1", "metastasis", "CD8")
    assert (first.density_core_per_mm2, first.density_far_per_mm2, first.n_cells_core) == (2.0, 2.0, 30)
    assert pd.isna(first.n_cells_far)
    assert pd.isna(second.patient)
    assert pd.isna(second.density_core_per_mm2)
    assert pd.isna(second.density_outer_margin_per_mm2)
    assert "core: no count of positive cells" in second.not_assessable
    assert "outer_margin: no area" in second.not_assessable
    assert any("not read: 'grade'" in note for note in table.notes)


def test_regions_of_one_zone_are_added_up_and_density_is_recomputed(tmp_path: Path) -> None:
    path = tmp_path / "zones.csv"
    path.write_text(
        "slide,zone,n_positive,area_mm2,density_per_mm2\na,far,2,0.8,2.5\na,far,1,0.2,5\na,core,10,2,7\n"
    )
    table = zones_of(path)
    assert table.frame["density_far_per_mm2"].tolist() == [3.0]
    assert table.frame["density_core_per_mm2"].tolist() == [5.0]
    assert any("added up: a, far (2)" in note for note in table.notes)
    assert any("not count by area" in note and "row 3 (7, not 5)" in note for note in table.notes)


def test_no_count_with_a_density_of_zero_is_none_and_without_it_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "zones.csv"
    path.write_text(
        "slide,zone,n_positive,n_negative,area_mm2,density_per_mm2\na,core,,5,1,0\na,far,NA,5,1,\n"
    )
    table = zones_of(path)
    row = table.frame.iloc[0]
    assert (row.n_positive_core, row.n_cells_core, row.density_core_per_mm2) == (0, 5, 0.0)
    assert pd.isna(row.n_positive_far)
    assert any("taken as 0 cells: zones.csv, row 1" in note for note in table.notes)


def test_every_mistake_of_a_zone_table_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "zones.csv"
    path.write_text(
        "slide,zone,n_positive,area_mm2,site,n_cells\n"
        "a,core,1.5,1,liver,3\n"
        "b,core,-1,-1,,\n"
        "c,core,5,1,primary,3\n"
        "c,far,5,1,metastasis,9\n"
        "d,far,5,1,,\n"
        "d,far,5,1,,\n"
    )
    with pytest.raises(TableError) as error:
        open_table(path)
    for part in (
        "row 1: 1.5 positive cells is no count",
        "'liver' of slide 'a' is neither primary nor metastasis",
        "row 2: -1 positive cells",
        "row 2: an area below 0",
        "row 3: 5 positive cells of 3 cells",
        "rows of slide 'c' differ in site",
        "zone 'far' of slide 'd' is given twice, with the same numbers",
    ):
        assert part in str(error.value)


def test_missing_columns_and_slides_in_two_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("zone,n_positive,area_mm2,patient\ncore,1,1,P\n")
    with pytest.raises(TableError, match=r"slide \(or patient and stain\)"):
        open_table(path)
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("slide,zone,n_positive,area_mm2\ns,core,1,1\n")
    with pytest.raises(TableError, match=r"slide 's' is in a.csv and in b.csv"):
        open_table(tmp_path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(TableError, match="needs the columns zone, n_positive, area_mm2, slide"):
        open_table(path, format="zones")


@settings(max_examples=30)
@given(st.lists(st.tuples(COUNTS, COUNTS, st.floats(1e-3, 1e3)), min_size=1, max_size=8))
def test_what_is_written_is_what_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, float]]
) -> None:
    path = tmp_path_factory.mktemp("zones") / "zones.csv"
    lines = [
        f"s{i},core,{positive},{negative},{area!r}\n" for i, (positive, negative, area) in enumerate(rows)
    ]
    path.write_text("slide,zone,n_positive,n_negative,area_mm2\n" + "".join(lines))
    read = zones_of(path).frame
    slides = [
        ZoneSlide(f"s{i}", {"core": ZoneCount(positive, positive + negative, area)})
        for i, (positive, negative, area) in enumerate(rows)
    ]
    pd.testing.assert_frame_equal(read, zone_frame(slides))
    assert {name: str(dtype) for name, dtype in read.dtypes.items()} == ZONE_TABLE_COLUMNS


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("slide_id", "b", "there once"),
        ("site", "liver", "site"),
        ("n_positive_core", 9, "more positive"),
        ("area_core_mm2", -1.0, "below 0"),
        ("density_core_per_mm2", 1.0, "count by area"),
    ],
)
def test_a_frame_that_breaks_the_schema_is_refused(column: str, value: object, message: str) -> None:
    frame = zone_frame([ZoneSlide(name, {"core": ZoneCount(1, 2, 0.5)}) for name in "ab"])
    ZoneTable(frame, "test")
    frame.loc[0, column] = value
    with pytest.raises(ValueError, match=message):
        ZoneTable(frame, "test")
    with pytest.raises(ValueError, match="ZONE_TABLE_COLUMNS"):
        ZoneTable(frame.drop(columns=column), "test")


# Against the published table: 978 text files of QuPath, 965 of them with zones, as one CSV.


@pytest.fixture(scope="module")
def kather(data_dir: Path) -> ZoneTable:
    return zones_of(data_dir / "tables" / "kather2018_topography.csv")


def test_kather_slides_by_group_and_marker(kather: ZoneTable) -> None:
    assert kather.source_format == "zones"
    assert len(kather.frame) == 965
    n = kather.frame.groupby(["group", "stain"]).size()
    counted = {
        (group, stain): int(n[group, stain])
        for group in ("COAD_PRI", "COAD_MET")
        for stain in ("CD8", "CD3", "PD1")
    }
    assert counted == {
        ("COAD_PRI", "CD8"): 25,
        ("COAD_PRI", "CD3"): 28,
        ("COAD_PRI", "PD1"): 26,
        ("COAD_MET", "CD8"): 17,
        ("COAD_MET", "CD3"): 20,
        ("COAD_MET", "PD1"): 18,
    }
    site = kather.frame.groupby("group")["site"].first()
    assert (site["COAD_PRI"], site["COAD_MET"]) == ("primary", "metastasis")
    assert kather.frame.loc[~kather.frame["group"].isin(["COAD_PRI", "COAD_MET"]), "site"].isna().all()


def test_kather_medians_are_those_published(kather: ZoneTable) -> None:
    """Medians of CD8 per mm2 in Kather 2018 (eLife 7:e36967), from the authors' raw files."""
    cd8 = kather.frame[kather.frame["stain"] == "CD8"]
    columns = [f"density_{zone}_per_mm2" for zone in ZONES]
    medians = cd8.groupby("group")[columns].median()
    np.testing.assert_allclose(medians.loc["COAD_PRI"], [117.1, 162.1, 378.7, 56.5], atol=0.05)
    np.testing.assert_allclose(medians.loc["COAD_MET"], [29.6, 83.7, 455.6, 179.4], atol=0.05)
    # The phenotype's cut-off: pooled over core and outer margin of all slides.
    pooled = cd8[["density_core_per_mm2", "density_outer_margin_per_mm2"]].to_numpy()
    assert np.nanmedian(pooled) == pytest.approx(294.885, abs=0.01)


def test_kather_slides_that_are_not_plain_are_noted(kather: ZoneTable) -> None:
    frame = kather.frame.set_index("slide_id")
    # Two regions DISTANT_OUT: 2 cells in 0.775125 mm2 and none in 0.3204 mm2.
    assert frame.loc["STAD_11D43O_PD1", "density_far_per_mm2"] == pytest.approx(2 / (0.775125 + 0.3204))
    assert frame.loc["ESCA_A9SYCW_CD3", "not_assessable"] == "far: not in the table"
    # No positive cell anywhere: no count, and a density of 0.
    assert frame.loc["OV_ceba04_Foxp3", "n_positive_core"] == 0
    assert not any("not count by area" in note for note in kather.notes)


def test_kather_text_file_equals_its_rows_of_the_csv(kather: ZoneTable, data_dir: Path) -> None:
    name = "CL_COAD_MET_ID_15QWK5_AG_CD8_code_Cat-Ibis_CD8val_RESULT.txt"
    one = zones_of(data_dir / "tables" / name).frame
    same = kather.frame[kather.frame["slide_id"] == one["slide_id"][0]].reset_index(drop=True)
    # The CSV rounds areas to um2.
    pd.testing.assert_frame_equal(one, same, rtol=2e-6)
    assert one["n_positive_outer_margin"][0] == 2846


def test_kather_folder_of_text_files_equals_the_csv(
    kather: ZoneTable, data_dir: Path, tmp_path: Path
) -> None:
    """The rows of the CSV, written as the text files that they came from."""
    rows = pd.read_csv(data_dir / "tables" / "kather2018_topography.csv", dtype={"patient": str})
    rows = rows[rows["cancer"].str.startswith("COAD") & (rows["marker"] == "CD8")]
    for (cancer, patient), zones in rows.groupby(["cancer", "patient"]):
        write_kather(
            tmp_path,
            f"CL_{cancer}_ID_{patient}_AG_CD8_code_x_CD8val_RESULT.txt",
            *(
                region(row.zone, int(row.n_negative), int(row.n_positive), row.area_mm2 * 1e6)
                for row in zones.itertuples()
            ),
        )
    read = zones_of(tmp_path).frame
    same = kather.frame[kather.frame["slide_id"].isin(read["slide_id"])]
    assert read.groupby("group").size().to_dict() == {"COAD_MET": 17, "COAD_PRI": 25}
    pd.testing.assert_frame_equal(read, same.reset_index(drop=True), rtol=1e-9)

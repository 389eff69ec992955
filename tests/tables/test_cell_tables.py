from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from histo.config import read_settings
from histo.errors import PixelSizeError, TableError
from histo.tables.cells import CELL_TABLE_COLUMNS, CellTable
from histo.tables.mapping import TableMapping
from histo.tables.open import open_table

QUPATH = "Image\tObject type\tName\tClassification\tParent\tROI\tCentroid X µm\tCentroid Y µm\n"
QUPATH_ROWS = (
    "a.svs\tAnnotation\tregion\tTumor\tRoot object (Image)\tPolygon\t5\t5\n"
    "a.svs\tCell\t\tTumor: Positive\tAnnotation (Tumor)\tPolygon\t1.5\t2.5\n"
    "a.svs\tCell\t\tCD8: PD1\tAnnotation (Stroma)\tPolygon\t3\t4\n"
    "b.svs\tCell\t\t\tImage\tPolygon\t5\t6\n"
)
HALO = (
    "Image Location,Analysis Region,Object Id,XMin,XMax,YMin,YMax,CD8 (Opal 520) Positive Classification,"
    "CD8 (Opal 520) Positive Nucleus Classification,PanCK (Opal 690) Positive Classification,"
    "CD3+ CD8+,Cell Area (µm²),Classifier Label\n"
    "D:\\scans\\one.tif,Layer 1,0,10,20,10,30,1,0,0,1,39.25,Stroma\n"
    "D:\\scans\\one.tif,Layer 1,1,20,40,10,20,0,1,1,0,39.25,Tumor\n"
)
INFORM = (
    "Path\tSample Name\tTissue Category\tPhenotype\tCell X Position\tCell Y Position\tNucleus Area ({unit})\n"
    "C:\\x\tf_[1,2].im3\tTumor\tCytotoxic T\t10\t20\t9\n"
    "C:\\x\tf_[1,2].im3\tNecrosis\tother\t30\t40\t9\n"
    "C:\\x\tf_[1,2].im3\tBlank\tCK+\t30\t50\t9\n"
)


def cells_of(path: Path, **arguments: Any) -> CellTable:
    table = open_table(path, **arguments)
    assert isinstance(table, CellTable)
    return table


def write(folder: Path, text: str, name: str = "cells.csv", encoding: str = "utf-8") -> Path:
    path = folder / name
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


def columns(**more: Any) -> TableMapping:
    """Return a mapping of columns x, y, class of a table in um."""
    return TableMapping(unit="um", columns={"x": "x", "y": "y", "cell_class": "class", **more})  # type: ignore[arg-type]


def test_qupath_cells_with_classes_and_parents(tmp_path: Path) -> None:
    table = cells_of(write(tmp_path, QUPATH + QUPATH_ROWS), mapping=TableMapping(class_markers=("PD1",)))
    frame = table.frame
    assert (table.source_format, table.unit, table.unit_source) == ("qupath", "um", "header")
    assert frame["image_id"].tolist() == ["a.svs", "a.svs", "b.svs"]
    assert frame[["x_um", "y_um"]].to_numpy().tolist() == [[1.5, 2.5], [3, 4], [5, 6]]
    assert frame["cell_class"].tolist()[:2] == ["Tumor: Positive", "CD8: PD1"]
    assert frame["is_cd8"].tolist() == [False, True, False]
    assert frame["is_tumour"].tolist() == [True, False, False]
    assert frame["pd1_positive"].tolist() == [False, True, False]
    assert frame["region"].tolist()[:2] == ["tumour", "stroma"]
    assert pd.isna(frame["region"][2])
    assert table.markers == {"pd1_positive": "PD1 in the class"}
    assert set(table.not_assessable) == {"part", "patient"}
    for part in ("1 rows are annotations", "1 cells without a class", "'Image' are no regions"):
        assert any(part in note for note in table.notes)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1"])
@pytest.mark.parametrize("name", ["a.tsv", "a.txt.gz"])
def test_encodings_and_compression_change_nothing(tmp_path: Path, encoding: str, name: str) -> None:
    plain = cells_of(write(tmp_path, QUPATH + QUPATH_ROWS))
    other = cells_of(write(tmp_path, QUPATH + QUPATH_ROWS, name, encoding))
    pd.testing.assert_frame_equal(plain.frame, other.frame)


def test_latin_1_far_below_the_header_is_read(tmp_path: Path) -> None:
    rows = "1,2,CD8\n" * 200_000 + "1,2,Küpffer\n"
    table = cells_of(write(tmp_path, "x,y,class\n" + rows, encoding="latin-1"), mapping=columns())
    assert table.frame["cell_class"].iloc[-1] == "Küpffer"


def test_qupath_pixels_need_a_pixel_size(tmp_path: Path) -> None:
    path = write(tmp_path, "Image,Class,Centroid X px,Centroid Y px\na,CD8,100,200\n")
    with pytest.raises(PixelSizeError, match=r"positions are in pixels.*--mpp"):
        open_table(path)
    with pytest.raises(PixelSizeError, match="100 um is not the pixel size"):
        open_table(path, mpp=100)
    table = cells_of(path, mpp=0.25)
    assert (table.frame["x_um"][0], table.frame["y_um"][0], table.mpp_um) == (25.0, 50.0, 0.25)


@pytest.mark.parametrize("mangled", [False, True])
def test_halo_boxes_dyes_and_phenotypes(tmp_path: Path, mangled: bool) -> None:
    text = HALO
    if mangled:  # as R's make.names writes the header
        header, _, rows = text.partition("\n")
        names = ["".join(c if c.isascii() and (c.isalnum() or c in "._") else "." for c in name)
                 for name in header.split(",")]  # fmt: skip
        text = ",".join(names) + "\n" + rows
    table = cells_of(write(tmp_path, text), mpp=0.5)
    frame = table.frame
    assert table.source_format == "halo"
    assert frame["image_id"].unique().tolist() == ["one.tif"]
    assert frame["part"].unique().tolist() == ["Layer 1"]
    assert frame[["x_um", "y_um"]].to_numpy().tolist() == [[7.5, 10.0], [15.0, 7.5]]
    assert frame["is_cd8"].tolist() == [True, False]
    assert frame["is_tumour"].tolist() == [False, True]
    assert frame["region"].tolist() == ["stroma", "tumour"]
    # R loses the signs of a phenotype: without HALO's list of inputs it cannot be told what "CD3..CD8." was.
    assert ("cd3_cd8_positive" in table.markers) is not mangled
    assert frame["panck_positive"].tolist() == [False, True]
    assert table.not_assessable["cell_class"] == "the table has no column of classes"
    with pytest.raises(PixelSizeError, match="positions are in pixels"):
        open_table(tmp_path / "cells.csv")


def test_halo_areas_that_contradict_the_pixel_size_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(PixelSizeError, match="314% of its bounding box"):
        open_table(write(tmp_path, HALO), mpp=0.25)
    with pytest.raises(PixelSizeError, match="20% of its bounding box"):
        open_table(write(tmp_path, HALO), mpp=1.0)


def test_halo_phenotypes_alone_tell_cd8_and_names_choose_among_them(tmp_path: Path) -> None:
    header = "Image Location,XMin,XMax,YMin,YMax,CD3+ CD8+,CD8+ PD1+,CK+\n"
    text = header + "a,0,2,0,2,0,1,0\na,0,2,0,2,1,0,0\na,0,2,0,2,0,0,1\n"
    path = write(tmp_path, text)
    assert cells_of(path, mpp=0.5).frame["is_cd8"].tolist() == [True, True, False]
    strict = TableMapping(cd8=("cd3+ cd8+",))
    assert cells_of(path, mpp=0.5, mapping=strict).frame["is_cd8"].tolist() == [False, True, False]


def test_halo_markers_of_like_names_stay_apart(tmp_path: Path) -> None:
    header = (
        "Image Location,XMin,XMax,YMin,YMax,CD8 (Opal 520) Positive,CD8+,CD3- CD8+,CD3+ CD8+,CD8+ Cell Area\n"
    )
    table = cells_of(write(tmp_path, header + "a,0,2,0,2,1,0,1,0,41.5\n"), mpp=0.5)
    assert table.markers == {
        "cd8_positive": "CD8 (Opal 520) Positive",
        "cd8_positive_2": "CD8+",
        "cd3_neg_cd8_positive": "CD3- CD8+",
        "cd3_cd8_positive": "CD3+ CD8+",
    }
    assert table.frame["is_cd8"].tolist() == [True]


def test_stated_positions_overrule_those_of_a_format(tmp_path: Path) -> None:
    path = write(tmp_path, HALO)
    mapping = TableMapping(columns={"x": "XMin", "y": "YMax"}, unit="um")  # type: ignore[arg-type]
    table = cells_of(path, format="halo", mapping=mapping)
    assert table.frame[["x_um", "y_um"]].to_numpy().tolist() == [[10, 30], [20, 20]]
    assert table.frame["is_cd8"].tolist() == [True, False]


def test_images_of_one_name_in_two_folders_stay_apart(tmp_path: Path) -> None:
    path = write(
        tmp_path, "Image Location,XMin,XMax,YMin,YMax,CD8 Positive\nA\\s.svs,0,2,0,2,1\nB\\s.svs,0,2,0,2,1\n"
    )
    assert cells_of(path, mpp=0.5).frame["image_id"].tolist() == ["A\\s.svs", "B\\s.svs"]


def test_inform_takes_its_unit_from_the_header(tmp_path: Path) -> None:
    um = cells_of(write(tmp_path, INFORM.format(unit="square microns")))
    assert (um.source_format, um.unit, um.unit_source) == ("inform", "um", "header")
    assert um.frame["x_um"].tolist() == [10, 30, 30]
    assert um.frame["is_cd8"].tolist() == [True, False, False]
    assert um.frame["is_tumour"].tolist() == [False, False, True]
    assert um.frame["region"].tolist()[:2] == ["tumour", "necrosis"]
    assert pd.isna(um.frame["region"][2])
    px = write(tmp_path, INFORM.format(unit="pixels"))
    with pytest.raises(PixelSizeError, match="in pixels"):
        open_table(px)
    assert cells_of(px, mpp=0.5).frame["x_um"].tolist() == [5, 15, 15]
    neither = write(tmp_path, INFORM.format(unit="percent"))
    with pytest.raises(PixelSizeError, match="in what unit"):
        open_table(neither)
    assert cells_of(neither, mapping=TableMapping(unit="um")).unit_source == "mapping"


def test_a_pixel_size_that_is_not_needed_is_not_used(tmp_path: Path) -> None:
    table = cells_of(write(tmp_path, QUPATH + QUPATH_ROWS), mpp=0.25)
    assert table.frame["x_um"][0] == 1.5
    assert table.mpp_um is None
    assert any("not needed" in note for note in table.notes)


def test_inform_phenotypes_by_marker(tmp_path: Path) -> None:
    text = (
        "Sample Name\tPhenotype CD8\tPhenotype CK\tCell X Position\tCell Y Position\tArea (square microns)\n"
    )
    table = cells_of(
        write(tmp_path, text + "a\tCD8+\tCK-\t1\t2\t3\na\tCD8-\tCK+\t1\t2\t3\na\t\tCK+\t1\t2\t3\n")
    )
    assert table.frame["is_cd8"].tolist() == [True, False, pd.NA]
    assert table.frame["is_tumour"].tolist() == [False, True, True]


def test_stated_columns_as_csv_and_parquet(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "x": [1, 2, 3],
            "y": [4.0, 5.0, 6.0],
            "who": ["P1", "P1", "P2"],
            "field": ["1", "1", "2"],
            "tissue": ["Tumor", "stroma", "glass"],
            "cd8": [1.0, 0.0, np.nan],
            "PD1": [0.2, 7.0, np.nan],
        }
    )
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    mapping = TableMapping(
        unit="px",
        columns={  # type: ignore[arg-type]
            "x": "x",
            "y": "y",
            "patient": "who",
            "image": "field",
            "region": "tissue",
            "markers": {"CD8": "cd8"},
            "positive_above": {"PD1": 5},
        },
    )
    tables = [cells_of(tmp_path / name, mapping=mapping, mpp=2.0) for name in ("a.csv", "a.parquet")]
    pd.testing.assert_frame_equal(tables[0].frame, tables[1].frame)
    read = tables[0].frame
    assert list(read.columns) == [*CELL_TABLE_COLUMNS, "cd8_positive", "pd1_positive"]
    assert read["x_um"].tolist() == [2, 4, 6]
    assert read["patient"].tolist() == ["P1", "P1", "P2"]
    assert read["is_cd8"].tolist() == [True, False, pd.NA]
    assert read["pd1_positive"].tolist() == [False, True, pd.NA]
    assert read["is_tumour"].isna().all()
    assert tables[0].not_assessable["is_tumour"] == "no class and no marker of the table means tumour"


def test_positions_without_unit_are_refused_and_headers_can_state_it(tmp_path: Path) -> None:
    path = write(tmp_path, "x,y,class\n1,2,CD8\n")
    mapping = TableMapping(columns={"x": "x", "y": "y", "cell_class": "class"})  # type: ignore[arg-type]
    with pytest.raises(PixelSizeError, match=r"does not say in what unit.*unit: um"):
        open_table(path, mapping=mapping)
    assert cells_of(path, mapping=mapping, mpp=0.5).unit_source == "mpp"
    stated = TableMapping(columns={"x": "x_um", "y": "y_um", "cell_class": "class"})  # type: ignore[arg-type]
    assert cells_of(write(tmp_path, "x_um,y_um,class\n1,2,CD8\n"), mapping=stated).unit_source == "header"


@settings(max_examples=30)
@given(
    st.lists(st.tuples(*[st.floats(-1e5, 1e5)] * 2), min_size=1, max_size=20),
    st.floats(0.05, 5.0),
)
def test_pixels_and_um_are_the_same_places(
    tmp_path_factory: pytest.TempPathFactory, points: list[tuple[float, float]], mpp: float
) -> None:
    path = tmp_path_factory.mktemp("cells") / "cells.csv"
    path.write_text("x,y,class\n" + "".join(f"{x!r},{y!r},CD8\n" for x, y in points))
    um = cells_of(path, mapping=columns()).frame[["x_um", "y_um"]].to_numpy()
    px = cells_of(path, mapping=columns().model_copy(update={"unit": "px"}), mpp=mpp).frame
    assert um.tolist() == [list(point) for point in points]
    np.testing.assert_allclose(px[["x_um", "y_um"]].to_numpy(), um * mpp)


def test_folder_of_one_format_is_joined(tmp_path: Path) -> None:
    for name, text in (("a", "CD8"), ("b", "B cell")):
        write(tmp_path, f"Image,Class,Centroid X µm,Centroid Y µm\n{name}.svs,{text},1,2\n", f"{name}.csv")
    table = cells_of(tmp_path)
    # A slide without any CD8+ cell is one, not an error, where others show what the class is called.
    assert table.frame["is_cd8"].tolist() == [True, False]
    assert len(table.sources) == 2
    with pytest.raises(TableError, match=r"no class and no marker of the table means CD8.*'B cell'"):
        open_table(tmp_path / "b.csv")
    alone = cells_of(tmp_path / "b.csv", mapping=TableMapping(allow_no_cd8=True))
    assert alone.frame["is_cd8"].tolist() == [False]


def test_folder_with_an_image_twice_is_refused(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        write(tmp_path, "Image,Class,Centroid X µm,Centroid Y µm\ns.svs,CD8,1,2\n", name)
    with pytest.raises(TableError, match=r"'s.svs' in a.csv and b.csv"):
        open_table(tmp_path)


def test_folder_of_several_formats_asks_which(tmp_path: Path) -> None:
    write(tmp_path, QUPATH + QUPATH_ROWS, "a.tsv")
    write(tmp_path, HALO, "b.csv")
    with pytest.raises(TableError, match=r"several formats \(qupath: 'a.tsv'; halo: 'b.csv'\)"):
        open_table(tmp_path)
    table = cells_of(tmp_path, format="halo", mpp=0.5)
    assert any("left out: 'a.tsv'" in note for note in table.notes)
    with pytest.raises(TableError, match="no file of the folder is of format inform"):
        open_table(tmp_path, format="inform")


def test_markers_that_some_files_lack_are_unknown_there(tmp_path: Path) -> None:
    write(tmp_path, "Image Location,XMin,XMax,YMin,YMax,CD8 Positive,PD1 Positive\na,0,2,0,2,1,1\n", "a.csv")
    write(tmp_path, "Image Location,XMin,XMax,YMin,YMax,CD8 Positive\nb,0,2,0,2,1\n", "b.csv")
    table = cells_of(tmp_path, mpp=0.5)
    assert table.frame["pd1_positive"].tolist() == [True, pd.NA]
    assert any("not all files have" in note and "'PD1'" in note for note in table.notes)


@pytest.mark.parametrize(
    ("text", "cd8", "tumour"),
    [
        ("CD8", True, False),
        ("cd8+", True, False),
        ("CD8+ T cells", True, False),
        ("CD8 T-cell", True, False),
        ("Cytotoxic T", True, False),
        ("CD3+CD8+PD1-", True, False),
        ("CD8+ cell", True, False),
        ("CD3- CD8+", True, False),
        ("CD3+CD8-", False, False),
        ("CD8-", False, False),
        ("CD8 negative", False, False),
        ("CD80", False, False),
        ("CD8: Negative", pd.NA, False),
        ("CK-CD8+", pd.NA, pd.NA),
        ("Tumor", False, True),
        ("Tumor: Negative", False, True),
        ("Tumour cells", False, True),
        ("CK+", False, True),
        ("Non-tumor", False, False),
        ("Tumor-infiltrating lymphocyte", False, pd.NA),
        ("CD8: Tumor", True, True),
    ],
)
def test_what_a_class_means(tmp_path: Path, text: str, cd8: object, tumour: object) -> None:
    # One class of each kind beside it, so that both kinds are known.
    path = write(tmp_path, f'x,y,class\n1,2,CTL\n1,2,carcinoma\n1,2,"{text}"\n')
    table = cells_of(path, mapping=columns())
    row = table.frame.iloc[2]
    assert row["is_cd8"] is cd8 or row["is_cd8"] == cd8
    assert row["is_tumour"] is tumour or row["is_tumour"] == tumour
    if cd8 is pd.NA:
        assert any("cannot be told" in note and "not_cd8" in note for note in table.notes)
        stated = columns().model_copy(update={"not_cd8": (text,)})
        assert not cells_of(path, mapping=stated).frame["is_cd8"][2]
        stated = columns().model_copy(update={"cd8": ("CTL", text)})
        assert cells_of(path, mapping=stated).frame["is_cd8"][2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("\n\n", "the file is empty"),
        ("\nx,y,class\n1,2,CD8\n", "the first line is empty"),
        ("x,y,class\n", "the table has no cells"),
        ("x,y,class,class\n1,2,CD8,CD8\n", "two columns have the same name: 'class'"),
        ("x,y,label\n1,2,CD8\n", "no column 'class' .columns: 'x', 'y', 'label'"),
        ("x,y,class\n1,2,CD8,9\n3,4,CD8,9\n", "names 3 columns, but line 2 has 4 values; line 3 has 4"),
        ("x,y,class\n1,2\n", "line 2 has 2 values"),
        ("x,y,class\n1,2,CD8\nNaN,2,CD8\n,2,CD8\n", "2 of 3 cells have no position .rows 2, 3"),
        ("x,y,class\n1,2,CD8\n1,inf,CD8\n", "1 of 2 cells have no position"),
        ("x,y,class\n1,2,CD8\nfar,2,CD8\n", "column 'x' has values that are no numbers .row 2: 'far'"),
        ("x;y;class\n1,5;2,5;CD8\n", "row 1: '1,5'.*decimal: ','"),
        ("x,y,class\n1,2,B\n", "means CD8 .classes: 'B'.*mapping.cd8"),
    ],
)
def test_bad_tables_say_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(TableError, match=message) as error:
        open_table(write(tmp_path, text), mapping=columns())
    assert error.value.path is not None


def test_decimal_commas_are_read_where_stated(tmp_path: Path) -> None:
    mapping = columns().model_copy(update={"decimal": ","})
    frame = cells_of(write(tmp_path, "x;y;class\n1,5;-2,25;CD8\n"), mapping=mapping).frame
    assert frame[["x_um", "y_um"]].to_numpy().tolist() == [[1.5, -2.25]]


@pytest.mark.parametrize("rows", [10, 200_000])
def test_truncated_gzip_is_an_error(tmp_path: Path, rows: int) -> None:
    lines = "".join(f"{i},{i * 7 % 1000},CD8\n" for i in range(rows))
    path = write(tmp_path, "x,y,class\n" + lines, "cells.csv.gz")
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(TableError, match=r"cannot be read.*cut short"):
        open_table(path, mapping=columns())


def test_other_unreadable_files_are_errors(tmp_path: Path) -> None:
    for name, data in (
        ("a.parquet", b"PAR1 no"),
        ("a.csv.gz", b"\x1f\x8b\x08 no"),
        ("b.csv.gz", b"x,y\n1,2\n"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(TableError, match="cannot be read"):
            open_table(tmp_path / name, mapping=columns())
    path = write(tmp_path, "x,y,class\n1,2,CD8\n", encoding="utf-16")
    with pytest.raises(TableError, match="UTF-16"):
        open_table(path, mapping=columns())
    with pytest.raises(TableError, match="no such file"):
        open_table(tmp_path / "absent.csv")
    with pytest.raises(TableError, match="no format 'xlsx'"):
        open_table(path, format="xlsx")  # type: ignore[arg-type]
    (tmp_path / "empty").mkdir()
    with pytest.raises(TableError, match="holds no table"):
        open_table(tmp_path / "empty")


def test_every_bad_file_of_a_folder_is_listed(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        write(tmp_path, "Image,Class,Centroid X px,Centroid Y px\na,CD8,1,2\n", name)
    with pytest.raises(TableError, match=r"2 tables cannot be read.*a\.csv.*b\.csv"):
        open_table(tmp_path)
    write(tmp_path, "", "c.csv")
    write(tmp_path, "p,q\n1,2\n", "d.csv")
    with pytest.raises(
        TableError, match=r"2 tables cannot be read.*c\.csv: the file is empty.*d\.csv: the header"
    ):
        open_table(tmp_path)


def test_unknown_and_ambiguous_headers_are_listed(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"no known format \(columns: 'a', 'b'\).*mapping\.columns"):
        open_table(write(tmp_path, "a,b\n1,2\n"))
    both = write(tmp_path, "Centroid X µm,Centroid Y µm,XMin,XMax,YMin,YMax,Class\n1,2,0,2,1,3,CD8\n")
    with pytest.raises(TableError, match="several formats: qupath, halo"):
        open_table(both)
    assert cells_of(both, format="qupath").frame["x_um"].tolist() == [1.0]
    with pytest.raises(TableError, match="lacks Cell X Position"):
        open_table(both, format="inform")
    with pytest.raises(TableError, match=r"mapping\.columns\.x"):
        open_table(both, format="columns")


def test_images_of_several_patients_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "x,y,class,image,who\n1,2,CD8,1,P1\n1,2,CD8,1,P2\n")
    with pytest.raises(TableError, match=r"images of more than one patient: '1' \(2 patients\)"):
        open_table(path, mapping=columns(image="image", patient="who"))


def test_columns_that_do_not_say_yes_or_no_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "x,y,class,CD8\n1,2,a,812.5\n1,2,a,3\n")
    with pytest.raises(TableError, match=r"positive for CD8, but holds '812.5', '3'.*positive_above"):
        open_table(path, mapping=columns(markers={"CD8": "CD8"}))


def test_a_mapping_is_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "mapping.yaml"
    path.write_text("unit: um\ncolumns: {x: x, y: y, cell_class: class}\n")
    mapping = read_settings(TableMapping, path, ["cd8=[Immune1]"])
    assert mapping == columns().model_copy(update={"cd8": ("Immune1",)})


def test_a_column_cannot_be_an_intensity_and_a_text(tmp_path: Path) -> None:
    path = write(tmp_path, "x,y,class\n1,2,3\n")
    with pytest.raises(TableError, match="'class' are to be both numbers and texts"):
        open_table(path, mapping=columns(positive_above={"class": 2}))


def test_mappings_are_checked() -> None:
    with pytest.raises(ValidationError, match="x and y go together"):
        TableMapping(columns={"x": "x"})  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="regions"):
        TableMapping(regions={"a": "lung"})  # type: ignore[dict-item]


# Real files.


def test_spiat_cells(data_dir: Path) -> None:
    """SPIAT's `defined_image`: 4,951 simulated cells; counts as in its documentation."""
    mapping = TableMapping(
        unit="um",
        cd8=("Immune1",),
        columns={"x": "x", "y": "y", "image": "sample_id", "cell_class": "Cell.Type"},  # type: ignore[arg-type]
    )
    table = cells_of(data_dir / "tables" / "spiat_defined_image_cells.csv", mapping=mapping)
    frame = table.frame
    assert frame["cell_class"].value_counts().to_dict() == {
        "Others": 2986,
        "Tumour": 819,
        "Immune3": 630,
        "Immune1": 338,
        "Immune2": 178,
    }
    assert (frame["is_cd8"].sum(), frame["is_tumour"].sum(), frame["image_id"].nunique()) == (338, 819, 1)
    assert frame["x_um"].min() == pytest.approx(0.1870, abs=5e-5)
    assert frame["y_um"].max() == pytest.approx(1998.9922, abs=5e-5)


def test_mxfda_cells(data_dir: Path) -> None:
    given_columns = {
        "x": "x",
        "y": "y",
        "patient": "patient_id",
        "region": "tissue_category",
        "markers": {"CD8": "phenotype_cd8", "CK": "phenotype_ck"},
    }
    path = data_dir / "tables" / "mxfda_lung_cells.csv.gz"
    with pytest.raises(TableError, match=r"'1' \(50 patients\)"):
        open_table(path, mapping=TableMapping(unit="um", columns={**given_columns, "image": "image_id"}))  # type: ignore[arg-type]
    mapping = TableMapping(unit="um", columns={**given_columns, "image": "patientImage_id"})  # type: ignore[arg-type]
    frame = cells_of(path, mapping=mapping).frame
    assert len(frame) == 285_412
    assert (frame["patient"].nunique(), frame["image_id"].nunique()) == (50, 247)
    assert (frame["is_cd8"].sum(), frame["is_tumour"].sum()) == (11_775, 187_373)
    assert frame["region"].value_counts().to_dict() == {"tumour": 285_412}


def test_halo_cells_of_spatialtime(data_dir: Path) -> None:
    table = cells_of(data_dir / "tables" / "spatialtime_halo_tma1.csv.gz", mpp=0.5)
    frame = table.frame
    assert (len(frame), table.source_format, frame["image_id"].unique().tolist()) == (
        3803,
        "halo",
        ["TMA1_[3,B].tif"],
    )
    assert frame["is_cd8"].sum() == 7
    assert frame["region"].value_counts().to_dict() == {"tumour": 3611, "stroma": 192}
    # Phenotypes, whose names are in HALO's list of inputs.
    positive = {
        name: int(frame[name].sum()) for name in ("cd3_positive", "foxp3_positive", "cd3_cd8_positive")
    }
    assert positive == {"cd3_positive": 17, "foxp3_positive": 3, "cd3_cd8_positive": 3}
    assert table.markers["cd3_pd_l1_positive"] == "CD3..PD.L1."
    assert (frame["x_um"][0], frame["y_um"][0]) == ((1290 + 1312) / 4, (2393 + 2409) / 4)


def test_inform_cells_of_phenoptr(data_dir: Path) -> None:
    path = data_dir / "mif" / "FIHC4__0929309_HP_IM3_2_cell_seg_data.txt"
    with pytest.raises(PixelSizeError, match="in pixels"):
        open_table(path)
    frame = cells_of(path, mpp=0.5).frame
    assert frame["cell_class"].value_counts().to_dict() == {"B": 249, "Helper T": 15, "Cytotoxic T": 6}
    assert frame["is_cd8"].sum() == 6
    assert frame["x_um"].max() == 171.0
    assert frame["region"].unique().tolist() == ["tumour"]


def test_scimap_intensities_tell_nothing_until_a_limit_is_given(data_dir: Path) -> None:
    path = data_dir / "tables" / "scimap_example_cells.csv"
    places = {"x": "X_position", "y": "Y_position"}
    table = cells_of(path, mpp=0.65, mapping=TableMapping(columns=places))  # type: ignore[arg-type]
    assert len(table.frame) == 3029
    assert table.frame["is_cd8"].isna().all()
    assert table.not_assessable["is_cd8"] == "the table has no classes and no markers"
    gated = TableMapping(columns={**places, "positive_above": {"CD8A": 1500}})  # type: ignore[arg-type]
    above = (pd.read_csv(path)["CD8A"] > 1500).to_numpy()
    assert (cells_of(path, mpp=0.65, mapping=gated).frame["is_cd8"].to_numpy(bool) == above).all()

from __future__ import annotations

from pathlib import Path

import pytest

from histo.cohort.manifest import read_manifest
from histo.errors import ConfigError


def write(path: Path, text: str) -> Path:
    file = path / "cohort.csv"
    file.write_text(text, encoding="utf-8")
    return file


def test_rows_are_found_by_name_with_or_without_extension(tmp_path: Path) -> None:
    manifest = read_manifest(
        write(tmp_path, "slide,patient,site,mpp_um,chemo\na,P1,Primary,0.25,yes\nb.svs,P1,metastasis,,\n")
    )
    a, b = manifest.row_for(Path("x/a.tif")), manifest.row_for(Path("x/b.svs"))
    assert a is not None
    assert b is not None
    assert (a.patient, a.site, a.mpp_um, dict(a.covariates)) == ("P1", "primary", 0.25, {"chemo": "yes"})
    assert (b.site, b.mpp_um, dict(b.covariates)) == ("metastasis", None, {})
    assert manifest.row_for(Path("c.svs")) is None
    assert manifest.unused([Path("a.tif")]) == ["b.svs"]


def test_semicolons_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, "\ufeffSlide;Patient\na;P1\n"))
    assert manifest.rows["a"].patient == "P1"


def test_growth_patterns_and_treatment(tmp_path: Path) -> None:
    manifest = read_manifest(
        write(tmp_path, "slide,growth_pattern,treatment\na,D,none\nb,Replacement,FOLFOX\nc,,\n")
    )
    assert [manifest.rows[name].growth_pattern for name in "abc"] == ["desmoplastic", "replacement", None]
    assert [manifest.rows[name].treatment for name in "abc"] == ["none", "FOLFOX", None]
    assert not manifest.names_sites


def test_a_lesion_has_one_site_but_patients_may_number_theirs_alike(tmp_path: Path) -> None:
    columns = "slide,patient,lesion,site\n"
    read_manifest(write(tmp_path, columns + "a,P1,L1,primary\nb,P2,L1,metastasis\n"))
    with pytest.raises(ConfigError, match="line 3: lesion 'L1' is metastasis, before it was primary"):
        read_manifest(write(tmp_path, columns + "a,P1,L1,primary\nb,P1,L1,metastasis\n"))


def test_every_mistake_is_listed_with_its_line(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "slide,site,mpp_um,growth_pattern\na,lung,0.25,\na,primary,0.5,\n,primary,,\nb,primary,small,x\nc,,7,\n",
    )
    with pytest.raises(ConfigError) as error:
        read_manifest(path)
    text = str(error.value)
    for part in (
        "line 2: site 'lung'",
        "line 3: slide 'a' is named twice",
        "line 4: no slide",
        "line 5: mpp_um",
        "line 5: growth_pattern 'x'",
        "line 6: mpp_um 7 is outside",
    ):
        assert part in text


def test_a_manifest_without_slides_or_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no column 'slide'"):
        read_manifest(write(tmp_path, "name,patient\na,P1\n"))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_manifest(tmp_path / "absent.csv")


def test_lines_with_more_values_than_columns_are_refused(tmp_path: Path) -> None:
    """Each line has one value too many: read as they come, every column would hold its neighbour's values."""
    path = tmp_path / "manifest.csv"
    path.write_text("slide,patient\na.svs,P1,x\nb.svs,P2,y\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_manifest(path)


def test_slides_of_another_stain_are_another_run(tmp_path: Path) -> None:
    rows = "slide,stain\na.tif,cd8_ihc\nb.tif,cd8_ihc\na.ome.tif,cd8_mif\n"
    manifest = read_manifest(write(tmp_path, rows))
    assert manifest.unused([Path("a.tif")]) == ["b.tif"]
    assert manifest.unused([Path("c.tif")]) == ["a.tif", "b.tif", "a.ome.tif"]

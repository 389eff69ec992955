"""Tables of other programs as cohorts: cells without tissue, zones with a manifest."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from histo.cli import app
from histo.cohort.summary import CohortSummary


def run(*arguments: object):
    few = ["--set", "bootstrap_samples=300", "--set", "permutations=199"]
    return CliRunner().invoke(app, ["cohort", *map(str, arguments), *few])


def cells(rng: np.random.Generator, image: str, mixed: bool) -> pd.DataFrame:
    """A field of 800 um: tumour cells on the left; CD8+ cells everywhere, or on the right only."""
    x, y = rng.uniform(0, 800, (2, 900))
    tumour = (x < 400) & (rng.random(900) < 0.7)
    cd8 = ~tumour & (rng.random(900) < 0.3) & (mixed | (x > 400))
    names = np.select([tumour, cd8], ["Tumor", "CD8"], "Other")
    return pd.DataFrame({"image": image, "x": x, "y": y, "class": names})


@pytest.fixture
def fields(tmp_path):
    rng = np.random.default_rng(8)
    parts, lines = [], ["slide,patient,site"]
    for i in range(7):
        for site in ("primary", "metastasis"):
            parts.append(cells(rng, f"{site}{i}", mixed=site == "primary"))
            lines.append(f"{site}{i},P{i},{site}")
    table, manifest, mapping = (tmp_path / name for name in ("cells.csv", "cohort.csv", "mapping.yaml"))
    pd.concat(parts).to_csv(table, index=False)
    manifest.write_text("\n".join(lines) + "\n")
    mapping.write_text("unit: um\ncolumns: {x: x, y: y, image: image, cell_class: class}\n")
    return table, manifest, mapping


def test_cells_of_fields_are_measured_and_compared(fields, tmp_path):
    table, manifest, mapping = fields
    out = tmp_path / "out"
    result = run(
        table,
        "--manifest",
        manifest,
        "--mapping",
        mapping,
        "--out",
        out,
        "--set",
        "primary_measure=cross_g_20um",
    )
    assert result.exit_code == 0, result.output
    summary = CohortSummary.model_validate_json((out / "cohort.json").read_bytes())
    (stain,) = summary.stains
    assert (stain.design, stain.n_pairs) == ("paired", 7)
    declared = next(c for c in stain.comparisons if c.is_primary_measure)
    # Apart, fewer CD8+ cells have a tumour nucleus near.
    assert declared.shift.high < -0.1
    assert "density, tumour core" in stain.not_measured
    assert stain.count_model.not_assessable
    assert any("within 30 um of a cell" in note for note in summary.notes)
    # 800 um squares of cells 30 um apart at most: nearly all of them is tissue.
    density = next(c for c in stain.comparisons if c.measure == "density_per_mm2")
    assert density.groups[0].median == pytest.approx(900 * 0.65 * 0.3 / 0.70, rel=0.15)
    # The tumour cells' own region stands for a border: 0.3 * 0.3 of the cells in it are CD8+, or none.
    inside = next(c for c in stain.comparisons if c.measure == "cd8_share_infiltrated")
    primary, metastasis = inside.groups
    assert primary.median == pytest.approx(0.09, abs=0.03)
    assert metastasis.median == 0


def test_images_that_the_manifest_does_not_name_are_told(fields, tmp_path):
    table, manifest, mapping = fields
    manifest.write_text("\n".join(manifest.read_text().splitlines()[:-2]) + "\n")
    out = tmp_path / "out"
    arguments = (table, "--manifest", manifest, "--mapping", mapping, "--out", out)
    assert run(*arguments, "--set", "primary_measure=cd8_ann_index").exit_code == 0
    summary = CohortSummary.model_validate_json((out / "cohort.json").read_bytes())
    assert {(row.name, row.reason) for row in summary.excluded} == {
        ("primary6", "not in the manifest"),
        ("metastasis6", "not in the manifest"),
    }


def test_zones_take_patients_and_sites_from_a_manifest(tmp_path):
    rng = np.random.default_rng(2)
    rows, lines = ["slide,zone,n_positive,area_mm2"], ["slide,patient,site"]
    for i in range(12):
        site = "primary" if i < 6 else "metastasis"
        for zone in ("core", "outer_margin"):
            mean = 40 if (site, zone) == ("metastasis", "core") else 400
            rows.append(f"s{i},{zone},{rng.poisson(mean)},2")
        lines.append(f"s{i},P{i},{site}")
    table, manifest = tmp_path / "zones.csv", tmp_path / "cohort.csv"
    table.write_text("\n".join(rows) + "\n")
    manifest.write_text("\n".join(lines) + "\n")
    out = tmp_path / "out"
    result = run(table, "--manifest", manifest, "--out", out)
    assert result.exit_code == 0, result.output
    stain = CohortSummary.model_validate_json((out / "cohort.json").read_bytes()).stains[0]
    declared = next(c for c in stain.comparisons if c.is_primary_measure)
    assert stain.design == "unpaired"
    assert declared.shift.value == pytest.approx(np.log2(0.1), abs=0.4)
    assert declared.p == pytest.approx(2 / 924)  # the most extreme of all arrangements of 6 and 6
    assert "density, far tissue" in stain.not_measured

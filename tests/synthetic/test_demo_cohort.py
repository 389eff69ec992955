"""The demo cohort: paired, with phenotypes that are off the cut-off."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest

from histo.config import load_config
from histo.synthetic.cohort import demo_cohort, demo_mif_specs, demo_specs
from histo.synthetic.slide import PHENOTYPE_CUTOFF_PER_MM2


def test_specs_are_paired_and_trend_as_published():
    specs = demo_specs(seed=3)
    frame = pd.DataFrame(
        [{"patient": s.slide_id[:2], "site": s.site, "mpp": s.mpp, "ph": s.phenotype} for s in specs]
    )
    assert len(specs) == 6
    assert set(frame.groupby("patient").site.agg(frozenset)) == {frozenset({"primary", "metastasis"})}
    assert set(frame.ph) == {"inflamed", "excluded", "desert"}
    assert sorted(frame.mpp.unique()) == [0.25, 0.5]
    assert frame[frame.site == "metastasis"].ph.isin(["excluded", "desert"]).all()
    by_patient = {(s.slide_id[:2], s.site): s.cd8_per_mm2.core for s in specs}
    assert all(by_patient[p, "metastasis"] < 0.5 * by_patient[p, "primary"] for p in ("P1", "P2", "P3"))
    assert len({s.seed for s in specs} | {s.seed for s in demo_specs(seed=4)}) == 12


@pytest.mark.parametrize("spec", demo_specs(), ids=lambda s: s.slide_id)
def test_densities_are_off_the_cutoff(spec):
    """What decides the phenotype is at least 35 % away from it."""
    aimed = spec.cd8_per_mm2
    core = aimed.core / PHENOTYPE_CUTOFF_PER_MM2
    outer = aimed.outer_margin / PHENOTYPE_CUTOFF_PER_MM2
    if spec.phenotype == "inflamed":
        assert core > 1.35
    else:
        assert core < 0.65
        assert outer > 1.35 if spec.phenotype == "excluded" else outer < 0.65


def test_cohort_on_disk(tmp_path):
    """Coarser and smaller than the real demo, with the same layout on disk."""
    specs = [replace(spec, size_um=(1900.0, 620.0), mpp=1.0) for spec in demo_specs(seed=2)[:2]]
    mif_specs = [replace(spec, size_um=(1900.0, 620.0), mpp=1.0) for spec in demo_mif_specs(seed=2)[:2]]
    made = demo_cohort(tmp_path, specs=specs, mif_specs=mif_specs)
    manifest = pd.read_csv(made.manifest)
    assert list(manifest.columns) == ["slide", "patient", "lesion", "site", "stain", "mpp_um"]
    names = {stain: list(rows.slide) for stain, rows in manifest.groupby("stain")}
    assert [made.slides_folder / name for name in names["cd8_ihc"]] == list(made.slide_paths)
    assert [made.mif_folder / name for name in names["cd8_mif"]] == [s.slide for s in made.mif_slides]
    assert list(manifest.site) == ["primary", "metastasis"] * 2
    assert list(manifest.lesion) == ["P1_primary", "P1_metastasis"] * 2
    for slide in (*made.slides, *made.mif_slides):
        assert slide.annotations.parent == made.annotations_folder
        truth = json.loads(slide.truth_json.read_text())
        assert truth["phenotype"] == slide.spec.phenotype
        assert truth["n_cd8"] == pd.read_parquet(slide.cells).is_cd8.sum()

    config = load_config(made.mif_config)
    assert [marker.name for marker in config.panel.markers] == ["PD-1", "TIM-3"]
    # One batch: what undoes the spill-over of one slide undoes that of all.
    assert all(slide.truth["panel"] == made.mif_slides[0].truth["panel"] for slide in made.mif_slides)
    assert config.panel.spillover == made.mif_slides[0].truth["panel"]["spillover"]


def test_more_cells_are_checkpoint_positive_in_metastases():
    share = {spec.site: spec.panel.markers[0].fraction for spec in demo_mif_specs()}
    assert share["metastasis"] > share["primary"]


@pytest.mark.slow
def test_full_demo_has_its_phenotypes(tmp_path):
    made = demo_cohort(tmp_path)
    for slide in made.slides:
        zones = slide.truth["zones"]
        assert slide.truth["phenotype"] == slide.spec.phenotype
        if slide.spec.phenotype == "inflamed":
            assert zones["core"]["cd8_density_per_mm2"] > 1.35 * PHENOTYPE_CUTOFF_PER_MM2
        else:
            assert zones["core"]["cd8_density_per_mm2"] < 0.65 * PHENOTYPE_CUTOFF_PER_MM2

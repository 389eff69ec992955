"""Rendered markers beside CD8: who carries them, what the camera sees of them, and what stays as it was."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from histo.config import load_config
from histo.errors import ConfigError
from histo.slide import Box, open_slide
from histo.stain.deconvolution import optical_density, unmix
from histo.synthetic.panel import CHROMOGENS, Amounts, RenderedMarker, RenderedPanel, ZoneFractions
from histo.synthetic.slide import SlideSpec, render_slide, render_window, render_window_field

SIZE_UM = (900.0, 700.0)
PD1 = RenderedMarker("PD-1", fraction=0.4, of_lymphocytes=0.25, spill={"CD8": 0.1})
TIM3 = RenderedMarker("TIM-3", among={"PD-1": 0.5})
TCF1 = RenderedMarker("TCF1", "nucleus", fraction=0.8, among={"PD-1": 0.3, "TIM-3": 0.0}, of_lymphocytes=0.6)
KERATIN = RenderedMarker("PanCK", "epithelium")


def a_slide(*markers: RenderedMarker, kind: str = "fluorescence", **values) -> SlideSpec:
    panel = RenderedPanel(markers, values.pop("chromogen", None), batch=values.pop("batch", 0))
    return SlideSpec("a", seed=values.pop("seed", 3), size_um=SIZE_UM, kind=kind, panel=panel, **values)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    spec = replace(a_slide(PD1, TIM3, TCF1, KERATIN, phenotype="inflamed"), mpp=1.0)
    return render_slide(spec, tmp_path_factory.mktemp("panel"))


def test_fractions_are_those_asked_for(rendered):
    cells = pd.read_parquet(rendered.cells)
    cd8, other = cells[cells.is_cd8], cells[~cells.is_cd8]
    # A count is rounded once in every zone and group of cells.
    assert cd8["PD-1+"].mean() == pytest.approx(0.4, abs=4 / len(cd8))
    assert not (cd8["TIM-3+"] & ~cd8["PD-1+"]).any()
    assert cd8.loc[cd8["PD-1+"], "TIM-3+"].mean() == pytest.approx(0.5, abs=4 / cd8["PD-1+"].sum())
    assert not (cd8["TCF1+"] & cd8["TIM-3+"]).any()
    only_pd1 = cd8["PD-1+"] & ~cd8["TIM-3+"]
    assert cd8.loc[only_pd1, "TCF1+"].mean() == pytest.approx(0.3, abs=4 / only_pd1.sum())
    assert cd8.loc[~cd8["PD-1+"], "TCF1+"].mean() == pytest.approx(0.8, abs=4 / (~cd8["PD-1+"]).sum())
    assert 0 < other["PD-1+"].mean() < 0.03
    assert not other["TIM-3+"].any()
    assert "PanCK+" not in cells


def test_fractions_may_differ_by_zone(tmp_path):
    marker = replace(PD1, fraction=ZoneFractions(0.0, 1.0, 0.0, 1.0))
    spec = replace(a_slide(marker, phenotype="inflamed"), mpp=2.0, size_um=(2000.0, 700.0))
    cells = pd.read_parquet(render_slide(spec, tmp_path).cells)
    share = cells[cells.is_cd8].groupby("zone")["PD-1+"].mean()
    assert share.to_dict() == {"core": 0, "inner_margin": 1, "outer_margin": 0, "far": 1}


def test_file_names_its_channels(rendered):
    with open_slide(rendered.slide) as slide:
        assert slide.channels == ("DAPI", "CD8", "Autofluorescence", "PD-1", "TIM-3", "TCF1", "PanCK")
        assert slide.mpp == pytest.approx((1, 1))
    assert json.loads(rendered.truth_json.read_text())["panel"] == rendered.truth["panel"]


def test_without_a_panel_all_is_as_before():
    """Markers come from generators of their own."""
    spec, box = a_slide(PD1, phenotype="inflamed"), Box(300, 300, 400, 320)
    plain = replace(spec, panel=None)
    with_panel, without = render_window_field(spec, box), render_window_field(plain, box)
    assert np.array_equal(with_panel.labels, without.labels)
    assert np.array_equal(with_panel.is_cd8, without.is_cd8)
    assert without.is_cd8.sum() > 5
    assert render_window(plain, box).shape == (320, 400, 3)
    # Of a duplex only the second chromogen is new: blue light, that it hardly takes, stays nearly the same.
    duplex = a_slide(PD1, kind="brightfield", chromogen="teal", phenotype="inflamed")
    seen, before = (render_window(s, box).astype(float) for s in (duplex, replace(duplex, panel=None)))
    assert np.abs(seen - before)[..., 2].mean() < 2
    assert (before - seen)[..., 0].max() > 60


def test_windows_join():
    spec = a_slide(PD1, TIM3, TCF1)
    whole = render_window(spec, Box(400, 300, 160, 160))
    part = render_window(spec, Box(460, 330, 70, 50))
    assert np.array_equal(whole[30:80, 60:130], part)


def test_slides_of_a_batch_share_their_camera():
    def level(seed: int, batch: int) -> float:
        spec = a_slide(replace(PD1, fraction=1.0), seed=seed, batch=batch, phenotype="inflamed")
        return float(np.percentile(render_window(spec, Box(0, 0, 1200, 1000))[::2, ::2, 3], 99.8))

    same = level(1, 0) / level(2, 0)
    assert 0.75 < same < 1.33
    assert not 0.75 < level(1, 0) / level(1, 1) < 1.33


def test_settings_undo_what_was_rendered(tmp_path):
    """Where nobody carries PD-1 and nothing sticks, little of CD8 and of the tissue's glow is left.

    The autofluorescence channel sees a little of CD8, so that a little too much is taken there.
    """
    bare = replace(PD1, fraction=0.0, of_lymphocytes=0.0, negative=Amounts(1e-6, 0.1), autofluorescence=0.3)
    rendered = render_slide(replace(a_slide(bare, phenotype="inflamed"), size_um=(600.0, 500.0)), tmp_path)
    undo = rendered.truth["panel"]
    with open_slide(rendered.slide) as slide:
        seen = slide.read(Box(250, 250, 600, 500), 0.5).reshape(-1, 4).astype(float)
    seen -= np.percentile(seen, 0.5, axis=0)
    left = (
        seen[:, 3]
        - undo["autofluorescence"]["PD-1"] * seen[:, 2]
        - undo["spillover"]["CD8"]["PD-1"] * seen[:, 1]
    )
    glowing, stained = (
        seen[:, 2] > np.percentile(seen[:, 2], 90),
        seen[:, 1] > np.percentile(seen[:, 1], 99.5),
    )
    for where in (glowing, stained):
        before = seen[where, 3].mean() - np.median(seen[:, 3])
        after = left[where].mean() - np.median(left)
        assert before > 0
        assert abs(after) < 0.25 * before


@pytest.mark.parametrize("chromogen", CHROMOGENS)
def test_second_chromogen_lies_on_the_cells_that_carry_it(chromogen):
    spec = a_slide(replace(PD1, fraction=1.0), kind="brightfield", chromogen=chromogen, phenotype="inflamed")
    none = a_slide(
        replace(PD1, fraction=0.0, of_lymphocytes=0.0),
        kind="brightfield",
        chromogen=chromogen,
        phenotype="inflamed",
    )
    box = Box(300, 300, 700, 500)
    amounts = []
    for each in (spec, none):
        field = render_window_field(each, box)
        od = optical_density(field.pixels, field.white_point)
        second = unmix(od, field.stain_vectors)[..., 2]
        cd8 = np.concatenate([[False], field.is_cd8])[field.labels]
        amounts.append((second[cd8].mean(), second[~cd8].mean()))
    (carried, around), (bare, _) = amounts
    assert carried > 0.2
    assert abs(bare) < 0.1
    assert abs(around) < 0.06


def test_chromogen_of_the_configuration_is_the_one_rendered(pytestconfig):
    config = load_config(pytestconfig.rootpath / "configs" / "cd8_pd1_duplex.yaml")
    assert config.stain.vectors.residual == pytest.approx(CHROMOGENS["red"], abs=1e-4)
    assert config.panel.markers[0].channel == config.stain.residual_name


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        (a_slide(), "no marker"),
        (a_slide(PD1, PD1), "name of its own"),
        (a_slide(replace(PD1, name="CD8")), "CD8"),
        (a_slide(replace(PD1, fraction=1.2)), "0 to 1"),
        (a_slide(TIM3), "no marker before it is called PD-1"),
        (a_slide(replace(PD1, spill={"LAG-3": 0.1})), "LAG-3"),
        (a_slide(PD1, chromogen="red"), "for brightfield"),
        (a_slide(PD1, kind="brightfield"), "chromogen: red, magenta, teal"),
        (a_slide(PD1, TIM3, kind="brightfield", chromogen="red"), "one marker"),
        (a_slide(replace(TCF1, among={}), kind="brightfield", chromogen="red"), "on membranes"),
    ],
)
def test_panels_that_cannot_be_rendered(spec, told):
    with pytest.raises(ConfigError, match=told):
        render_window(spec, Box(0, 0, 16, 16))

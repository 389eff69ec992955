from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pictures import stained
from slides import ArraySlide

from histo.config import Config
from histo.errors import ChannelError, ConfigError
from histo.slide.survey import survey_slide
from histo.slide.tissue import detect_tissue
from histo.stain.panel import PanelTransform, fit_panel, panel_channels
from histo.stain.space import BrightfieldTransform, fit_stain

CHANNELS = ("DAPI", "Opal 520", "Opal 570", "Opal 620", "AF")
STAIN = {"kind": "fluorescence", "nuclear": "DAPI", "cd8": "Opal 520", "autofluorescence": "AF"}
MARKERS = [{"name": "PD-1", "channel": "Opal 570"}, {"name": "TIM-3", "channel": "opal 620"}]
BACKGROUND = np.array([200.0, 100.0, 300.0, 150.0, 120.0])


def _config(**panel: Any) -> Config:
    return Config.model_validate({"stain": STAIN, "panel": {"markers": MARKERS, **panel}})


def _own_signals(seed: int = 0, size: int = 512) -> np.ndarray:
    """(size, size, 5) what stains each channel alone: cells of 12 pixels in every second square."""
    rng = np.random.default_rng(seed)
    cells = np.zeros((size // 16, size // 16), bool)
    cells[::2, ::2] = True
    inside = np.kron(cells, np.pad(np.ones((12, 12), bool), 2))
    level = rng.uniform(500, 3000, (*cells.shape, 5)) * (rng.random((*cells.shape, 5)) < 0.5)
    level[..., 0] = 2000
    signal = np.kron(level, np.ones((16, 16, 1))) * inside[..., None]
    signal[..., 4] = rng.uniform(0, 400, signal.shape[:2]) * inside
    return signal


def _slide(own: np.ndarray, mixing: np.ndarray | None = None) -> ArraySlide:
    shown = own if mixing is None else own @ mixing
    noise = np.random.default_rng(1).normal(0, 3, shown.shape)
    return ArraySlide((shown + BACKGROUND + noise).astype(np.float32), 0.5, channels=CHANNELS)


def _fit(slide: ArraySlide, config: Config) -> PanelTransform:
    survey = survey_slide(slide)
    tissue = detect_tissue(survey, slide.kind, config.tissue)
    stain = fit_stain(slide, survey, tissue, config.stain)
    panel = fit_panel(slide, survey, tissue, stain, config)
    assert panel is not None
    return panel


def _amounts(panel: PanelTransform, slide: ArraySlide) -> np.ndarray:
    pixels = slide.levels[0].reshape(-1, slide.levels[0].shape[-1])
    return np.column_stack([panel.amount(pixels, place) for place in range(len(panel.markers))])


def test_grey_levels_above_the_background_of_each_channel() -> None:
    own = _own_signals()
    slide = _slide(own)
    panel = _fit(slide, _config())
    assert panel.unit == "grey level"
    assert panel.channels == ("Opal 570", "Opal 620")
    np.testing.assert_allclose(panel.background, BACKGROUND[2:4], atol=2)
    np.testing.assert_allclose(panel.noise, 3, rtol=0.3)
    assert np.abs(_amounts(panel, slide) - own.reshape(-1, 5)[:, 2:4]).mean() < 4
    # Noise below the background stays below 0.
    assert (_amounts(panel, slide) < 0).mean() > 0.2


def test_spill_over_and_autofluorescence_are_undone() -> None:
    own = _own_signals()
    mixing = np.eye(5)
    mixing[2, 3], mixing[3, 2], mixing[1, 2] = 0.3, 0.1, 0.2
    shown = own @ mixing
    # The autofluorescence of a place shows in the marker's channel on top of all else.
    shown[..., 2] += 0.5 * own[..., 4]
    slide = _slide(shown)
    spillover = {"PD-1": {"TIM-3": 0.3}, "TIM-3": {"PD-1": 0.1}, "CD8": {"PD-1": 0.2}}
    panel = _fit(slide, _config(spillover=spillover, autofluorescence={"PD-1": 0.5}))
    error = _amounts(panel, slide) - own.reshape(-1, 5)[:, 2:4]
    assert np.abs(error).mean() < 6
    plain = _amounts(_fit(slide, _config()), slide) - own.reshape(-1, 5)[:, 2:4]
    assert np.abs(plain).mean() > 5 * np.abs(error).mean()


def test_an_amount_does_not_depend_on_how_many_pixels_there_are() -> None:
    slide = _slide(_own_signals())
    panel = _fit(slide, _config(spillover={"PD-1": {"TIM-3": 0.3}}, autofluorescence={"TIM-3": 0.1}))
    pixels = slide.levels[0].reshape(-1, 5)
    whole = panel.amount(pixels, 1)
    np.testing.assert_array_equal(whole[17:18], panel.amount(pixels[17:18], 1))
    np.testing.assert_array_equal(whole[:1001], panel.amount(pixels[:1001], 1))


def test_every_name_that_is_wrong_is_in_one_error() -> None:
    slide = ArraySlide(np.zeros((64, 64, 5), np.uint16), 0.5, channels=CHANNELS)
    markers = [
        {"name": "PD-1", "channel": "Opal 690"},
        {"name": "TIM-3", "channel": "Opal 620"},
        {"name": "LAG-3", "channel": "Opal"},
    ]
    config = Config.model_validate({"stain": {**STAIN, "cd8": "CD8"}, "panel": {"markers": markers}})
    assert config.stain.kind == "fluorescence"
    with pytest.raises(ChannelError) as error:
        panel_channels(slide, config.stain, config.panel)
    text = str(error.value)
    for part in ("PD-1: there is no channel 'Opal 690'", "stain.cd8", "LAG-3: channel 'Opal' may be any"):
        assert part in text
    for channel in CHANNELS:
        assert repr(channel) in text
    assert "TIM-3" not in text


def test_two_markers_in_one_channel_are_refused() -> None:
    slide = ArraySlide(np.zeros((64, 64, 5), np.uint16), 0.5, channels=CHANNELS)
    config = Config.model_validate(
        {"stain": STAIN, "panel": {"markers": [{"name": n, "channel": "Opal 620"} for n in ("A", "B")]}}
    )
    assert config.stain.kind == "fluorescence"
    with pytest.raises(ChannelError, match="A and B both mean channel 'Opal 620'"):
        panel_channels(slide, config.stain, config.panel)


@pytest.mark.parametrize(
    ("panel", "says"),
    [
        ({"spillover": {"PD-1": {"TIM-3": 0.99}, "TIM-3": {"PD-1": 0.99}}}, "cannot be told apart"),
        ({"spillover": {"PD-1": {"PD-1": 0.1}}}, "within one channel"),
        (
            {
                "markers": [*MARKERS, {"name": "glow", "channel": "AF"}],
                "autofluorescence": {"glow": 0.5},
            },
            "measured in that channel itself",
        ),
    ],
)
def test_what_cannot_be_undone_is_refused(panel: dict[str, Any], says: str) -> None:
    config = Config.model_validate({"stain": STAIN, "panel": {"markers": MARKERS, **panel}})
    with pytest.raises(ConfigError, match=says):
        _fit(_slide(_own_signals(size=256)), config)


def test_in_brightfield_the_amount_is_that_of_the_chromogen() -> None:
    stain = {"vectors": {"residual": (0.2, 0.9, 0.4)}, "residual_name": "PD-1 red"}
    markers = [{"name": "PD-1", "channel": "PD-1 Red"}, {"name": "DAB", "channel": "cd8"}]
    config = Config.model_validate({"stain": stain, "panel": {"markers": markers}})
    slide = ArraySlide(stained((256, 256)), 0.5)
    panel = _fit(slide, config)
    assert panel.unit == "optical density"
    amounts = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.testing.assert_array_equal(panel.amount(amounts, 0), amounts[:, 2])
    np.testing.assert_array_equal(panel.amount(amounts, 1), amounts[:, 1])


def test_without_markers_there_is_nothing_to_fit() -> None:
    transform = BrightfieldTransform((240, 240, 240), "config", ((1, 0, 0),) * 3, ("config", "config"))
    slide = ArraySlide(stained((256, 256)), 0.5)
    survey = survey_slide(slide)
    tissue = detect_tissue(survey, slide.kind, Config().tissue)
    assert fit_panel(slide, survey, tissue, transform, Config()) is None

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from histo.config import BrightfieldStain, Config, FluorescenceStain, load_config
from histo.errors import ConfigError, PixelSizeError

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def test_the_written_out_defaults_are_the_defaults() -> None:
    assert load_config(CONFIGS / "cd8_ihc.yaml") == Config()


def test_fluorescence_protocol_reads() -> None:
    stain = load_config(CONFIGS / "cd8_mif.yaml").stain
    assert isinstance(stain, FluorescenceStain)
    assert stain.nuclear == "DAPI"


def test_the_example_panel_reads() -> None:
    config = load_config(CONFIGS / "cd8_exhaustion_mif.yaml")
    columns = {marker.name: marker.column for marker in config.panel.markers}
    assert columns["PD-1"] == "PD-1_ring_median"
    assert columns["TCF1"] == "TCF1_nucleus_mean"
    assert columns["TOX"] == "TOX_nucleus_mean"
    assert {marker.role for marker in config.panel.markers} == {"checkpoint", "state", "tumour"}


PD1 = "panel.markers=[{name: PD-1, channel: PD-1 red}]"


@pytest.mark.parametrize(
    ("config", "overrides", "says"),
    [
        ("cd8_ihc.yaml", [PD1], "no stain of this brightfield protocol: 'PD-1 red'"),
        (
            "cd8_ihc.yaml",
            [PD1.replace("PD-1 red", "CD8"), "panel.spillover={CD8: {PD-1: 0.1}}"],
            "are for fluorescence",
        ),
        (
            "cd8_mif.yaml",
            [PD1, "panel.autofluorescence={PD-1: 0.1}"],
            r"takes from stain\.autofluorescence",
        ),
        ("cd8_mif.yaml", [PD1.replace("PD-1,", "cd8,")], "has such columns already"),
        ("cd8_mif.yaml", [PD1, "panel.spillover={PD-1: {PD-9: 0.1}}"], "no such marker in the panel: PD-9"),
    ],
)
def test_panels_that_do_not_fit_the_protocol_are_refused(
    config: str, overrides: list[str], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(CONFIGS / config, overrides)


def test_overrides_reach_nested_settings_and_are_read_as_yaml() -> None:
    config = load_config(
        None, ["run.threads=8", "stain.white_point=[240, 241, 242]", "cells.min_area_um2=12.5"]
    )
    assert config.run.threads == 8
    assert config.stain.white_point == (240.0, 241.0, 242.0)  # type: ignore[union-attr]
    assert config.cells.min_area_um2 == 12.5


def test_every_misfit_is_listed_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("cells: {min_area_um2: -1}\nrun: {thraeds: 8}\n")
    with pytest.raises(ConfigError) as error:
        load_config(path)
    assert "cells.min_area_um2" in str(error.value)
    assert "thraeds" in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "says"),
    [("a: [1", "not valid YAML"), ("- 1\n- 2", "mapping"), (None, "cannot be read")],
)
def test_unusable_files_say_why(tmp_path: Path, content: str | None, says: str) -> None:
    path = tmp_path / "config.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=says):
        load_config(path)


@pytest.mark.parametrize("override", ["no_equals", "=1", "name.sub=1", "cells.weights=[1"])
def test_unusable_overrides_are_refused(override: str) -> None:
    with pytest.raises(ConfigError):
        load_config(CONFIGS / "cd8_ihc.yaml", [override])


def test_fingerprint_follows_results_not_the_way_they_are_made() -> None:
    base = Config().fingerprint()
    assert load_config(None, ["run.threads=1", "run.tile_um=256"]).fingerprint() == base
    assert load_config(None, ["cells.min_area_um2=11"]).fingerprint() != base


def test_errors_say_what_where_and_what_to_do_and_survive_pickling() -> None:
    error = PixelSizeError("no pixel size", path="a.svs", fix="Give one with --mpp")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "a.svs: no pixel size. Give one with --mpp"
    assert isinstance(again, PixelSizeError)


def test_the_classical_rule_is_a_setting_that_changes_results() -> None:
    rule = load_config(CONFIGS / "kather2018.yaml")
    assert rule.cells.detector == "kather2018"
    # The published stain vectors and white, fixed.
    assert rule.stain == BrightfieldStain(estimate_within_deg=0, white_point=(255.0, 255.0, 255.0))
    assert load_config(None, ["cells.detector=kather2018"]).fingerprint() != Config().fingerprint()


@pytest.mark.parametrize(
    ("config", "override", "says"),
    [
        ("cd8_mif.yaml", "cells.detector=kather2018", "brightfield"),
        ("kather2018.yaml", "cells.weights=mine.safetensors", "cells.weights has no effect"),
        ("kather2018.yaml", "cells.centre_threshold=0.3", "cells.centre_threshold has no effect"),
        ("kather2018.yaml", "cells.precision=bfloat16", "cells.precision has no effect"),
        ("kather2018.yaml", "cells.cd8_logit=1", "cells.cd8_logit has no effect"),
        ("kather2018.yaml", "cells.detector=kather2017", "cells.detector"),
    ],
)
def test_what_does_not_go_with_the_classical_rule_is_refused(config: str, override: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(CONFIGS / config, [override])

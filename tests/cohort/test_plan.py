"""Planning a study."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from histo.cli import app
from histo.cohort.plan import plan_study
from histo.errors import ConfigError


def test_smaller_effects_need_more_patients():
    whole, half = plan_study(targets=(0.8,)), plan_study(0.5, targets=(0.8,))
    assert half.shift_log2 == pytest.approx(whole.shift_log2 / 2)
    assert half.unpaired[0].n_primary > 2 * whole.unpaired[0].n_primary
    assert half.paired[0].n_primary > 2 * whole.paired[0].n_primary


def test_pairs_that_are_alike_need_fewer():
    apart, alike = (plan_study(correlation=r, targets=(0.8,)).paired[0].n_primary for r in (0.0, 0.7))
    assert alike < apart


def test_command_prints_both_designs():
    result = CliRunner().invoke(app, ["power", "--power", "0.8"])
    assert result.exit_code == 0
    assert "80%" in result.output
    assert "Kather 2018" in result.output


@pytest.mark.parametrize("wrong", [{"effect": 0.0}, {"correlation": 1.0}, {"targets": (1.2,)}])
def test_impossible_plans(wrong):
    with pytest.raises(ConfigError, match="cannot be planned"):
        plan_study(**wrong)

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from made_up_states import intensities

from histo.measure.state.fractions import state_fraction
from histo.measure.state.gates import MarkerCells, set_gate, table_gate
from histo.measure.state.mixture import fit_populations
from histo.measure.state.summary import Gate
from histo.panel import Marker, StatesConfig

PD1 = Marker(name="PD-1", channel="Cy5", role="checkpoint")


def gate_of(*cd8: Any, config: StatesConfig | None = None, marker: Marker = PD1, **others: Any) -> Gate:
    return set_gate(marker, MarkerCells(list(cd8), **others), config or StatesConfig())


def codes(gate: Gate) -> set[str]:
    return {flag.code for flag in gate.flags}


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.2, 0.5])
@pytest.mark.parametrize("bleed", [0.0, 0.03])
def test_known_fractions_are_found_without_controls(fraction: float, bleed: float) -> None:
    values, positive = intensities(1200, fraction, 1, bleed=bleed)
    other, _ = intensities(3000, 0.0, 101, bleed=bleed)
    gate = gate_of(values, other=other)
    assert gate.fraction == pytest.approx(fraction, abs=0.03)
    assert gate.fraction == pytest.approx(positive.mean(), abs=0.02)
    interval = state_fraction(
        round(gate.fraction * 1200), 1200, negative_share=gate.negative_share, min_cells=20, level=0.95
    )
    assert interval.low <= fraction <= interval.high
    assert gate.method == ("mixture" if fraction else "one population")


@pytest.mark.parametrize("fraction", [0.0, 0.05, 0.2, 0.5])
def test_known_fractions_are_found_with_controls(fraction: float) -> None:
    values, positive = intensities(1200, fraction, 3)
    control, _ = intensities(2000, 0.0, 4)
    by_slide = gate_of(values, control=control)
    by_lineage = gate_of(values, negative=control)
    for gate in (by_slide, by_lineage):
        assert gate.fraction == pytest.approx(positive.mean(), abs=0.03)
        assert (gate.negative_share, gate.n_reference) == (pytest.approx(0.01), 2000)
        assert np.mean(control > gate.threshold) == pytest.approx(0.01, abs=1e-3)
    assert (by_slide.method, by_lineage.method) == ("control slides", "negative cells")


def test_without_a_positive_population_nothing_is_invented() -> None:
    for seed in range(3):
        values, _ = intensities(600, 0.0, seed)
        gate = gate_of(values)
        assert gate.method in ("one population", None), gate
        assert gate.fraction is None or gate.fraction <= 0.01
        assert gate.method is None or "no_positive_population" in codes(gate)


def test_a_negative_slide_keeps_its_fraction_under_the_gate_of_its_batch() -> None:
    slides = [intensities(600, fraction, 20 + i)[0] for i, fraction in enumerate((0.5, 0.0, 0.3))]
    gate = gate_of(*slides)
    assert gate.method == "mixture"
    assert np.mean(slides[1] > gate.threshold) <= 0.015
    assert np.mean(slides[0] > gate.threshold) == pytest.approx(0.5, abs=0.05)


def test_two_sets_of_slides_are_flagged() -> None:
    dim, bright = (intensities(400, 0.0, seed)[0] for seed in (31, 32))
    assert "populations_are_slides" in codes(gate_of(dim, bright + 120.0))
    assert "populations_are_slides" not in codes(gate_of(*[intensities(400, 0.4, s)[0] for s in (33, 34)]))


def test_one_bright_population_is_not_called_negative() -> None:
    values, _ = intensities(600, 1.0, 5)
    other, _ = intensities(3000, 0.0, 6)
    gate = gate_of(values, other=other)
    assert gate.threshold is None
    assert "brighter than other nuclei" in str(gate.not_assessable)


def test_controls_go_before_a_manual_gate_which_is_told() -> None:
    values, _ = intensities(600, 0.3, 7)
    control, _ = intensities(500, 0.0, 8)
    config = StatesConfig(gates={"PD1": 40.0})
    assert (gate_of(values, config=config).method, gate_of(values, config=config).threshold) == (
        "manual",
        40.0,
    )
    gate = gate_of(values, config=config, control=control)
    assert (gate.method, gate.manual_threshold) == ("control slides", 40.0)
    assert "manual_gate_not_used" in codes(gate)


def test_too_few_controls_are_not_used() -> None:
    values, _ = intensities(600, 0.3, 9)
    gate = gate_of(values, control=intensities(99, 0.0, 10)[0])
    assert gate.method == "mixture"
    assert "too_few_negatives" in codes(gate)
    assert gate_of(values, control=intensities(100, 0.0, 10)[0]).method == "control slides"


def test_controls_that_do_not_stand_for_the_batch_are_not_used() -> None:
    control, _ = intensities(524, 0.0, 40)
    for fraction in (0.05, 0.2, 0.5):
        values, positive = intensities(600, fraction, 41)
        gate = gate_of(values + 6.0, control=control)
        assert np.mean(values + 6.0 > np.quantile(control, 0.99)) > positive.mean() + 0.02
        assert gate.method == "mixture"
        assert "negatives_do_not_fit" in codes(gate)
        assert gate.fraction == pytest.approx(positive.mean(), abs=0.03)
        # Nothing is compared with cells that do not fit, but they are shown.
        assert gate.negatives_median is None
        assert gate.curve is not None
        assert gate.curve.reference == "control slides"
    lineage = gate_of(values + 6.0, control=control, negative=intensities(2000, 0.0, 42)[0] + 6.0)
    assert lineage.method == "negative cells"
    assert lineage.negatives_median is not None
    manual = gate_of(values + 6.0, control=control, config=StatesConfig(gates={"PD-1": 33.0}))
    assert (manual.method, manual.threshold) == ("manual", 33.0)


def test_controls_are_seldom_refused_where_they_fit() -> None:
    refused = [
        "negatives_do_not_fit"
        in codes(gate_of(intensities(500, 0.2, s)[0], control=intensities(500, 0.0, 900 + s)[0]))
        for s in range(16)
    ]
    assert sum(refused) <= 1


def test_dim_positive_cells_are_left_to_the_controls() -> None:
    rng = np.random.default_rng(0)
    control = rng.normal(0, 1, 1000)
    values = np.r_[rng.normal(0, 1, 400), rng.normal(3.5, 1, 400), rng.normal(40, 4, 200)]
    gate = gate_of(values, control=control)
    assert gate.method == "control slides"
    assert gate.fraction == pytest.approx(0.6, abs=0.08)
    # All of them, as far off as a population of its own: positive, not a difference in staining.
    gate = gate_of(np.r_[rng.normal(6, 1, 800), rng.normal(40, 4, 200)], control=control)
    assert (gate.method, gate.fraction) == ("control slides", pytest.approx(1.0, abs=0.01))


def test_one_population_a_little_brighter_than_other_nuclei_is_not_told() -> None:
    rng = np.random.default_rng(1)
    other = rng.normal(0.010, 0.016, 4000)
    values = rng.normal(0.032, 0.014, 500)
    for gate in (gate_of(values, other=other), gate_of(values, other=other, negative=other)):
        assert gate.threshold is None
        assert "nothing tells a trace of another stain from faint staining" in str(gate.not_assessable)
    # Where a trace as large as that is known of, there is a number.
    known = gate_of(values, other=other, config=StatesConfig(min_gates={"PD-1": 0.08}))
    assert (known.method, known.fraction) == ("one population", 0.0)


def test_no_gate_lies_below_the_least_one() -> None:
    values, _ = intensities(600, 0.0, 43)
    control = intensities(1000, 0.0, 44)[0]
    for negatives in ({"control": control}, {"negative": control}, {"other": control}):
        free = gate_of(values, **negatives)
        raised = gate_of(values, config=StatesConfig(min_gates={"PDCD1": 45.0}), **negatives)
        assert free.threshold < 45.0
        assert (raised.threshold, raised.method) == (45.0, free.method)
        assert raised.numbers["raised_from"] == free.threshold
        assert "gate_raised" in codes(raised)
        assert "gate_raised" not in codes(free)
        lower = gate_of(values, config=StatesConfig(min_gates={"PD-1": free.threshold - 1}), **negatives)
        assert lower == free
    manual = gate_of(values, config=StatesConfig(min_gates={"PD-1": 45.0}, gates={"PD-1": 20.0}))
    assert manual.threshold == 20.0


def test_cells_brighter_than_the_least_gate_tell_where_it_is_not_needed() -> None:
    values, positive = intensities(600, 0.3, 43)
    control = intensities(1000, 0.0, 44)[0]
    free = gate_of(values)
    least = StatesConfig(min_gates={"PD-1": 45.0})
    assert gate_of(values, config=least) == free
    by_control = gate_of(values, config=least, control=control)
    assert (by_control.threshold, by_control.method) == (free.threshold, "control slides")
    assert by_control.fraction == pytest.approx(positive.mean(), abs=0.03)
    # Two populations, but both of a trace.
    above = gate_of(values, config=StatesConfig(min_gates={"PD-1": 300.0}))
    assert (above.threshold, above.method) == (300.0, "mixture")


def test_negatives_that_hold_positives_are_flagged() -> None:
    values, _ = intensities(600, 0.3, 11)
    gate = gate_of(values, negative=intensities(2000, 0.05, 12)[0])
    assert "negatives_hold_positives" in codes(gate)


def test_few_cells_give_no_gate_but_a_clear_split() -> None:
    assert gate_of(intensities(15, 0.5, 13)[0]).not_assessable == (
        "only 15 CD8+ cells, and neither controls nor a manual gate"
    )
    values, positive = intensities(40, 0.5, 14, contrast=3.0)
    gate = gate_of(values)
    assert gate.method == "Otsu"
    assert "otsu_gate" in codes(gate)
    assert gate.fraction == pytest.approx(positive.mean(), abs=0.03)
    assert "too few to say" in str(gate_of(intensities(120, 0.0, 15)[0]).not_assessable)


def test_cells_that_are_all_alike_give_no_gate() -> None:
    assert gate_of(np.zeros(500)).threshold is None
    assert gate_of(np.empty(0)).threshold is None


def test_a_saturated_camera_gives_no_error() -> None:
    values = np.minimum(intensities(600, 0.8, 22)[0], 30.0)
    assert gate_of(values).n_cells == 600


def test_missing_intensities_change_nothing() -> None:
    values, _ = intensities(600, 0.3, 16)
    holes = np.insert(values, 100, np.nan)
    assert gate_of(holes) == gate_of(values)


def test_bright_gates_and_why_there_is_none() -> None:
    values, _ = intensities(600, 0.3, 17)
    control, _ = intensities(500, 0.0, 18)
    assert "neither" in str(gate_of(values).bright_not_assessable)
    manual = gate_of(values, config=StatesConfig(bright_gates={"PD-1": 120.0}))
    assert (manual.bright_threshold, manual.bright_method) == (120.0, "manual")
    low = gate_of(values, config=StatesConfig(bright_gates={"PD-1": 1.0}))
    assert "is not above the gate" in str(low.bright_not_assessable)
    config = StatesConfig(bright_multiples={"PD-1": 4.0})
    assert "only where the gate comes from controls" in str(
        gate_of(values, config=config).bright_not_assessable
    )
    multiple = gate_of(values, config=config, control=control)
    assert multiple.bright_threshold == pytest.approx(4 * multiple.threshold)


def test_the_curve_falls_and_holds_the_gate() -> None:
    values, _ = intensities(600, 0.3, 19)
    gate = gate_of(values, other=intensities(900, 0.0, 20)[0])
    assert gate.curve is not None
    assert len(gate.curve.threshold) == len(gate.curve.fraction) == 50
    assert (np.diff(gate.curve.threshold) > 0).all()
    assert (np.diff(gate.curve.fraction) <= 0).all()
    assert gate.curve.fraction[gate.curve.threshold.index(gate.threshold)] == pytest.approx(gate.fraction)
    assert gate.curve.reference == "other nuclei"


def test_the_calls_of_a_table_are_recorded() -> None:
    gate = table_gate(PD1, [np.array([True, False, False, False])], MarkerCells([]), StatesConfig())
    assert (gate.method, gate.threshold, gate.fraction, gate.n_cells) == ("table", None, 0.25, 4)


def test_ashmans_d_of_two_known_populations() -> None:
    """D of N(0, 1) and N(6, 1) is 6 (Ashman 1994, Astron J 108:2348)."""
    rng = np.random.default_rng(0)
    populations = fit_populations(np.r_[rng.normal(0, 1, 2000), rng.normal(6, 1, 2000)])
    assert populations is not None
    assert populations.ashman_d == pytest.approx(6, abs=0.4)
    assert populations.crossing == pytest.approx(3, abs=0.3)
    assert populations.dip < 0.1


def test_a_gate_does_not_depend_on_the_unit() -> None:
    values, _ = intensities(600, 0.3, 21)
    one, thousand = gate_of(values), gate_of(1000 * values)
    assert thousand.fraction == one.fraction
    assert thousand.threshold == pytest.approx(1000 * one.threshold, rel=1e-3)

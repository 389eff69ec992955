"""States of a cohort: from what `histo states` left to the report."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from states_made_up import TRUTHS, flat, states_folder
from typer.testing import CliRunner

from histo.cli import app
from histo.cohort.config import CohortConfig
from histo.cohort.simulate import ASSUMED_FRACTIONS, METASTASIS, PRIMARY, StateTruth
from histo.cohort.states import joint_view, patient_fractions, spearman
from histo.cohort.summary import CohortSummary
from histo.errors import ConfigError, ResultsError
from histo.measure.state.words import LIMITS
from histo.measure.summary import ZONES
from histo.results.states_files import GATES, STATES_TABLE

FEW = ("--set", "bootstrap_samples=200", "--set", "permutations=199")


def run(*arguments: object):
    return CliRunner().invoke(app, ["cohort", *map(str, arguments), *FEW])


def summary_of(folder: Path) -> CohortSummary:
    return CohortSummary.model_validate_json((folder / "cohort.json").read_bytes())


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> tuple[Path, CohortSummary, str]:
    folder, manifest = states_folder(tmp_path_factory.mktemp("pairs") / "r", few={"P0003_metastasis": 3})
    result = run(folder, "--manifest", manifest, "--set", "primary_state=PD-1+")
    assert result.exit_code == 0, result.output
    return folder, summary_of(folder), result.output


class TestFound:
    """A cohort whose metastases have more PD-1+ cells everywhere, and more PD-1+TIM-3+ cells in the core."""

    def test_the_difference_with_its_size(self, pairs):
        _, summary, output = pairs
        state = summary.stains[0].states.states[0]
        assert (state.state, state.is_primary_state) == ("PD-1+", True)
        shift = state.fractions[0].comparison.shift
        assert shift.low < ASSUMED_FRACTIONS[METASTASIS] - ASSUMED_FRACTIONS[PRIMARY] < shift.high
        assert shift.low > 0.03
        (ratio,) = state.overall.odds_ratios
        truth = TRUTHS["PD-1+"].odds_ratio("core")
        assert ratio.ratio.low < truth < ratio.ratio.high
        assert ratio.ratio.low > 1
        assert state.overall.p == pytest.approx(ratio.p)
        assert "A larger share of CD8+ cells is PD-1+ in metastases." in output

    def test_a_difference_of_one_zone_is_an_interaction(self, pairs):
        _, summary, _ = pairs
        everywhere, core_only, nowhere = summary.stains[0].states.states
        assert core_only.by_zone.p < 0.01
        assert everywhere.by_zone.p > 0.05
        assert nowhere.by_zone.p > 0.05
        interaction = {row.zone: row.ratio for row in core_only.by_zone.interactions}
        assert interaction["core"].low > 1
        assert core_only.by_zone.p_adjusted >= core_only.by_zone.p
        assert [row.zone for row in core_only.by_zone.odds_ratios] == list(ZONES)

    def test_equal_fractions_are_not_found(self, pairs):
        _, summary, _ = pairs
        state = summary.stains[0].states.states[2]
        assert all(f.comparison.p_adjusted > 0.05 for f in state.fractions if f.comparison.p is not None)

    def test_exclusion_is_found_beside_it(self, pairs):
        _, summary, _ = pairs
        declared = next(c for c in summary.stains[0].comparisons if c.is_primary_measure)
        assert declared.shift.high < 0


class TestPatients:
    def test_too_few_cells_are_no_fraction(self, pairs):
        _, summary, _ = pairs
        fraction = summary.stains[0].states.states[0].fractions[0]
        assert fraction.comparison.n_pairs == 13
        assert [(row.name, row.reason) for row in fraction.comparison.left_out] == [
            ("P0003", "metastasis: only 12 CD8+ cells, 20 needed")
        ]
        # The model takes the patient along.
        assert summary.stains[0].states.states[0].overall.n_patients == 14

    def test_slides_are_pooled_by_their_cells(self):
        rows = pd.DataFrame(
            {
                "slide_id": ["a", "b", "c", "d"],
                "patient": ["P", "P", "P", "Q"],
                "lesion": ["L", "M", "N", "O"],
                "site": ["primary", "primary", "metastasis", "primary"],
                "n_cd8": [90.0, 10, 50, 19],
                "n_positive": [9.0, 9, 50, 19],
                "area_mm2": [1.0, np.nan, np.nan, 2.0],
            }
        )
        values, without = patient_fractions(rows, 20)
        found = values.set_index("site")
        assert found.loc["primary", "value"] == 0.18
        assert found.loc["metastasis", "value"] == 1.0
        assert found.loc["primary", ["n_slides", "n_lesions", "area_mm2"]].tolist() == [2, 2, 1.0]
        assert np.isnan(found.loc["metastasis", "area_mm2"])
        assert [(row.name, row.reason) for row in without] == [
            ("Q", "primary: only 19 CD8+ cells, 20 needed")
        ]

    def test_the_table_of_patients_holds_fractions(self, pairs):
        folder, summary, _ = pairs
        with (folder / "cohort_patients.csv").open() as file:
            rows = [row for row in csv.DictReader(file) if row["measure"] == "fraction PD-1+, all"]
        assert len(rows) == 26
        values = summary.stains[0].states.states[0].fractions[0].comparison.values
        assert sum(float(row["value"]) for row in rows) == pytest.approx(sum(v.value for v in values))


def test_adjustment_is_by_family(pairs):
    _, summary, _ = pairs
    stain = summary.stains[0]
    fractions = [f.comparison for state in stain.states.states for f in state.fractions]
    declared = [c for c in (*stain.comparisons, *fractions) if c.is_primary_measure]
    assert [c.adjustment for c in declared] == ["Holm", "Holm"]
    smaller, larger = sorted(declared, key=lambda c: c.p)
    assert smaller.p_adjusted == pytest.approx(2 * smaller.p)
    assert larger.p_adjusted == pytest.approx(max(larger.p, smaller.p_adjusted))
    tested = [c for c in fractions if c.p is not None and not c.is_primary_measure]
    assert max(tested, key=lambda c: c.p).p_adjusted == pytest.approx(max(c.p for c in tested))
    assert all(c.p_adjusted >= c.p for c in tested)


def test_unpaired_patients(tmp_path):
    folder, manifest = states_folder(
        tmp_path, n_primary=15, n_metastasis=13, n_pairs=0, truths={"PD-1+": TRUTHS["PD-1+"]}
    )
    result = run(folder, "--manifest", manifest)
    assert result.exit_code == 0, result.output
    states = summary_of(folder).stains[0].states
    assert states.design == "unpaired"
    (state,) = states.states
    assert "Mann-Whitney" in state.fractions[0].comparison.test
    assert state.overall.formula == "Beta-binomial counts of CD8+ cells, site"
    assert state.fractions[0].comparison.shift.low > 0
    assert "none declared first" in result.output


class TestJointView:
    def test_quadrants_count_every_point(self, pairs):
        _, summary, _ = pairs
        joint = summary.stains[0].states.states[0].joint
        assert len(joint.points) == 27
        assert sum(n for counts in joint.quadrants.values() for n in counts.values()) == 27
        assert next(iter(joint.quadrants)) == "excluded and checkpoint-positive"
        both = [
            p
            for p in joint.points
            if p.log2_core_outer < joint.exclusion_cutoff and p.fraction > joint.fraction_cutoff
        ]
        found = joint.quadrants["excluded and checkpoint-positive"]
        assert found == {site: sum(p.site == site for p in both) for site in (PRIMARY, METASTASIS)}
        assert found[METASTASIS] > found[PRIMARY]

    def test_correlation_is_within_a_site(self):
        rng = np.random.default_rng(0)
        patients = [f"P{i}" for i in range(30)]
        rows = [
            pd.DataFrame({"patient": patients, "site": site, "value": rng.normal(place, 1, 30)})
            for site, place in ((PRIMARY, 0), (METASTASIS, -9))
        ]
        exclusion = pd.concat(rows)
        # Over both sites all but perfectly correlated; within each not at all.
        fraction = exclusion.assign(value=(exclusion["site"] == METASTASIS) * 0.3 + rng.random(60) / 10)
        joint = joint_view(exclusion, fraction, "checkpoint-positive", CohortConfig())
        for row in joint.correlations:
            assert row.rho.low < 0 < row.rho.high
        assert joint.quadrants["excluded and checkpoint-positive"] == {PRIMARY: 0, METASTASIS: 30}

    def test_no_common_patient(self, pairs):
        nobody = pd.DataFrame({"patient": [], "site": [], "value": []})
        assert joint_view(nobody, nobody, "x", CohortConfig()).not_assessable

    def test_spearman_with_the_interval_of_bonett_and_wright(self):
        x = np.arange(10.0)
        y = np.array([2.0, 1, 4, 3, 6, 5, 8, 7, 10, 9])
        found = spearman(x, y, 0.95)
        r = 1 - 6 * 10 / (10 * 99)  # all differences of ranks are 1
        half = 1.959964 * np.sqrt((1 + r**2 / 2) / 7)
        assert found.value == pytest.approx(r)
        assert found.low == pytest.approx(np.tanh(np.arctanh(r) - half), rel=1e-5)
        assert found.high == pytest.approx(np.tanh(np.arctanh(r) + half), rel=1e-5)

    def test_where_there_is_no_correlation(self):
        x = np.arange(10.0)
        assert "5 patients, 6 needed" in spearman(x[:5], x[:5], 0.95).not_assessable
        assert "the same" in spearman(x, np.zeros(10), 0.95).not_assessable
        perfect = spearman(x, -x, 0.95)
        assert (perfect.value, perfect.low) == (-1, None)


class TestReport:
    def test_both_parts_and_their_words(self, pairs):
        folder, _, _ = pairs
        text = (folder / "cohort.html").read_text()
        for words in (
            "Exclusion test: counts of all zones together",
            "States of CD8+ cells by further markers",
            "Exclusion and state side by side",
            "excluded and checkpoint-positive",
            "CD8+PD-1+TIM-3+: exhaustion-compatible",
            "CD8+PD-1+TCF1+: progenitor phenotype",
            "The gate of PD-1 is made up.",
            "metastasis: only 12 CD8+ cells, 20 needed",
            "Skellam JG.",
            "compare fractions within a batch",
            LIMITS,
        ):
            assert words in text
        for said in ("exhausted", "dysfunction"):
            assert said not in text.casefold()
        assert "<script" not in text

    def test_without_states_there_is_no_word_of_them(self, tmp_path):
        table = tmp_path / "zones.csv"
        rows = ["slide,zone,n_positive,area_mm2,patient,site"]
        rows += [
            f"s{i},{zone},{10 + i},1,P{i},{'primary' if i % 2 else 'metastasis'}"
            for i in range(12)
            for zone in ("core", "outer_margin")
        ]
        table.write_text("\n".join(rows) + "\n")
        assert run(table, "--out", tmp_path).exit_code == 0
        text = (tmp_path / "cohort.html").read_text()
        assert "checkpoint" not in text
        assert "Skellam" not in text

    def test_the_same_cohort_gives_the_same_files(self, tmp_path):
        few = {"PD-1+": TRUTHS["PD-1+"]}
        folder, manifest = states_folder(tmp_path / "r", n_pairs=5, truths=few)
        for out in ("one", "two"):
            assert run(folder, "--manifest", manifest, "--out", tmp_path / out).exit_code == 0
        for name in ("cohort.json", "cohort.html", "cohort_patients.csv"):
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


class TestBoundaries:
    @pytest.mark.parametrize("value", [0.0, 1.0])
    def test_no_cell_or_every_cell(self, tmp_path, value):
        truths = {"PD-1+": StateTruth(flat(0.3, 0.3))}
        folder, manifest = states_folder(tmp_path, n_pairs=7, truths=truths)
        table = pd.read_csv(folder / STATES_TABLE)
        table["n_positive"] = (value * table["n_cd8"]).astype(int)
        table.to_csv(folder / STATES_TABLE, index=False)
        assert run(folder, "--manifest", manifest).exit_code == 0
        (state,) = summary_of(folder).stains[0].states.states
        compared = state.fractions[0].comparison
        assert (compared.p, compared.shift.value) == (None, 0.0)
        assert compared.not_assessable
        assert "separation" in state.overall.not_assessable
        assert state.overall.odds_ratios == ()
        assert "separation" in state.by_zone.not_assessable
        assert all("same" in row.rho.not_assessable for row in state.joint.correlations)

    def test_one_patient(self, tmp_path):
        folder, manifest = states_folder(tmp_path, n_pairs=1)
        assert run(folder, "--manifest", manifest).exit_code == 0
        state = summary_of(folder).stains[0].states.states[0]
        assert state.fractions[0].comparison.p is None
        assert "1 patients with primary, 5 needed" in state.overall.not_assessable

    def test_one_site_only(self, tmp_path):
        folder, manifest = states_folder(tmp_path, n_primary=7, n_pairs=0)
        assert run(folder, "--manifest", manifest).exit_code == 0
        state = summary_of(folder).stains[0].states.states[0]
        assert "0 patients with metastasis, 5 needed" in state.overall.not_assessable
        assert state.fractions[0].comparison.not_assessable

    def test_cells_without_zones(self, tmp_path):
        folder, manifest = states_folder(tmp_path, n_pairs=7, truths={"PD-1+": TRUTHS["PD-1+"]})
        table = pd.read_csv(folder / STATES_TABLE)
        none = table["zone"] != "all"
        table.loc[none, ["n_cd8", "n_positive", "area_mm2", "fraction"]] = np.nan
        table.to_csv(folder / STATES_TABLE, index=False)
        assert run(folder, "--manifest", manifest).exit_code == 0
        state = summary_of(folder).stains[0].states.states[0]
        assert state.overall.odds_ratios
        assert state.by_zone.not_assessable == "no CD8+ cell in any zone"
        assert "tumour core" in state.joint.not_assessable

    def test_a_state_without_a_gate_is_told(self, tmp_path):
        folder, manifest = states_folder(tmp_path, n_pairs=2)
        gates = json.loads((folder / GATES).read_text())
        gates["states"][1]["not_assessable"] = "no gate of TIM-3"
        (folder / GATES).write_text(json.dumps(gates))
        assert run(folder, "--manifest", manifest).exit_code == 0
        states = summary_of(folder).stains[0].states
        assert [state.state for state in states.states] == ["PD-1+", "PD-1+TCF1+"]
        assert [(row.name, row.reason) for row in states.not_assessable] == [
            ("PD-1+TIM-3+", "no gate of TIM-3")
        ]


def test_states_beside_a_table_of_another_program(tmp_path):
    folder, manifest = states_folder(tmp_path / "states", n_pairs=2, truths={"PD-1+": TRUTHS["PD-1+"]})
    slides = [line.split(",")[0] for line in manifest.read_text().splitlines()[1:]]
    table = tmp_path / "zones.csv"
    rows = [f"{name},{zone},30,1" for name in slides for zone in ("core", "outer_margin")]
    table.write_text("\n".join(["slide,zone,n_positive,area_mm2", *rows]) + "\n")
    out = tmp_path / "out"
    result = run(table, "--manifest", manifest, "--states", folder, "--out", out)
    assert result.exit_code == 0, result.output
    stain = summary_of(out).stains[0]
    # Exclusion is of the table, states are of the folder.
    assert {v.value for v in stain.comparisons[0].values} == {30.0}
    assert stain.states.n_slides == 4


class TestErrors:
    def invoke(self, *arguments):
        result = run(*arguments)
        assert isinstance(result.exception, ConfigError | ResultsError), result.output
        return str(result.exception)

    @pytest.fixture
    def made(self, tmp_path):
        return states_folder(tmp_path, n_pairs=2)

    def test_a_state_that_is_not_there(self, made):
        text = self.invoke(made[0], "--manifest", made[1], "--set", "primary_state=LAG-3+")
        assert "'LAG-3+'" in text
        assert "PD-1+TIM-3+" in text

    def test_a_state_where_there_are_none(self, tmp_path):
        table = tmp_path / "zones.csv"
        table.write_text("slide,zone,n_positive,area_mm2,patient,site\na,core,3,1,P,primary\n")
        assert "histo states" in self.invoke(table, "--out", tmp_path, "--set", "primary_state=PD-1+")

    def test_gates_that_are_gone_or_old(self, made):
        (made[0] / GATES).write_text("{}")
        assert "another version" in self.invoke(made[0], "--manifest", made[1])
        (made[0] / GATES).unlink()
        assert "gates cannot be read" in self.invoke(made[0], "--manifest", made[1])

    def test_a_name_that_says_too_much(self, made):
        text = (made[0] / GATES).read_text().replace('"name":"PD-1+"', '"name":"exhausted"')
        (made[0] / GATES).write_text(text)
        assert "no marker on an image shows exhaustion" in self.invoke(made[0], "--manifest", made[1])

    def test_every_mistake_of_the_table_at_once(self, made):
        table = pd.read_csv(made[0] / STATES_TABLE, dtype=str)
        table.loc[0, "zone"] = "lumen"
        table.loc[1, "n_cd8"] = "many"
        table.loc[2, "n_positive"] = "100000"
        table.loc[3, "n_cd8"] = "-1"
        table.loc[5] = table.loc[4]
        table.to_csv(made[0] / STATES_TABLE, index=False)
        text = self.invoke(made[0], "--manifest", made[1])
        for part in (
            "line 2: no known zone",
            "line 3: n_cd8 'many' is no number",
            "line 4: more positive cells",
            "line 5: counts must be whole",
            "line 7: the same slide, state and zone again",
        ):
            assert part in text

    def test_a_column_or_a_definition_that_is_missing(self, made):
        table = pd.read_csv(made[0] / STATES_TABLE)
        table.drop(columns="n_positive").to_csv(made[0] / STATES_TABLE, index=False)
        assert "no column n_positive" in self.invoke(made[0], "--manifest", made[1])
        table.replace({"state": {"PD-1+": "TOX+"}}).to_csv(made[0] / STATES_TABLE, index=False)
        assert "does not define: TOX+" in self.invoke(made[0], "--manifest", made[1])

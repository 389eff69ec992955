"""A cohort of our own results, made up: from a results folder to the report."""

from __future__ import annotations

import csv
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from made_up import make_summary
from states_made_up import TRUTHS, write_states
from typer.testing import CliRunner

from histo.cli import app
from histo.cohort.summary import CohortSummary
from histo.errors import ConfigError, ResultsError
from histo.measure.catalogue import FURTHER
from histo.measure.density import poisson_density
from histo.measure.summary import ZONES, DistanceBin, Estimate, ZoneSummary
from histo.results.slides_table import SlideRow, write_slides_table

ZONE_AREA_MM2 = 4.0


def zone_summary(n: int) -> ZoneSummary:
    density = poisson_density(n, ZONE_AREA_MM2, 0.95)
    share = Estimate(value=0.1, unit="fraction of nuclei")
    return ZoneSummary(
        n_cells=n + 500,
        n_cd8=n,
        area_mm2=ZONE_AREA_MM2,
        cd8_density=density,
        cd8_density_by_blocks=density,
        cd8_fraction=share,
    )


def slide(name: str, core: int, outer: int, rng: np.random.Generator):
    """A summary whose profile agrees with its zones: 10 bins of 50 um in each margin."""
    counts = dict(zip(ZONES, (core, (core + outer) // 2, outer, outer // 3), strict=True))
    profile = []
    for zone, low in (("inner_margin", -500.0), ("outer_margin", 0.0)):
        split = rng.multinomial(counts[zone], np.full(10, 0.1))
        for k, n in enumerate(split):
            profile.append(
                DistanceBin(
                    low_um=low + 50 * k,
                    high_um=low + 50 * (k + 1),
                    n_cd8=int(n),
                    area_mm2=ZONE_AREA_MM2 / 10,
                    cd8_density=poisson_density(int(n), ZONE_AREA_MM2 / 10, 0.95),
                )
            )
    summary = make_summary(name)
    ratio = Estimate(value=float(np.log2((core / 4 + 1) / (outer / 4 + 1))), unit="log2 ratio")
    return summary.model_copy(
        update={
            "zones": {zone: zone_summary(n) for zone, n in counts.items()},
            "distance_profile": profile,
            "exclusion": summary.exclusion.model_copy(update={"log2_core_outer": ratio}),
            "measures": {m.name: Estimate(value=float(rng.normal()), unit=m.unit) for m in FURTHER[:5]},
        }
    )


def results(folder: Path, n_pairs: int = 9, n_single: int = 2) -> tuple[Path, Path]:
    """Write a results folder and its manifest; metastases have a quarter of the cells in the core."""
    rng = np.random.default_rng(11)
    rows, lines = [], ["slide,patient,lesion,site,growth_pattern,age"]
    for i in range(n_pairs + n_single):
        for site in ("primary", "metastasis"):
            if i >= n_pairs and site == "primary":
                continue
            name = f"P{i}_{site}"
            base = float(np.exp(rng.normal(6, 0.4)))
            summary = slide(name, round(base / (4 if site == "metastasis" else 1)), round(2 * base), rng)
            rows.append(SlideRow.from_summary(summary))
            (folder / name).mkdir(parents=True)
            (folder / name / "summary.json").write_text(summary.model_dump_json())
            lines.append(f"{name}.svs,P{i},{name},{site},{'d' if site == 'metastasis' else ''},{60 + i}")
    rows.append(SlideRow.failed("broken", Path("/slides/broken.svs"), "not a slide"))
    write_slides_table(folder, rows)
    lines += ["broken.svs,P0,broken,primary,,60", "lost.svs,P1,lost,primary,,61"]
    manifest = folder / "cohort.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return folder, manifest


def run(*arguments: object):
    return CliRunner().invoke(app, ["cohort", *map(str, arguments), "--set", "bootstrap_samples=300"])


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> tuple[Path, CohortSummary, str]:
    folder, manifest = results(tmp_path_factory.mktemp("results"))
    result = run(folder, "--manifest", manifest, "--set", "permutations=999")
    assert result.exit_code == 0, result.output
    summary = CohortSummary.model_validate_json((folder / "cohort.json").read_bytes())
    return folder, summary, result.output


def test_pairs_are_found_and_compared(cohort):
    _, summary, output = cohort
    (stain,) = summary.stains
    assert (stain.design, stain.n_pairs) == ("paired", 9)
    declared = next(c for c in stain.comparisons if c.is_primary_measure)
    assert declared.measure == "log2_core_outer"
    assert declared.n_pairs == 9
    assert declared.shift.value == pytest.approx(-2, abs=0.3)
    assert declared.p < 0.01
    assert declared.effect_size_name == "matched rank-biserial correlation"
    assert [row.name for row in declared.left_out] == ["P10", "P9"]
    assert "kept out of the core of metastases" in output


def test_the_count_model_takes_everyone(cohort):
    _, summary, _ = cohort
    model = summary.stains[0].count_model
    assert (model.n_patients, model.n_slides, model.n_observations) == (11, 20, 80)
    core = next(row.ratio for row in model.interactions if row.zone == "core")
    assert core.low < 0.25 < core.high


def test_what_is_missing_is_told(cohort):
    folder, summary, _ = cohort
    told = {row.name: row.reason for row in summary.excluded}
    assert told["broken"] == "failed: not a slide"
    assert told["lost.svs"] == "named in the manifest, not among the results"
    one_sided = [row.name for row in summary.stains[0].flagged if "one site only" in row.reason]
    assert one_sided == ["P10", "P9"]
    page = (folder / "cohort.html").read_text()
    assert "named in the manifest, not among the results" in page


def test_margins_of_other_widths_give_the_same_answer(cohort):
    _, summary, _ = cohort
    rows = {row.margin_um: row for row in summary.stains[0].sensitivity}
    declared = next(c for c in summary.stains[0].comparisons if c.is_primary_measure)
    # The same width is the same comparison.
    same = rows[500.0].shift
    known = (declared.shift.value, declared.shift.low, declared.shift.high)
    assert (same.value, same.low, same.high) == pytest.approx(known)
    assert rows[250.0].shift.value < 0
    assert rows[250.0].n_primary == 9


def test_profiles_are_of_all_patients_of_a_site(cohort):
    _, summary, _ = cohort
    primary, metastasis = summary.stains[0].profiles
    assert {b.n_patients for b in primary.bins} == {9}
    assert {b.n_patients for b in metastasis.bins} == {11}


def test_adjusted_p_values_are_no_smaller(cohort):
    _, summary, _ = cohort
    for c in summary.stains[0].comparisons:
        if c.p is not None:
            assert c.p_adjusted >= c.p
    assert {c.adjustment for c in summary.stains[0].comparisons if c.is_primary_measure} == {"Holm"}


def test_the_table_of_patients_holds_what_was_compared(cohort):
    folder, summary, _ = cohort
    with (folder / "cohort_patients.csv").open() as file:
        rows = list(csv.DictReader(file))
    declared = [row for row in rows if row["measure"] == "log2_core_outer"]
    assert len(declared) == 18
    known = next(c for c in summary.stains[0].comparisons if c.is_primary_measure)
    assert sum(float(row["value"]) for row in declared) == pytest.approx(sum(v.value for v in known.values))


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("src", "href") and value]
        if tag not in ("meta", "img", "br", "link", "path", "use", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag in self.open:
            while self.open.pop() != tag:
                pass


def test_the_report_stands_alone(cohort):
    folder, _, _ = cohort
    text = (folder / "cohort.html").read_text()
    page = Page()
    page.feed(text)
    assert "script" not in page.tags
    assert all(link.startswith("#") for link in page.links)
    assert page.open == []
    for words in ("Methods, to be pasted", "Wilcoxon F.", "says nothing about exhaustion", "Hodges-Lehmann"):
        assert words in text


def test_the_same_cohort_gives_the_same_files(cohort, tmp_path):
    folder, _, _ = cohort
    result = run(folder, "--manifest", folder / "cohort.csv", "--out", tmp_path, "--set", "permutations=999")
    assert result.exit_code == 0
    for name in ("cohort.json", "cohort.html", "cohort_patients.csv"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_states_beside_our_results_are_found(tmp_path):
    folder, manifest = results(tmp_path / "states", n_pairs=2, n_single=1)
    cells = pd.DataFrame(
        [
            {"slide_id": name, "patient": name, "lesion": name, "site": name.split("_")[1], "zone": zone}
            for name in sorted(path.parent.name for path in folder.glob("*/summary.json"))
            # One slide has no states.
            if name != "P0_primary"
            for zone in ZONES
        ]
    ).assign(n_cd8=80, area_mm2=ZONE_AREA_MM2)
    write_states(folder, cells, {"PD-1+": TRUTHS["PD-1+"]}, seed=1)
    result = run(folder, "--manifest", manifest)
    assert result.exit_code == 0, result.output
    states = CohortSummary.model_validate_json((folder / "cohort.json").read_bytes()).stains[0].states
    assert (states.n_slides, states.n_slides_without) == (4, 1)
    fraction = states.states[0].fractions[0]
    assert fraction.n_cd8 == {"primary": 320, "metastasis": 960}
    assert [group.n_patients for group in fraction.comparison.groups] == [1, 3]


def test_few_patients_have_no_p_value_and_a_reason(tmp_path):
    folder, manifest = results(tmp_path / "few", n_pairs=3, n_single=0)
    assert run(folder, "--manifest", manifest).exit_code == 0
    summary = CohortSummary.model_validate_json((folder / "cohort.json").read_bytes())
    declared = next(c for c in summary.stains[0].comparisons if c.is_primary_measure)
    assert declared.p is None
    assert "too few" in declared.not_assessable
    assert declared.shift.value is not None
    assert declared.shift.low is None
    assert summary.stains[0].count_model.not_assessable
    assert "too few" in (folder / "cohort.html").read_text()


def test_hostile_names_are_text(tmp_path):
    folder, manifest = results(tmp_path / "hostile", n_pairs=6, n_single=1)
    text = manifest.read_text().replace("P6,", "<script>alert(1)</script>,").replace("P0,", "=cmd(),")
    manifest.write_text(text)
    assert run(folder, "--manifest", manifest).exit_code == 0
    assert "<script>" not in (folder / "cohort.html").read_text()
    assert "'=cmd()" in (folder / "cohort_patients.csv").read_text()


class TestErrors:
    def invoke(self, *arguments):
        result = run(*arguments)
        assert result.exit_code != 0
        assert isinstance(result.exception, ConfigError | ResultsError)
        return str(result.exception)

    def test_a_folder_without_results_or_tables(self, tmp_path):
        result = run(tmp_path)
        assert "holds no table" in str(result.exception)

    def test_no_site_anywhere(self, tmp_path):
        folder, _ = results(tmp_path / "r", n_pairs=2, n_single=0)
        assert "no slide of r has a patient and a site" in self.invoke(folder)

    def test_a_measure_that_is_not_there(self, tmp_path):
        folder, manifest = results(tmp_path / "r", n_pairs=2, n_single=0)
        text = self.invoke(folder, "--manifest", manifest, "--set", "primary_measure=moon")
        assert "'moon'" in text
        assert "log2_core_outer" in text

    def test_a_column_with_the_name_of_a_measure(self, tmp_path):
        folder, manifest = results(tmp_path / "r", n_pairs=2, n_single=0)
        manifest.write_text(manifest.read_text().replace("age", "density_per_mm2", 1))
        assert "density_per_mm2" in self.invoke(folder, "--manifest", manifest)

    def test_a_summary_that_is_gone_or_old(self, tmp_path):
        folder, manifest = results(tmp_path / "r", n_pairs=2, n_single=0)
        path = folder / "P0_primary" / "summary.json"
        path.write_text("{}")
        assert "another version" in self.invoke(folder, "--manifest", manifest)
        path.unlink()
        assert "cannot be read" in self.invoke(folder, "--manifest", manifest)

    def test_table_options_on_a_results_folder(self, tmp_path):
        folder, manifest = results(tmp_path / "r", n_pairs=2, n_single=0)
        assert "--mpp" in self.invoke(folder, "--manifest", manifest, "--mpp", 0.5)

    def test_a_table_without_out(self, tmp_path):
        table = tmp_path / "zones.csv"
        table.write_text("slide,zone,n_positive,area_mm2\na,core,3,1\n")
        assert "--out" in self.invoke(table)


class TestCovariates:
    def test_they_are_spread_over_the_sites(self, cohort):
        _, summary, _ = cohort
        told = {row.name: row.by_site for row in summary.stains[0].covariates}
        assert told["growth_pattern"] == {"primary": "not recorded", "metastasis": "desmoplastic: 11"}
        assert told["age"]["primary"] == "64 (62 to 66)"

    def test_the_answer_within_levels(self, tmp_path):
        folder, manifest = results(tmp_path / "levels", n_pairs=14, n_single=0)
        lines = manifest.read_text().splitlines()
        # Half of the metastases are of the replacement type; the last patients are few.
        changed = [
            line.replace(",d,", ",r,")
            if line.startswith(("P0_", "P1_", "P2_", "P3_", "P4_", "P5_"))
            else line
            for line in lines
        ]
        manifest.write_text("\n".join(changed) + "\n")
        assert run(folder, "--manifest", manifest).exit_code == 0
        summary = CohortSummary.model_validate_json((folder / "cohort.json").read_bytes())
        rows = {row.level: row for row in summary.stains[0].subgroups}
        assert set(rows) == {"desmoplastic", "replacement"}
        assert (rows["replacement"].n_primary, rows["replacement"].n_metastasis) == (6, 6)
        assert (rows["desmoplastic"].n_primary, rows["desmoplastic"].n_metastasis) == (8, 8)
        assert rows["desmoplastic"].shift.value == pytest.approx(-2, abs=0.4)

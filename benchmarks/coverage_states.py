"""Do the cohort's statistics of states keep their promises? Coverage and false positives on known truth.

    python benchmarks/coverage_states.py --out DIR [--replicates 1000] [--jobs 2]
                                         [--only ranks model zones] [--designs "25 vs 17" "20 pairs"]

Counts come from `histo.cohort.simulate`: CD8+ cells of which metastases have fewer, and cells with a state
among them, of patients who differ. The two arms, 0.20 in primaries and 0.35 in metastases, are assumed, not
from literature. Intervals of 95 % should hold the truth in 93 to 97 % of cohorts, tests at 5 % should find
what is not there in 4 to 6 %. Prints a table with the standard error of the simulation and writes it to
DIR/coverage_states.csv; "edge" is outside by less than two standard errors. Rows marked "beyond" break an
assumption of the method on purpose and are not judged.

The truth of each rank statistic is its value in one sample of 100,000 patients; that of the models is a
parameter of the simulation.
"""

from __future__ import annotations

import argparse
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).parent))
from coverage_counts import holds, rejects, summarise

from histo.cohort.simulate import (
    ASSUMED_FRACTIONS,
    METASTASIS,
    PRIMARY,
    CohortTruth,
    StateTruth,
    simulate_cohort,
    simulate_states,
)
from histo.cohort.statistics.bootstrap import bootstrap_groups, mean_difference
from histo.cohort.statistics.fraction_model import fit_fraction_model
from histo.cohort.statistics.permutation import permutation_test
from histo.cohort.statistics.two_groups import compare_paired, compare_unpaired

Values = np.ndarray
TRUTH_PATIENTS = 100_000
CHUNK = 50
MIN_CD8 = 20
ZONES = ("outer_margin", "core")

# CD8+ cells by lesion: a third as many in metastases, in the core a fifth.
WHOLE = CohortTruth(
    zones=("all",),
    mean_ln={PRIMARY: (5.5,), METASTASIS: (4.4,)},
    sd_ln=dict.fromkeys((PRIMARY, METASTASIS), (1.0,)),
)
BY_ZONE = CohortTruth(
    zones=ZONES,
    mean_ln={PRIMARY: (5.8, 4.8), METASTASIS: (5.9, 3.2)},
    sd_ln=dict.fromkeys((PRIMARY, METASTASIS), (1.0, 1.2)),
    zone_correlation=0.6,
)


@dataclass(frozen=True)
class Case:
    """A world, a design, and what is asked there."""

    kind: str  # ranks, model or zones
    world: str
    truth: StateTruth
    n_primary: int
    n_metastasis: int
    n_pairs: int
    null: bool = False
    beyond: bool = False
    logit: bool = False

    @property
    def paired(self) -> bool:
        return self.n_pairs > 0

    @property
    def design(self) -> str:
        return f"{self.n_pairs} pairs" if self.paired else f"{self.n_primary} vs {self.n_metastasis}"


def truth_of_states(
    primary: float, metastasis: float, *, patient_sd: float, lesion_sd: float = 0.0, k: float = 15.0
) -> StateTruth:
    fractions = {
        site: dict.fromkeys(("all", *ZONES), value)
        for site, value in ((PRIMARY, primary), (METASTASIS, metastasis))
    }
    return StateTruth(fractions, patient_sd=patient_sd, lesion_sd=lesion_sd, dispersion_k=k)


def cases() -> list[Case]:
    low, high = ASSUMED_FRACTIONS[PRIMARY], ASSUMED_FRACTIONS[METASTASIS]
    found = []
    for design in ((25, 17, 0), (0, 0, 20), (12, 10, 0), (0, 0, 10)):
        paired = design[2] > 0
        # One row a patient: the dispersion is the patients' variance. Pairs: a patient's sites are alike.
        sd, k = (0.6, 15.0) if paired else (0.0, 8.0)
        apart, same = (truth_of_states(low, other, patient_sd=sd, k=k) for other in (high, low))
        normal = truth_of_states(low, low, patient_sd=0.6, lesion_sd=0.5)
        rare = truth_of_states(0.03, 0.03, patient_sd=sd, k=k)
        found += [
            Case("ranks", "assumed arms", apart, *design),
            Case("ranks", "equal fractions", same, *design, null=True),
            Case("ranks", "equal, 3 %", rare, *design, null=True, beyond=True),
            Case("ranks", "equal, 3 %, logit", rare, *design, null=True, beyond=True, logit=True),
            Case("model", "assumed arms", apart, *design),
            Case("model", "equal fractions", same, *design, null=True),
            Case("model", "equal, logistic normal", normal, *design, null=True, beyond=True),
        ]
        lesions = 0.4 if paired else 0.0
        zones = replace(truth_of_states(low, high, patient_sd=0.6, lesion_sd=lesions), dispersion_k=20.0)
        found.append(Case("zones", "no interaction", zones, *design, null=True))
    return found


def draw(case: Case, sizes: dict[str, int], seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    cells = simulate_cohort(BY_ZONE if case.kind == "zones" else WHOLE, **sizes, seed=rng)
    return simulate_states(cells[cells["n_cd8"] > 0], case.truth, seed=rng)


def scaled(case: Case, frame: pd.DataFrame) -> tuple[Values, Values]:
    """Return the values of primaries and of metastases with enough cells, in the order of patients."""
    known = frame[frame["n_cd8"] >= MIN_CD8]
    positive, total = known["n_positive"], known["n_cd8"]
    value = np.log((positive + 0.5) / (total - positive + 0.5)) if case.logit else positive / total
    wide = known.assign(value=value).pivot(index="patient", columns="site", values="value")
    if case.paired:
        wide = wide.dropna()
    return wide[PRIMARY].dropna().to_numpy(np.float64), wide[METASTASIS].dropna().to_numpy(np.float64)


def truth_of(case: Case) -> dict[str, float]:
    if case.kind == "zones":
        return {"interaction of core": 1.0, "odds ratio in core": case.truth.odds_ratio("core")}
    if case.kind == "model":
        return {"odds ratio": case.truth.odds_ratio("all")}
    if case.null:
        return {}
    x, y = scaled(case, draw(case, {"n_primary": 0, "n_metastasis": 0, "n_pairs": TRUTH_PATIENTS}, seed=1))
    if case.paired:
        difference = y - x
        mixed = (difference + np.roll(difference, 1)) / 2
        effect = {"Hodges-Lehmann": float(np.median(mixed)), "rank-biserial": float(np.sign(mixed).mean())}
    else:
        n = min(len(x), len(y))
        strangers = y[:n] - np.roll(x[:n], 1)
        effect = {
            "Hodges-Lehmann": float(np.median(strangers)),
            "Cliff's delta": float(np.sign(strangers).mean()),
        }
    return effect | {"difference of medians": float(np.median(y) - np.median(x))}


def rank_replicate(case: Case, frame: pd.DataFrame, truth: dict[str, float], seed: int) -> dict[str, float]:
    x, y = scaled(case, frame)
    compared = (compare_paired if case.paired else compare_unpaired)(x, y, unit="")
    test = "signed-rank test" if case.paired else "Mann-Whitney test"
    found = {test if case.null else "power": rejects(compared.p_value)}
    if case.null:
        permuted = permutation_test(
            x, y, paired=case.paired, statistic=mean_difference, arrangements=999, seed=seed
        )
        return found | {"permutation test of means": rejects(permuted.p_value)}
    found["Hodges-Lehmann"] = holds(compared.shift, truth["Hodges-Lehmann"])
    name, effect = (
        ("rank-biserial", compared.rank_biserial) if case.paired else ("Cliff's delta", compared.cliffs_delta)
    )
    found[name] = holds(effect, truth[name])
    interval = bootstrap_groups(x, y, unit="", paired=case.paired, resamples=999, seed=seed)
    found["difference of medians"] = holds(interval.estimate, truth["difference of medians"])
    return found


def model_replicate(case: Case, frame: pd.DataFrame, truth: dict[str, float]) -> dict[str, float]:
    zones = case.kind == "zones"
    model = fit_fraction_model(
        frame["n_positive"],
        frame["n_cd8"],
        frame["site"].tolist(),
        frame["zone"].tolist(),
        frame["patient"].tolist(),
        frame["lesion"].tolist(),
        reference_zone=ZONES[0] if zones else "all",
    )
    found = {"not trusted": float(not model.trusted)}
    tests = [test for test in (model.wald, model.likelihood_ratio, model.robust_wald) if test is not None]
    for test in tests:
        if case.null:
            found[f"{test.kind} test"] = rejects(test.p_value)
        elif test.kind == "robust Wald":
            found["power"] = rejects(test.p_value)
    if zones:
        (core,) = (ratio for ratio in model.site_ratios if ratio.zone == "core")
        found["interaction of core"] = holds(model.interactions[0].ratio, truth["interaction of core"])
        found["odds ratio in core"] = holds(core.ratio, truth["odds ratio in core"])
    else:
        found["odds ratio"] = holds(model.site_ratios[0].ratio, truth["odds ratio"])
        found["ln odds ratio less truth"] = (
            float("nan")
            if (value := model.site_ratios[0].ratio.value) is None
            else float(np.log(value / truth["odds ratio"]))
        )
    return found


def chunk(case: Case, truth: dict[str, float], seeds: range) -> list[dict[str, float]]:
    sizes = {"n_primary": case.n_primary, "n_metastasis": case.n_metastasis, "n_pairs": case.n_pairs}
    answers = []
    for seed in seeds:
        frame = draw(case, sizes, seed)
        if case.kind == "ranks":
            answers.append(rank_replicate(case, frame, truth, seed))
        else:
            answers.append(model_replicate(case, frame, truth))
    return answers


def judged(case: Case, answers: list[dict[str, float]]) -> list[dict[str, object]]:
    """Return a row per question; power and bias are told, not judged."""
    table = pd.DataFrame(answers)
    told = [name for name in ("power", "ln odds ratio less truth") if name in table]
    # A case of `coverage_counts.py` has the same attributes.
    rows = summarise(case, table.drop(columns=told).to_dict(orient="records"))  # type: ignore[arg-type]
    for name in told:
        values = table[name].dropna()
        error = float(values.std() / np.sqrt(len(values)))
        rows.append(
            {
                "kind": case.kind,
                "world": case.world,
                "design": case.design,
                "what": name,
                "share": float(values.mean()),
                "error": error,
                "n": len(values),
                "without": len(table) - len(values),
                "verdict": "told",
            }
        )
    return rows


def study(*, replicates: int, jobs: int, only: list[str], designs: list[str] | None) -> pd.DataFrame:
    """Run the cases and return a row per case and question."""
    rows: list[dict[str, object]] = []
    with ProcessPoolExecutor(jobs) as pool:
        waiting = []
        for index, case in enumerate(cases()):
            if case.kind not in only or (designs and case.design not in designs):
                continue
            truth, first = truth_of(case), 1_000_003 * (index + 1)
            starts = range(0, replicates, CHUNK)
            parts = [
                pool.submit(chunk, case, truth, range(first + at, first + min(at + CHUNK, replicates)))
                for at in starts
            ]
            waiting.append((case, parts))
        for case, parts in waiting:
            found = judged(case, [answer for part in parts for answer in part.result()])
            for row in found:
                print(
                    f"{row['kind']:6} {row['world']:24} {row['design']:9} {row['what']:28} "
                    f"{row['share']:7.4f} ± {row['error']:.4f}  {row['verdict']}",
                    flush=True,
                )
            rows += found
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=2)
    kinds = ["ranks", "model", "zones"]
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--designs", nargs="+", help="for example '25 vs 17' '20 pairs'; all without it")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    table = study(
        replicates=options.replicates, jobs=options.jobs, only=options.only, designs=options.designs
    )
    table.to_csv(options.out / "coverage_states.csv", index=False)
    outside = int((table["verdict"] == "OUTSIDE").sum())
    print(f"{len(table)} rows, {outside} outside")


if __name__ == "__main__":
    main()

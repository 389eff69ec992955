"""Do the cohort's statistics keep their promises? Coverage and false positives on cohorts of known truth.

<<<<<<<< HEAD:benchmarks/coverage_counts.py
    python benchmarks/coverage_counts.py --out DIR [--replicates 4000] [--fits 3000] [--jobs 2]
========
    python benchmarks/coverage_counts.py --out DIR [--replicates 4000] [--fits 3000] [--jobs 2]
>>>>>>>> h-N:benchmarks/coverage_counts.py
                                  [--only ranks model] [--designs "25 vs 17" ...]

Cohorts come from `histo.cohort.simulate`. Intervals of 95 % should hold the truth in 93 to 97 % of cohorts,
tests at 5 % should reject a true null hypothesis in 4 to 6 %. Prints a table with the standard error of
the simulation and writes it to DIR/coverage.csv; "edge" is outside by less than two standard errors. Rows
marked "beyond" break an assumption of the method on purpose (spread differs between the sites; counts that
are not negative binomial, or a variance component left out): they show what then happens, and are not judged.

The truth of each rank statistic is its value in one sample of 200,000 patients; that of the count model is a
parameter of the simulation, or where there is none what the model says of 10,000 patients.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from histo.cohort.simulate import KATHER, METASTASIS, PRIMARY, CohortTruth, simulate_cohort
from histo.cohort.statistics.bootstrap import bootstrap_groups
from histo.cohort.statistics.count_model import fit_count_model
from histo.cohort.statistics.permutation import permutation_test
from histo.cohort.statistics.site_by_zone import SiteByZoneModel
from histo.cohort.statistics.two_groups import compare_paired, compare_unpaired
from histo.measure.summary import Estimate

Array = NDArray[np.float64]

COVERAGE, FALSE_POSITIVES = (0.93, 0.97), (0.04, 0.06)
LOG2_RATIO = "log2 ratio"
TRUTH_PATIENTS = 200_000
CHUNK = 100


@dataclass(frozen=True)
class Case:
    """A world, a design, and what is asked there. `beyond` says which assumption is broken."""

    kind: str  # ranks or model
    world: str
    truth: CohortTruth
    n_primary: int
    n_metastasis: int
    n_pairs: int
    null: bool = False
    lesion_effect: bool = False
    beyond: bool = False

    @property
    def paired(self) -> bool:
        return self.n_pairs > 0

    @property
    def design(self) -> str:
        return f"{self.n_pairs} pairs" if self.paired else f"{self.n_primary} vs {self.n_metastasis}"


def same_sites(truth: CohortTruth) -> CohortTruth:
    """Return the truth with metastases as the primaries."""
    return replace(
        truth,
        mean_ln=dict.fromkeys(truth.mean_ln, truth.mean_ln[PRIMARY]),
        sd_ln=dict.fromkeys(truth.sd_ln, truth.sd_ln[PRIMARY]),
    )


def count_truth(*, effect: float, lesions: bool) -> CohortTruth:
    """Return counts as the model has them: about as dispersed as Kather's CD8 (k 2.3, patients' sd 1)."""
    primary = (5.85, 4.84, 5.14)
    metastasis = (5.85 + 0.15, 4.84 + 0.15 + effect, 5.14 + 0.15 + effect / 2)
    sd = np.hypot(0.9, 0.5) if lesions else 1.0
    return CohortTruth(
        zones=("outer_margin", "core", "inner_margin"),
        mean_ln={PRIMARY: primary, METASTASIS: metastasis},
        sd_ln=dict.fromkeys((PRIMARY, METASTASIS), (sd, sd, sd)),
        site_correlation=0.81 / 1.06 if lesions else 0.0,
        dispersion_k=2.3,
    )


def cases() -> list[Case]:
    kather = replace(
        KATHER,
        zones=("core", "outer_margin"),
        mean_ln={site: (values[0], values[2]) for site, values in KATHER.mean_ln.items()},
        sd_ln={site: (values[0], values[2]) for site, values in KATHER.sd_ln.items()},
    )
    shift = replace(kather, sd_ln=dict.fromkeys(kather.sd_ln, (1.5, 1.0)))
    found = []
    for design in ((25, 17, 0), (0, 0, 20), (12, 10, 0), (0, 0, 10), (60, 60, 0), (0, 0, 60)):
        paired = design[2] > 0
        found += [
            Case("ranks", "shift, one spread", shift, *design),
            Case("ranks", "no difference", same_sites(shift), *design, null=True),
            Case("ranks", "Kather's spreads", kather, *design, beyond=not paired),
            Case("model", "effect", count_truth(effect=-1.4, lesions=paired), *design, lesion_effect=paired),
            Case(
                "model",
                "no interaction",
                count_truth(effect=0.0, lesions=paired),
                *design,
                null=True,
                lesion_effect=paired,
            ),
            Case("model", "lognormal, Kather's spreads", KATHER, *design, lesion_effect=paired, beyond=True),
            Case(
                "model",
                "lognormal, no difference",
                same_sites(KATHER),
                *design,
                null=True,
                lesion_effect=paired,
                beyond=True,
            ),
        ]
        if paired:
            truth = count_truth(effect=0.0, lesions=True)
            found.append(Case("model", "lesions' variance left out", truth, *design, null=True, beyond=True))
    return found


def log2_ratios(frame: pd.DataFrame) -> tuple[Array, Array]:
    """Return log2((core + 1) / (outer + 1)) of primaries and of metastases, in the order of patients."""
    wide = frame.pivot(index=["site", "patient"], columns="zone", values="density_per_mm2")
    ratio = np.log2((wide["core"] + 1) / (wide["outer_margin"] + 1))
    return ratio.loc[PRIMARY].to_numpy(np.float64), ratio.loc[METASTASIS].to_numpy(np.float64)


def truth_of(case: Case) -> dict[str, float]:
    """Return what the statistics estimate."""
    return rank_truth(case) if case.kind == "ranks" else model_truth(case)


def model_truth(case: Case) -> dict[str, float]:
    if case.beyond:
        # No parameter of the simulation is one of the model: take what the model tends to.
        n = TRUTH_PATIENTS // 20
        sizes = (
            {"n_primary": 0, "n_metastasis": 0, "n_pairs": n}
            if case.paired
            else {"n_primary": n, "n_metastasis": n, "n_pairs": 0}
        )
        model = fit_frame(case, simulate_cohort(case.truth, **sizes, seed=1))
        return {
            f"{kind} {ratio.zone}": ratio.ratio.value or float("nan")
            for kind, found in (
                ("interaction of", model.interactions),
                ("site ratio in", model.site_ratios),
            )
            for ratio in found
        }
    at, mean = case.truth.zones.index("core"), case.truth.mean_ln
    return {
        "interaction of core": float(np.exp(case.truth.ln_ratio_of_ratios("core", "outer_margin"))),
        "site ratio in core": float(np.exp(mean[METASTASIS][at] - mean[PRIMARY][at])),
    }


def rank_truth(case: Case) -> dict[str, float]:
    if case.null:
        return {}
    sizes = {"n_primary": 0, "n_metastasis": 0, "n_pairs": TRUTH_PATIENTS}
    x, y = log2_ratios(simulate_cohort(case.truth, **sizes, seed=1))
    difference = y - x
    values = {"difference of medians": float(np.median(y) - np.median(x))}
    if case.paired:
        mixed = (difference + np.roll(difference, 1)) / 2
        return values | {
            "Hodges-Lehmann": float(np.median(mixed)),
            "rank-biserial": float(np.sign(mixed).mean()),
        }
    strangers = y - np.roll(x, 1)
    return values | {
        "Hodges-Lehmann": float(np.median(strangers)),
        "Cliff's delta": float(np.sign(strangers).mean()),
    }


def holds(estimate: Estimate, truth: float) -> float:
    """Return whether the interval holds the truth; NaN where there is none."""
    if estimate.low is None or estimate.high is None:
        return float("nan")
    return float(estimate.low <= truth <= estimate.high)


def rejects(p_value: float | None) -> float:
    return float("nan") if p_value is None else float(p_value <= 0.05)


def rank_replicate(case: Case, x: Array, y: Array, truth: dict[str, float], seed: int) -> dict[str, float]:
    found: dict[str, float] = {}
    compared = (compare_paired if case.paired else compare_unpaired)(x, y, unit=LOG2_RATIO)
    if case.null:
        name = "signed-rank" if case.paired else "Mann-Whitney"
        found[f"{name} test"] = rejects(compared.p_value)
        permuted = permutation_test(x, y, paired=case.paired, arrangements=999, seed=seed)
        found["permutation test of medians"] = rejects(permuted.p_value)
        return found
    found["Hodges-Lehmann"] = holds(compared.shift, truth["Hodges-Lehmann"])
    effect = compared.rank_biserial if case.paired else compared.cliffs_delta
    effect_name = "rank-biserial" if case.paired else "Cliff's delta"
    found[effect_name] = holds(effect, truth[effect_name])
    interval = bootstrap_groups(x, y, unit=LOG2_RATIO, paired=case.paired, resamples=999, seed=seed)
    found["difference of medians"] = holds(interval.estimate, truth["difference of medians"])
    return found


def fit_frame(case: Case, frame: pd.DataFrame) -> SiteByZoneModel:
    return fit_count_model(
        frame["n_cd8"],
        frame["area_mm2"],
        frame["site"].tolist(),
        frame["zone"].tolist(),
        frame["patient"].tolist(),
        frame["lesion"].tolist() if case.lesion_effect else None,
    )


def model_replicate(case: Case, frame: pd.DataFrame, truth: dict[str, float]) -> dict[str, float]:
    model = fit_frame(case, frame)
    found = {"not trusted": float(not model.trusted)}
    if case.null:
        for test in (model.wald, model.likelihood_ratio, model.robust_wald):
            if test is not None:
                found[f"{test.kind} test"] = rejects(test.p_value)
    ratios = [("interaction of core", model.interactions), ("site ratio in core", model.site_ratios)]
    for name, by_zone in ratios:
        (core,) = (ratio for ratio in by_zone if ratio.zone == "core")
        found[name] = holds(core.ratio, truth[name])
    return found


def chunk(case: Case, truth: dict[str, float], seeds: range) -> list[dict[str, float]]:
    """Return the answers of a cohort per seed."""
    sizes = {"n_primary": case.n_primary, "n_metastasis": case.n_metastasis, "n_pairs": case.n_pairs}
    if case.kind == "model":
        frames = [simulate_cohort(case.truth, **sizes, seed=seed) for seed in seeds]
        return [model_replicate(case, frame, truth) for frame in frames]
    # Patients are independent: one large cohort is cut into many.
    large = {name: size * len(seeds) for name, size in sizes.items()}
    x, y = log2_ratios(simulate_cohort(case.truth, **large, seed=seeds[0]))
    parts = zip(seeds, x.reshape(len(seeds), -1), y.reshape(len(seeds), -1), strict=True)
    return [rank_replicate(case, of_x, of_y, truth, seed) for seed, of_x, of_y in parts]


def summarise(case: Case, answers: list[dict[str, float]]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    table = pd.DataFrame(answers)
    for name in table.columns:
        values = table[name].dropna()
        if name == "not trusted":
            low, high = 0.0, 0.01
        else:
            low, high = FALSE_POSITIVES if name.endswith("test") or "test of" in name else COVERAGE
        rate = float(values.mean())
        error = float(np.sqrt(rate * (1 - rate) / len(values)))
        within = "within" if low <= rate <= high else "OUTSIDE"
        if within == "OUTSIDE" and low - 2 * error <= rate <= high + 2 * error:
            within = "edge"
        rows.append(
            {
                "kind": case.kind,
                "world": case.world,
                "design": case.design,
                "what": name,
                "share": rate,
                "error": error,
                "low": low,
                "high": high,
                "n": len(values),
                "without": len(table) - len(values),
                "verdict": "beyond" if case.beyond else within,
            }
        )
    return rows


def study(
    *, replicates: int, fits: int, jobs: int, only: list[str], designs: list[str] | None
) -> pd.DataFrame:
    """Run the cases and return a row per case and question."""
    rows: list[dict[str, object]] = []
    with ProcessPoolExecutor(jobs) as pool:
        waiting = []
        for index, case in enumerate(cases()):
            if case.kind not in only or (designs and case.design not in designs):
                continue
            n = replicates if case.kind == "ranks" else fits
            truth, first = truth_of(case), 1_000_003 * (index + 1)
            parts = [
                pool.submit(chunk, case, truth, range(first + start, first + min(start + CHUNK, n)))
                for start in range(0, n, CHUNK)
            ]
            waiting.append((case, parts))
        for case, parts in waiting:
            found = summarise(case, [answer for part in parts for answer in part.result()])
            for row in found:
                print(
                    f"{row['kind']:6} {row['world']:28} {row['design']:9} {row['what']:36} "
                    f"{row['share']:.4f} ± {row['error']:.4f}  {row['verdict']}",
                    flush=True,
                )
            rows += found
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--replicates", type=int, default=4000, help="cohorts for the rank statistics")
    parser.add_argument("--fits", type=int, default=3000, help="cohorts for the count model")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=["ranks", "model"], default=["ranks", "model"])
    parser.add_argument("--designs", nargs="+", help="for example '25 vs 17' '20 pairs'; all without it")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    table = study(
        replicates=options.replicates,
        fits=options.fits,
        jobs=options.jobs,
        only=options.only,
        designs=options.designs,
    )
    table.to_csv(options.out / "coverage.csv", index=False)
    outside = int((table["verdict"] == "OUTSIDE").sum())
    print(f"{len(table)} rows, {outside} outside")


if __name__ == "__main__":
    main()

"""The coverage studies in small: do they run, and do the statistics keep about what they promise?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from histo.cohort.simulate import (
    METASTASIS,
    PRIMARY,
    CohortTruth,
    StateTruth,
    simulate_cohort,
    simulate_states,
)
from histo.cohort.statistics.fraction_model import fit_fraction_model
from histo.cohort.statistics.two_groups import compare_paired, compare_unpaired

ROOT = Path(__file__).resolve().parents[3]
# Metastases have a third of the CD8+ cells, all at least some dozens.
CELLS = CohortTruth(
    zones=("all",),
    mean_ln={PRIMARY: (5.5,), METASTASIS: (4.4,)},
    sd_ln=dict.fromkeys((PRIMARY, METASTASIS), (0.4,)),
    sd_ln_area=0.1,
)


def judged_in_small(tmp_path: Path, script: str, *settings: str) -> pd.DataFrame:
    """Run a study and return what is judged of it, checked to three standard errors of 200 cohorts: 5 %."""
    call = [sys.executable, ROOT / "benchmarks" / f"{script}.py", "--out", tmp_path]
    subprocess.run([*call, *settings], check=True)
    table = pd.read_csv(tmp_path / f"{script}.csv")
    assert set(table["design"]) == {"25 vs 17", "20 pairs"}
    judged = table[table["verdict"].isin(["within", "edge", "OUTSIDE"])]
    assert (judged["share"] > judged["low"] - 0.05).all()
    assert (judged["share"] < judged["high"] + 0.05).all()
    return judged


@pytest.mark.slow
def test_coverage_and_false_positives_in_small(tmp_path: Path) -> None:
    settings = ["--replicates", "200", "--fits", "200", "--designs", "25 vs 17", "20 pairs"]
    judged_in_small(tmp_path, "coverage_counts", *settings)


@pytest.mark.slow
def test_coverage_and_false_positives_of_states_in_small(tmp_path: Path) -> None:
    judged = judged_in_small(tmp_path, "coverage_states", "--replicates", "200")
    assert set(judged["kind"]) == {"ranks", "model", "zones"}


@pytest.mark.parametrize("paired", [False, True])
def test_equal_fractions_are_found_about_as_often_as_the_level_says(paired: bool) -> None:
    sizes = {"n_primary": 0 if paired else 20, "n_metastasis": 0 if paired else 20, "n_pairs": 20 * paired}
    same = {site: {"all": 0.2} for site in (PRIMARY, METASTASIS)}
    truth = StateTruth(same, patient_sd=0.6 * paired, dispersion_k=12.0)
    ranks, models = [], []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        frame = simulate_states(simulate_cohort(CELLS, **sizes, seed=rng), truth, seed=rng)
        share = frame.assign(share=frame["n_positive"] / frame["n_cd8"])
        x, y = (share.loc[share["site"] == site, "share"].to_numpy() for site in (PRIMARY, METASTASIS))
        compared = (compare_paired if paired else compare_unpaired)(x, y, unit="")
        ranks.append(compared.p_value <= 0.05)
        if seed < 20:
            columns = [frame[name].tolist() for name in ("site", "zone", "patient")]
            model = fit_fraction_model(frame["n_positive"], frame["n_cd8"], *columns, reference_zone="all")
            models.append(model.site_ratios[0].p_value <= 0.05)
    # With 5 % each, more than 12 of 100 and more than 4 of 20 come once in 500 times.
    assert sum(ranks) <= 12
    assert sum(models) <= 4

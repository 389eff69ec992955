"""Made once: the data that make_values.R and the tests compute on.

python tests/cohort/statistics/reference/make_data.py
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from histo.cohort.simulate import METASTASIS, PRIMARY, CohortTruth, simulate_cohort

HERE = Path(__file__).parent


def main() -> None:
    sd = float(np.hypot(0.9, 0.6))
    truth = CohortTruth(
        zones=("outer_margin", "core", "inner_margin"),
        mean_ln={PRIMARY: (5.8, 4.8, 5.1), METASTASIS: (6.0, 3.8, 4.6)},
        sd_ln=dict.fromkeys((PRIMARY, METASTASIS), (sd, sd, sd)),
        site_correlation=0.81 / sd**2,
        dispersion_k=2.0,
        missing_share={"core": 0.1},
    )
    for name, sizes in {"pairs": (0, 0, 20), "mixed": (9, 6, 8)}.items():
        n_primary, n_metastasis, n_pairs = sizes
        frame = simulate_cohort(
            truth, n_primary=n_primary, n_metastasis=n_metastasis, n_pairs=n_pairs, seed=4
        )
        frame["area_mm2"] = frame["area_mm2"].round(4)
        frame.drop(columns="density_per_mm2").to_csv(HERE / f"counts_{name}.csv", index=False)
    rng = np.random.default_rng(5)
    ranks = {
        "small": (rng.normal(0, 1, 7).round(3), rng.normal(1, 1, 6).round(3)),
        "large": (rng.normal(0, 1, 25).round(4), rng.normal(0.8, 1.5, 17).round(4)),
        "tied": (rng.poisson(3, 24).astype(float), rng.poisson(5, 18).astype(float)),
        "pairs": (rng.normal(0, 1, 20).round(4), rng.normal(0.5, 1, 20).round(4)),
        "many pairs": (rng.normal(0, 1, 70).round(4), rng.normal(0.3, 1, 70).round(4)),
        "tied pairs": (rng.poisson(3, 60).astype(float), rng.poisson(4, 60).astype(float)),
    }
    rows = [
        {"case": case, "group": group, "value": value}
        for case, groups in ranks.items()
        for group, values in zip(("reference", "other"), groups, strict=True)
        for value in values
    ]
    pd.DataFrame(rows).to_csv(HERE / "ranks.csv", index=False)


if __name__ == "__main__":
    main()

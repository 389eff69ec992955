"""Made once: the fractions that make_fractions.R and the tests compute on.

python tests/cohort/statistics/reference/make_fractions.py
"""

from __future__ import annotations

from pathlib import Path

from histo.cohort.simulate import (
    METASTASIS,
    PRIMARY,
    CohortTruth,
    StateTruth,
    simulate_cohort,
    simulate_states,
)

HERE = Path(__file__).parent


def main() -> None:
    cells = CohortTruth(
        zones=("outer_margin", "core", "inner_margin"),
        mean_ln={PRIMARY: (5.5, 4.5, 4.8), METASTASIS: (5.5, 3.0, 4.0)},
        sd_ln=dict.fromkeys((PRIMARY, METASTASIS), (1.0, 1.3, 1.2)),
        missing_share={"core": 0.1},
    )
    truth = StateTruth(
        fraction={
            PRIMARY: {"outer_margin": 0.15, "core": 0.25, "inner_margin": 0.2},
            METASTASIS: {"outer_margin": 0.2, "core": 0.45, "inner_margin": 0.3},
        },
        patient_sd=0.7,
        lesion_sd=0.5,
        dispersion_k=25.0,
    )
    for name, sizes in {"pairs": (0, 0, 20), "mixed": (9, 6, 8)}.items():
        n_primary, n_metastasis, n_pairs = sizes
        frame = simulate_cohort(
            cells, n_primary=n_primary, n_metastasis=n_metastasis, n_pairs=n_pairs, seed=14
        )
        frame = simulate_states(frame[frame["n_cd8"] > 0], truth, seed=15)
        columns = ["patient", "site", "lesion", "zone", "n_cd8", "n_positive"]
        frame[columns].to_csv(HERE / f"fractions_{name}.csv", index=False)


if __name__ == "__main__":
    main()

"""A rendered cohort, from pixels to the odds ratio: is what is there found, and nothing that is not?

    python benchmarks/states_cohort.py --out DIR [--draws 2000]

Renders immunofluorescence of 24 patients, 800 x 600 um a slide: a primary in the bowel wall, a metastasis in
the liver in which PD-1 is as frequent, and one in which it is more so. Patients differ, and lesions within
them (see `Fractions`). `histo infer` finds the cells, once; `histo states` gates each batch without controls;
`histo cohort` compares the sites of the first twelve patients, with more PD-1 in metastases and with equal
fractions.

The rate at which what is not there is found: the batch of all 24 patients with equal fractions, from which
cohorts are drawn, 12 patients each, every patient's site labels swapped or not by chance, so that nothing
depends on the label. And unpaired: one slide of each of 22 patients, 12 called primaries. Of the batch with
more PD-1 cohorts of 12 patients are drawn with their own labels, for the interval. Draws share slides:
their rates belong to these slides, and say less than as many cohorts would.

What is rendered and analysed in DIR already is kept. Prints what was found; writes states_cohort.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from rich.console import Console
from scipy.special import expit, logit

sys.path.insert(0, str(Path(__file__).parent))
from coverage_counts import holds, rejects
from states import marker, part_of, settings

from histo.cohort.command import analyse
from histo.cohort.config import CohortConfig
from histo.cohort.manifest import read_manifest
from histo.cohort.states_table import read_states
from histo.cohort.statistics.fraction_model import fit_fraction_model
from histo.cohort.statistics.site_by_zone import SiteByZoneModel
from histo.cohort.statistics.two_groups import compare_paired, compare_unpaired
from histo.run.batch import run_batch
from histo.run.states import states_of_results
from histo.synthetic.panel import RenderedPanel
from histo.synthetic.slide import SlideSpec, ZoneDensities, render_slide

STATE: Final = "PD-1+"
PATIENTS: Final = [f"P{number:02d}" for number in range(1, 25)]
# By the first letter of a slide's name: primary, metastasis with more PD-1, metastasis with as much.
PRIMARY, MORE, EQUAL = LESIONS = ("primary", "more", "equal")
IN_COHORT: Final = 12
UNPAIRED: Final = (12, 10)
FIRST_SEED: Final = 31_000


@dataclass(frozen=True)
class Fractions:
    """Of CD8+ cells that carry PD-1: beta distributed over lesions, around a logit that patients shift."""

    primary: float = 0.2
    more: float = 0.4
    patient_sd: float = 0.5
    dispersion_k: float = 30.0

    @property
    def odds_ratio(self) -> float:
        """Return that of the metastases with more, within a patient."""
        return float(np.exp(logit(self.more) - logit(self.primary)))

    def draw(self) -> dict[str, float]:
        """Return the fraction of each slide, by name."""
        rng = np.random.default_rng(FIRST_SEED)
        drawn = {}
        for patient in PATIENTS:
            shift = self.patient_sd * rng.standard_normal()
            for lesion, fraction in zip(LESIONS, (self.primary, self.more, self.primary), strict=True):
                middle = expit(logit(fraction) + shift)
                k = self.dispersion_k
                drawn[f"{patient}_{lesion}"] = float(rng.beta(k * middle, k * (1 - middle)))
        return drawn


def specs(fractions: dict[str, float]) -> list[SlideSpec]:
    """Return the slides: fewer CD8+ cells in metastases, and not as many in every lesion."""
    rng = np.random.default_rng(FIRST_SEED + 1)
    made = []
    for index, (name, fraction) in enumerate(fractions.items()):
        is_primary = name.endswith(PRIMARY)
        per_mm2 = (600 if is_primary else 400) * float(np.exp(0.3 * rng.standard_normal()))
        made.append(
            SlideSpec(
                slide_id=name,
                seed=FIRST_SEED + index,
                size_um=(800.0, 600.0),
                margin_um=40.0,
                site="primary" if is_primary else "metastasis",
                host="bowel wall" if is_primary else "liver",
                phenotype="inflamed" if is_primary else "excluded",
                densities=ZoneDensities(*(per_mm2,) * 4),
                kind="fluorescence",
                panel=RenderedPanel((marker(fraction, of_lymphocytes=0.1),), batch=31),
            )
        )
    return made


def infer(out: Path, fractions: dict[str, float]) -> Any:
    """Render and find cells; return the configuration."""
    slides, truth = out / "slides", out / "truth"
    wanted = specs(fractions)
    for spec in wanted:
        if not (truth / f"{spec.slide_id}.truth.json").exists():
            render_slide(spec, slides, annotations_folder=slides, truth_folder=truth, threads=1)
    with (out / "cohort.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("slide", "patient", "site"))
        writer.writerows(
            (f"{spec.slide_id}.ome.tif", spec.slide_id.split("_")[0], spec.site) for spec in wanted
        )
    panel = json.loads((truth / f"{wanted[0].slide_id}.truth.json").read_text())["panel"]
    config = settings("mif", panel)
    (gated,) = config.panel.markers
    markers = (gated.model_copy(update={"statistic": "median"}),)
    config = config.model_copy(update={"panel": config.panel.model_copy(update={"markers": markers})})
    run_batch(
        [slides / f"{spec.slide_id}.ome.tif" for spec in wanted],
        out / "results",
        config,
        manifest=read_manifest(out / "cohort.csv"),
        console=Console(quiet=True),
    )
    return config


def batch(out: Path, name: str, lesion: str, patients: list[str], config: Any) -> tuple[Path, pd.DataFrame]:
    """Gate the primaries and one kind of metastases of patients; return the folder and a row per slide."""
    slides = [f"{patient}_{kind}" for patient in patients for kind in (PRIMARY, lesion)]
    folder = part_of(out / "results", out / name, slides)
    states_of_results(folder, config)
    counts = read_states(folder).counts
    counts = counts[(counts["state"] == STATE) & (counts["zone"] == "all")].set_index("slide_id").loc[slides]
    truth = [pd.read_parquet(out / "truth" / f"{slide}.truth.parquet") for slide in slides]
    frame = pd.DataFrame(
        {
            "patient": [slide.split("_")[0] for slide in slides],
            "site": ["primary" if slide.endswith(PRIMARY) else "metastasis" for slide in slides],
            "n_cd8": counts["n_cd8"].to_numpy(int),
            "n_positive": counts["n_positive"].to_numpy(int),
            "true_n_cd8": [int(cells["is_cd8"].sum()) for cells in truth],
            "true_n_positive": [int(cells.loc[cells["is_cd8"], STATE].sum()) for cells in truth],
        }
    )
    return folder, frame


def fit(frame: pd.DataFrame, of: str = "") -> SiteByZoneModel:
    """Fit the model that `histo cohort` fits over all tissue; `of` "true_" takes the true cells."""
    return fit_fraction_model(
        frame[f"{of}n_positive"],
        frame[f"{of}n_cd8"],
        frame["site"].tolist(),
        ["all"] * len(frame),
        frame["patient"].tolist(),
        (frame["patient"] + frame["site"]).tolist(),
        reference_zone="all",
    )


def ranks(frame: pd.DataFrame) -> float | None:
    """Return the p value of the test of fractions."""
    wide = frame.assign(value=frame["n_positive"] / frame["n_cd8"]).pivot(
        index="patient", columns="site", values="value"
    )
    paired = bool(wide.notna().all(axis=None))
    x, y = (wide[site].dropna().to_numpy(np.float64) for site in ("primary", "metastasis"))
    return (compare_paired if paired else compare_unpaired)(x, y, unit="").p_value


def chosen(frame: pd.DataFrame, rng: np.random.Generator, *, swap: bool) -> pd.DataFrame:
    """Draw a cohort of pairs, their labels swapped by chance or not at all."""
    rows = frame.to_numpy(object).reshape(len(frame) // 2, 2, -1)[
        rng.permutation(len(frame) // 2)[:IN_COHORT]
    ]
    drawn = pd.DataFrame(rows.reshape(2 * IN_COHORT, -1), columns=frame.columns).infer_objects()
    if swap:
        other = np.repeat(rng.random(IN_COHORT) < 0.5, 2)
        swapped = drawn["site"].map({"primary": "metastasis", "metastasis": "primary"})
        drawn["site"] = drawn["site"].where(~other, swapped)
    return drawn


def strangers(frame: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Draw one slide of each of some patients and call the first of them primaries."""
    n = sum(UNPAIRED)
    patients = rng.permutation(len(frame) // 2)[:n]
    drawn = frame.iloc[2 * patients + rng.integers(0, 2, n)].reset_index(drop=True)
    return drawn.assign(site=np.repeat(["primary", "metastasis"], UNPAIRED))


def rate(answers: list[float]) -> dict[str, float]:
    known = np.array(answers)[~np.isnan(answers)]
    share = float(known.mean())
    return {"share": share, "error": float(np.sqrt(share * (1 - share) / len(known))), "n": len(known)}


def draws(equal: pd.DataFrame, more: pd.DataFrame, odds_ratio: float, n: int) -> dict[str, dict[str, float]]:
    """Draw cohorts and return the rates."""
    rng = np.random.default_rng(FIRST_SEED + 2)
    found: dict[str, list[float]] = {}

    def note(name: str, answer: float) -> None:
        found.setdefault(name, []).append(answer)

    for _ in range(n):
        for design, frame in (
            ("12 pairs", chosen(equal, rng, swap=True)),
            ("12 against 10", strangers(equal, rng)),
        ):
            model = fit(frame)
            test = model.robust_wald
            note(f"{design}: found without effect, robust Wald", rejects(test.p_value if test else None))
            note(f"{design}: found without effect, ranks", rejects(ranks(frame)))
    for _ in range(n // 4):
        frame = chosen(more, rng, swap=False)
        model = fit(frame)
        note("12 pairs: interval holds the odds ratio", holds(model.site_ratios[0].ratio, odds_ratio))
        note("12 pairs: found with effect, robust Wald", rejects(model.site_ratios[0].p_value))
        note("12 pairs: found with effect, ranks", rejects(ranks(frame)))
    return {name: rate(answers) for name, answers in found.items()}


def described(frame: pd.DataFrame) -> dict[str, Any]:
    """Return how well fractions were measured, and the model's odds ratio of counted and of true cells."""
    error = frame["n_positive"] / frame["n_cd8"] - frame["true_n_positive"] / frame["true_n_cd8"]
    ratios = {
        name: fit(frame, of).site_ratios[0] for name, of in (("odds_ratio", ""), ("of_true_cells", "true_"))
    }
    return {
        "slides": len(frame),
        "n_cd8_median": float(frame["n_cd8"].median()),
        "n_cd8_range": [int(frame["n_cd8"].min()), int(frame["n_cd8"].max())],
        "fraction_error_mean": float(error.mean()),
        "fraction_error_mean_by_site": error.groupby(frame["site"]).mean().to_dict(),
        "fraction_error_largest": float(error.abs().max()),
        **{name: {**r.ratio.model_dump(), "p": r.p_value} for name, r in ratios.items()},
    }


def main() -> None:
    """Render, analyse, draw, and print what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=2000)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    truth = Fractions()
    config = infer(given.out, truth.draw())
    written: dict[str, Any] = {"true odds ratio": {MORE: truth.odds_ratio, EQUAL: 1.0}}
    frames = {}
    for lesion in (MORE, EQUAL):
        folder, frame = batch(given.out, f"cohort_{lesion}", lesion, PATIENTS[:IN_COHORT], config)
        summary = analyse(folder, folder / "cohort", CohortConfig(primary_state=STATE))
        states = summary.stains[0].states
        assert states is not None
        (state,) = states.states
        (fraction,) = (found for found in state.fractions if found.zone == "all")
        written[f"cohort, {lesion}"] = {
            **described(frame),
            "gate": states.gates[0].model_dump(),
            "reported odds ratio": state.overall.odds_ratios[0].model_dump(),
            "reported p": state.overall.p,
            "ranks p": fraction.comparison.p,
            "shift of fractions": fraction.comparison.shift.model_dump(),
        }
        _, frames[lesion] = batch(given.out, f"pool_{lesion}", lesion, PATIENTS, config)
        written[f"pool, {lesion}"] = described(frames[lesion])
    written["draws"] = draws(frames[EQUAL], frames[MORE], truth.odds_ratio, given.draws)
    text = json.dumps(written, indent=1)
    (given.out / "states_cohort.json").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()

"""Sentences of the cohort report: the answer, the methods to be pasted into a paper, and the limits."""

from __future__ import annotations

from typing import Final

from histo.cohort.summary import CohortSummary, Comparison, StainResults, StateResults, StatesResults

_REFERENCES: Final = {
    "kather": "Kather JN et al. Topography of cancer-associated immune cells in human solid tumors. "
    "eLife 2018;7:e36967. doi 10.7554/eLife.36967",
    "mann": "Mann HB, Whitney DR. On a test of whether one of two random variables is stochastically larger "
    "than the other. Ann Math Stat 1947;18:50-60",
    "wilcoxon": "Wilcoxon F. Individual comparisons by ranking methods. Biometrics Bull 1945;1:80-83",
    "hodges": "Hodges JL, Lehmann EL. Estimates of location based on rank tests. "
    "Ann Math Stat 1963;34:598-611",
    "cliff": "Feng D, Cliff N. Monte Carlo evaluation of ordinal d with improved confidence interval. "
    "J Mod Appl Stat Methods 2004;3:322-332",
    "kerby": "Kerby DS. The simple difference formula: an approach to teaching nonparametric correlation. "
    "Compr Psychol 2014;3:11.IT.3.1",
    "benjamini": "Benjamini Y, Hochberg Y. Controlling the false discovery rate. "
    "J R Stat Soc B 1995;57:289-300",
    "holm": "Holm S. A simple sequentially rejective multiple test procedure. Scand J Stat 1979;6:65-70",
    "skellam": "Skellam JG. A probability distribution derived from the binomial distribution by regarding "
    "the "
    "probability of success as variable between the sets of trials. J R Stat Soc B 1948;10:257-261",
    "kristensen": "Kristensen K et al. TMB: automatic differentiation and Laplace approximation. "
    "J Stat Softw 2016;70(5):1-21",
    "bell": "Bell RM, McCaffrey DF. Bias reduction in standard errors for linear regression with multi-stage "
    "samples. Surv Methodol 2002;28:169-181",
    "pustejovsky": "Pustejovsky JE, Tipton E. Small-sample methods for cluster-robust variance estimation "
    "and hypothesis testing in fixed effects models. J Bus Econ Stat 2018;36:672-683",
    "bonett": "Bonett DG, Wright TA. Sample size requirements for estimating Pearson, Kendall and Spearman "
    "correlations. Psychometrika 2000;65:23-28",
}


def answer(stain: StainResults, primary: Comparison | None, level: float) -> str:
    """Say in one or two sentences what the declared measure shows, no more than it does."""
    if primary is None:
        return "The measure declared first is not among those of this stain."
    if primary.not_assessable is not None or primary.shift.value is None:
        reason = primary.not_assessable or primary.shift.not_assessable
        return f"{primary.label}: not assessable ({reason})."
    shift = primary.shift
    label = primary.label[0].upper() + primary.label[1:]
    text = f"{label}: shift of metastases against primary tumours {shift.value:+.2f}{_folds(primary)}"
    if shift.low is None or shift.high is None:
        return f"{text}; too few patients for an interval."
    text += f" ({level * 100:g} % interval {shift.low:+.2f} to {shift.high:+.2f})"
    if shift.low <= 0 <= shift.high:
        return f"{text}. The data are compatible with no difference, and with one in either direction."
    if primary.measure == "log2_core_outer" and shift.high < 0:
        return (
            f"{text}. {stain.positive_name} cells are kept out of the core of metastases more than out of "
            "that of primary tumours."
        )
    return f"{text}. Metastases are {'lower' if shift.high < 0 else 'higher'}."


def state_answers(states: StatesResults, summary: CohortSummary) -> list[str]:
    """Say what the declared state shows; without one, which states differ after adjustment."""
    declared = next((state for state in states.states if state.is_primary_state), None)
    if declared is not None:
        return [state_answer(declared, summary)]
    if not states.states:
        return ["No state could be assessed."]
    many = f"States of CD8+ cells: {len(states.states)}, none declared first"
    adjusted = [state.fractions[0].comparison.p_adjusted for state in states.states]
    if all(p is None for p in adjusted):
        first = states.states[0].fractions[0].comparison
        reason = first.not_assessable or first.shift.not_assessable
        return [
            f"{many}. None could be tested in all assessed tissue (of {states.states[0].state}: {reason})."
        ]
    found = [state for state, p in zip(states.states, adjusted, strict=True) if p is not None and p < 0.05]
    if not found:
        return [
            f"{many}. Of no fraction in all assessed tissue is a difference between the sites shown after "
            "adjustment, which is not evidence that there is none."
        ]
    return [
        f"{many}. After adjustment, fractions in all assessed tissue differ for {len(found)}.",
        *(state_answer(state, summary) for state in found),
    ]


def state_answer(state: StateResults, summary: CohortSummary) -> str:
    """Say in one or two sentences what the fraction with a state shows, no more than it does."""
    fraction = next((f for f in state.fractions if f.comparison.is_primary_measure), state.fractions[0])
    compared = fraction.comparison
    shift = compared.shift
    what = f"{compared.label} ({state.description})"
    if compared.not_assessable is not None or shift.value is None:
        return f"{what}: not assessable ({compared.not_assessable or shift.not_assessable})."
    text = (
        f"{what}: shift of metastases against primary tumours {100 * shift.value:+.1f} percentage points "
        "of CD8+ "
        "cells"
    )
    if shift.low is None or shift.high is None:
        return f"{text}; too few patients for an interval."
    level = f"{summary.confidence_level * 100:g} %"
    text += f" ({level} interval {100 * shift.low:+.1f} to {100 * shift.high:+.1f})"
    model = state.overall if fraction.zone == "all" else state.by_zone
    ratio = next((row.ratio for row in model.odds_ratios if row.zone == fraction.zone), None)
    if ratio is not None and ratio.low is not None and ratio.high is not None:
        text += f"; odds ratio {ratio.value:.3g} ({ratio.low:.3g} to {ratio.high:.3g})"
    if shift.low <= 0 <= shift.high:
        return f"{text}. The data are compatible with no difference, and with one in either direction."
    size = "smaller" if shift.high < 0 else "larger"
    return f"{text}. A {size} share of CD8+ cells is {state.state} in metastases."


def _folds(comparison: Comparison) -> str:
    logarithmic = comparison.scale == "log2" or comparison.unit == "log2 ratio"
    value = comparison.shift.value
    if not logarithmic or value is None:
        return ""
    return f" log2 units (1 : {2**-value:.2g})" if value < 0 else f" log2 units ({2**value:.2g} : 1)"


def methods(summary: CohortSummary) -> list[str]:
    """Return paragraphs for a methods section, with numbers that refer to `references`."""
    number = {key: i for i, key in enumerate(_used(summary), start=1)}
    designs = {stain.design for stain in summary.stains}
    tests = []
    if "unpaired" in designs:
        tests.append(
            f"the Mann-Whitney test [{number['mann']}], with Cliff's delta and its interval "
            f"[{number['cliff']}]"
        )
    if "paired" in designs:
        tests.append(
            f"the Wilcoxon signed-rank test of the patients with both sites [{number['wilcoxon']}], with the "
            f"matched rank-biserial correlation [{number['kerby']}]"
        )
    level = f"{summary.confidence_level * 100:g} %"
    return [
        "Zones were bands round the tumour border by signed distance "
        f"[{number['kather']}]; a density is the number of positive cells whose centroid lies in the "
        "assessed tissue of a zone, divided by the area of that tissue. The patient was the unit of "
        "analysis: several slides of a patient at one site were pooled (densities: all cells over all "
        "area; ratios: from pooled densities; other measures: mean over slides).",
        f"Metastases and primary tumours were compared by {' and '.join(tests)}. Differences are given as "
        f"Hodges-Lehmann shifts [{number['hodges']}] and as differences of medians with {level} intervals, "
        f"the latter from a bootstrap over patients ({summary.bootstrap_samples:,} samples). Densities were "
        "compared as log2(density + 1 per mm2). A permutation test, in which site labels were exchanged "
        f"{'within' if designs == {'paired'} else 'within or between'} patients "
        f"({summary.permutations:,} permutations), is given beside. "
        f"The measure declared in advance was {summary.primary_measure}; its p values are adjusted after "
        f"Holm over the stains [{number['holm']}], all others by false discovery rate over measures and "
        f"stains [{number['benjamini']}]. Tests are two-sided.",
        "Exclusion was tested in a negative binomial mixed model of the counts of all zones, with log area "
        "as offset, site, zone and their interaction as fixed effects and patient and lesion as random "
        "intercepts: the interaction says whether the step between zones differs between the sites. Its "
        "Wald test and the intervals by zone rest on how patients scatter (sandwich with the CR2 correction "
        f"[{number['bell']}], referred to F and Student's t with the degrees of freedom of such a covariance "
        f"[{number['pustejovsky']}]).",
        *_state_methods(summary, number, level),
        f"Phenotypes (inflamed, excluded, desert) follow the rule of Kather et al. [{number['kather']}]. The "
        f"analysis was done with histo {summary.histo_version} (seed {summary.seed}).",
    ]


def _state_methods(summary: CohortSummary, number: dict[str, int], level: str) -> list[str]:
    found = [stain.states for stain in summary.stains if stain.states is not None]
    if not found:
        return []
    declared = (
        f"The state declared in advance was {summary.primary_state}; its p value is adjusted after Holm "
        "together "
        "with that of the declared measure. "
        if summary.primary_state is not None
        else ""
    )
    return [
        "CD8+ cells were called positive for each marker by one gate for the whole batch. The fraction of "
        "CD8+ "
        "cells with a state was pooled over a patient's slides at a site (positive cells over CD8+ cells) "
        "and not "
        f"assessed below {found[0].min_cd8_cells} CD8+ cells. Fractions were compared as differences, by "
        "the same "
        "tests as above, in all assessed tissue and by zone. They were not transformed to log odds, which "
        "with few "
        f"positive cells depend on how many cells were counted. {declared}The p values of the other "
        "fractions are "
        f"adjusted by false discovery rate over states and zones [{number['benjamini']}].",
        f"Beside this, counts were modelled as beta-binomial [{number['skellam']}] with site (by zone: "
        "site, zone and "
        "their interaction) as fixed effects on the logit scale and random intercepts of patient and of "
        "lesion "
        "where they can be told from the dispersion, by maximum likelihood with Laplace's approximation "
        f"[{number['kristensen']}]. Odds ratios have {level} intervals from how patients scatter (sandwich "
        "with the "
        f"CR2 correction [{number['bell']}], referred to Student's t and F with the degrees of freedom of "
        f"such a covariance [{number['pustejovsky']}]); their p values are adjusted "
        "over states. "
        "Exclusion and state were set side by side by Spearman's rank correlation over the patients of a "
        "site, "
        f"with the interval of Bonett and Wright [{number['bonett']}].",
    ]


def references(summary: CohortSummary) -> list[str]:
    """Return the references in the order of their numbers in `methods`."""
    return [_REFERENCES[key] for key in _used(summary)]


def _used(summary: CohortSummary) -> list[str]:
    designs = {stain.design for stain in summary.stains}
    used = ["kather"]
    if "unpaired" in designs:
        used += ["mann", "cliff"]
    if "paired" in designs:
        used += ["wilcoxon", "kerby"]
    used += ["hodges", "holm", "benjamini", "bell", "pustejovsky"]
    if any(stain.states is not None for stain in summary.stains):
        used += ["skellam", "kristensen", "bonett"]
    return used


def limits(summary: CohortSummary) -> list[str]:
    """Return what these numbers cannot say."""
    said = [
        "Staining for CD8 shows how many CD8+ cells there are and where they stand. It says nothing about "
        "exhaustion, function or antigen specificity, and does not tell conventional T cells from other CD8+ "
        "cells, of which the liver holds many.",
        "The host organ's own background differs (liver against bowel): compare ratios to far tissue beside "
        "the densities themselves.",
        "The growth pattern of a metastasis (desmoplastic or not) shapes its margin; where it is not "
        "recorded and balanced, it may be what a difference shows.",
        "An interval that includes no difference is not evidence that there is none.",
        "Measures of one slide are correlated; adjusted p values keep the false discovery rate over those "
        "shown here, not over others that were looked at elsewhere.",
    ]
    if any(stain.design == "unpaired" for stain in summary.stains):
        said.append(
            "In an unpaired comparison, differences between the patients of the two groups (age, treatment, "
            "stage) are not removed."
        )
    found = [stain.states for stain in summary.stains if stain.states is not None]
    if found:
        said += [
            *dict.fromkeys(states.limits for states in found),
            "A fraction of positive cells hangs on where the gate lies. One gate holds for one batch "
            "(staining, "
            "scanner, exposure): compare fractions within a batch, not with those of another.",
            "A fraction says nothing of how many cells there are. Where CD8+ cells are kept out of the "
            "tumour, few "
            "of them carry its fraction, and a patient with too few has none.",
            "Exclusion and state side by side show how two numbers of a patient go together, not that one "
            "makes "
            "the other.",
        ]
    return said

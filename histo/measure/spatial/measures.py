"""The spatial measures of a slide, in words."""

from __future__ import annotations

from typing import Final

from histo.measure.measure import Measure

_CLOSER = "CD8+ cells nearer to tumour nuclei"
_MIXED = "CD8+ cells and tumour nuclei more mixed"
_RIPLEY = "Ripley 1977, J R Stat Soc B 39:172; translation correction"
_SPIAT = "SPIAT (Feng et al. 2023, Nat Commun 14:2697)"
_LABELS = "random labelling within the tissue; border correction"

SPATIAL: Final = (
    Measure(
        "cells_off_tissue",
        "nuclei off the tissue",
        "cells",
        "nuclei outside assessed tissue, left out of every measure",
        "more left out",
        "count",
    ),
    Measure(
        "nearest_tumour_mean_um",
        "nearest tumour nucleus, mean",
        "um",
        "mean distance from a CD8+ cell to the nearest tumour nucleus",
        "further apart",
        _SPIAT,
    ),
    Measure(
        "nearest_tumour_median_um",
        "nearest tumour nucleus, median",
        "um",
        "median distance from a CD8+ cell to the nearest tumour nucleus",
        "further apart",
        _SPIAT,
    ),
    Measure(
        "cd8_ann_index",
        "clustering of CD8+ cells (ANN index)",
        "ratio",
        "mean distance between neighbouring CD8+ cells, to that of cells strewn over the tissue",
        "CD8+ cells less clustered (1: as by chance)",
        "Clark and Evans 1954, Ecology 35:445; Kaplan-Meier correction for the edge",
    ),
    Measure(
        "cross_g_20um",
        "CD8+ with a tumour nucleus within 20 um",
        "share",
        "share of CD8+ cells with a tumour nucleus within 20 um",
        _CLOSER,
        "Baddeley and Gill 1997, Ann Stat 25:263; Kaplan-Meier correction",
    ),
    Measure(
        "cross_g_auc_20um",
        "cross-G, area to 20 um",
        "um",
        "area under cross-G from 0 to 20 um",
        _CLOSER,
        "Barua et al. 2018, Lung Cancer 117:73; Kaplan-Meier correction",
    ),
    Measure(
        "cross_k_ratio_20um",
        "cross-K to chance at 20 um",
        "ratio",
        "tumour nuclei within 20 um of a CD8+ cell, to those if strewn over the tissue",
        f"{_CLOSER} (1: as by chance)",
        _RIPLEY,
    ),
    Measure(
        "cross_k_ratio_50um",
        "cross-K to chance at 50 um",
        "ratio",
        "tumour nuclei within 50 um of a CD8+ cell, to those if strewn over the tissue",
        f"{_CLOSER} (1: as by chance)",
        _RIPLEY,
    ),
    Measure(
        "cross_k_ratio_100um",
        "cross-K to chance at 100 um",
        "ratio",
        "tumour nuclei within 100 um of a CD8+ cell, to those if strewn over the tissue",
        f"{_CLOSER} (1: as by chance)",
        _RIPLEY,
    ),
    Measure(
        "cross_l_minus_r_20um",
        "cross-L less distance at 20 um",
        "um",
        "cross-L less distance at 20 um",
        f"{_CLOSER} (0: as by chance)",
        _RIPLEY,
    ),
    Measure(
        "cross_l_minus_r_50um",
        "cross-L less distance at 50 um",
        "um",
        "cross-L less distance at 50 um",
        f"{_CLOSER} (0: as by chance)",
        _RIPLEY,
    ),
    Measure(
        "cross_l_minus_r_100um",
        "cross-L less distance at 100 um",
        "um",
        "cross-L less distance at 100 um",
        f"{_CLOSER} (0: as by chance)",
        _RIPLEY,
    ),
    Measure(
        "cross_k_auc_difference_100um",
        "cross-K against chance to 100 um",
        "share",
        "area between cross-K (tumour nuclei to CD8+) and its theory up to 100 um, share of the plot",
        f"{_MIXED} (0: as by chance)",
        f"{_SPIAT}; border correction",
    ),
    Measure(
        "cross_k_crossing_100um",
        "crossing of cross-K",
        "share",
        "where cross-K (tumour nuclei to CD8+) crosses its theory, 1 at 0 um and 0 at 100 um",
        "a ring of CD8+ cells nearer to the tumour nuclei",
        f"{_SPIAT}; border correction",
    ),
    Measure(
        "mixing_score_20um",
        "mixing score, 20 um",
        "ratio",
        "pairs of CD8+ and tumour, to pairs of CD8+ cells, within 20 um",
        _MIXED,
        "Keren et al. 2018, Cell 174:1373",
    ),
    Measure(
        "mixing_score_normalised_20um",
        "mixing score, 20 um, normalised",
        "ratio",
        "mixing score for the numbers of cells there are",
        f"{_MIXED} (1: as by chance)",
        _SPIAT,
    ),
    Measure(
        "morisita_horn_50um",
        "Morisita-Horn index, 50 um",
        "index",
        "likeness of the spread of CD8+ cells and tumour nuclei over squares of 50 um, 0 to 1",
        _MIXED,
        "Horn 1966, Am Nat 100:419; Maley et al. 2015, Breast Cancer Res 17:131",
    ),
    Measure(
        "morisita_horn_100um",
        "Morisita-Horn index, 100 um",
        "index",
        "likeness of the spread of CD8+ cells and tumour nuclei over squares of 100 um, 0 to 1",
        _MIXED,
        "Horn 1966, Am Nat 100:419; Maley et al. 2015, Breast Cancer Res 17:131",
    ),
    Measure(
        "morisita_horn_200um",
        "Morisita-Horn index, 200 um",
        "index",
        "likeness of the spread of CD8+ cells and tumour nuclei over squares of 200 um, 0 to 1",
        _MIXED,
        "Horn 1966, Am Nat 100:419; Maley et al. 2015, Breast Cancer Res 17:131",
    ),
    Measure(
        "entropy_bits",
        "entropy of the slide",
        "bits",
        "entropy of the numbers of CD8+ cells and tumour nuclei on the slide, wherever they stand",
        "numbers more alike",
        _SPIAT,
    ),
    Measure(
        "entropy_200um_bits",
        "entropy of 200 um squares",
        "bits",
        "entropy of CD8+ cells and tumour nuclei in squares of 200 um, mean over squares with either",
        _MIXED,
        _SPIAT,
    ),
    Measure(
        "mixed_squares_200um_percent",
        "mixed squares of 200 um",
        "%",
        "squares of 200 um with either, of which the entropy is at least 0.75 bits",
        _MIXED,
        _SPIAT,
    ),
    Measure(
        "cd8_moran_250um",
        "Moran's I of CD8+ density",
        "index",
        "Moran's I of the CD8+ density in squares of 250 um",
        "like densities lie together (0: as by chance)",
        "Moran 1950, Biometrika 37:17",
    ),
    Measure(
        "hot_spot_area_share",
        "area in CD8+ hot spots",
        "share",
        "share of tissue in hot spots of CD8+ density (Gi*, squares of 250 um, false discovery rate 5 %)",
        "more of the tissue crowded with CD8+ cells",
        "Ord and Getis 1995, Geogr Anal 27:286",
    ),
    Measure(
        "hot_spot_colocalisation",
        "hot spots of tumour nuclei shared",
        "share",
        "share of the hot-spot area of tumour nuclei that is a hot spot of CD8+ cells too",
        _MIXED,
        "after Nawaz et al. 2015, Mod Pathol 28:766",
    ),
    Measure(
        "cross_g_20um_to_random",
        "cross-G at 20 um, to random labels",
        "ratio",
        "cross-G at 20 um, to its mean when the CD8+ label is strewn over all nuclei",
        f"{_CLOSER} (1: as nuclei at large)",
        _LABELS,
    ),
    Measure(
        "cross_g_20um_random_z",
        "cross-G at 20 um, from random labels",
        "standard deviations",
        "cross-G at 20 um less that mean, in standard deviations of permuted labels; grows with cells",
        f"{_CLOSER} (0: as nuclei at large)",
        _LABELS,
    ),
    Measure(
        "cross_g_20um_random_p",
        "cross-G at 20 um, p of random labels",
        "p",
        "two-sided rank p of that",
        "less evidence",
        _LABELS,
    ),
    Measure(
        "cross_g_random_p",
        "cross-G to 20 um, global p of random labels",
        "p",
        "global p of cross-G from 4 to 20 um against random labels",
        "less evidence",
        f"{_LABELS}; studentised deviation, Myllymaki et al. 2017, J R Stat Soc B 79:381",
    ),
    Measure(
        "immunogradient_centre_of_mass",
        "immunogradient, centre of mass",
        "rank",
        "centre of mass of CD8+ density over ranks -4 to 4 of hexagons of 65 um across the tumour edge",
        "CD8+ cells further inside the tumour",
        "after Rasmusson et al. 2020, Am J Pathol 190:1309",
    ),
    Measure(
        "immunodrop",
        "immunodrop",
        "ratio",
        "CD8+ density one hexagon outside the tumour edge, to that one hexagon inside",
        "density drops on the way in",
        "after Rasmusson et al. 2020, Am J Pathol 190:1309; its exact ranks are not verified",
    ),
)

# Of tables of cells that nobody has drawn a tumour border for.
STRUCTURE: Final = tuple(
    Measure(
        f"cd8_share_{name}",
        f"CD8+ among cells, {where}",
        "share",
        f"share of cells {meaning} that are CD8+; the tumour region is the alpha hull of tumour cells",
        "more of the cells there are CD8+",
        f"{_SPIAT}: structure",
    )
    for name, where, meaning in (
        (
            "infiltrated",
            "inside the hull",
            "inside the tumour region, further than 5 layers of cells from its border",
        ),
        (
            "internal_margin",
            "inner layers",
            "inside the tumour region within 5 layers of cells of its border",
        ),
        (
            "external_margin",
            "outer layers",
            "outside the tumour region within 5 layers of cells of its border",
        ),
        (
            "stromal",
            "outside the hull",
            "outside the tumour region, further than 5 layers of cells from its border",
        ),
    )
)

"""A small rendered cohort of paired primary tumours and liver metastases with known truth."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from histo.synthetic.panel import RenderedMarker, RenderedPanel
from histo.synthetic.slide import Phenotype, RenderedSlide, Site, SlideSpec, ZoneDensities, render_slide


@dataclass(frozen=True)
class DemoCohort:
    """The files of the demo.

    slides, mif_slides : CD8 H-DAB, and the same lesions in immunofluorescence, in the order of the manifest.
    manifest : CSV with slide, patient, lesion, site, stain, mpp_um.
    slides_folder, mif_folder, annotations_folder, truth_folder : where images, QuPath annotations and true
    cells lie. mif_config : YAML that the immunofluorescence is analysed with.
    """

    slides: tuple[RenderedSlide, ...]
    mif_slides: tuple[RenderedSlide, ...]
    manifest: Path
    mif_config: Path
    slides_folder: Path
    mif_folder: Path
    annotations_folder: Path
    truth_folder: Path

    @property
    def slide_paths(self) -> tuple[Path, ...]:
        """The images."""
        return tuple(slide.slide for slide in self.slides)


# Patient, site, phenotype, um/px, CD8+ densities. The trend is that of Kather 2018 (eLife 7:e36967): fewer
# cells in the core of metastases than of primaries, a like number at the margin, more in liver than in bowel.
_LESIONS: tuple[tuple[str, Site, Phenotype, float, ZoneDensities], ...] = (
    ("P1", "primary", "inflamed", 0.5, ZoneDensities(610, 640, 700, 90)),
    ("P1", "metastasis", "excluded", 0.5, ZoneDensities(60, 170, 620, 180)),
    ("P2", "primary", "inflamed", 0.25, ZoneDensities(520, 560, 560, 70)),
    ("P2", "metastasis", "desert", 0.25, ZoneDensities(25, 60, 120, 110)),
    ("P3", "primary", "excluded", 0.5, ZoneDensities(140, 260, 520, 60)),
    ("P3", "metastasis", "desert", 0.5, ZoneDensities(20, 50, 140, 100)),
)
_SIZE_UM = {0.5: (2600.0, 1700.0), 0.25: (2150.0, 1400.0)}


def demo_specs(seed: int = 1) -> tuple[SlideSpec, ...]:
    """Return what the demo renders: three patients, a primary and a metastasis each."""
    return tuple(
        SlideSpec(
            slide_id=f"{patient}_{site}",
            seed=1000 * seed + index,
            size_um=_SIZE_UM[mpp],
            mpp=mpp,
            site=site,
            host="bowel wall" if site == "primary" else "liver",
            phenotype=phenotype,
            densities=densities,
        )
        for index, (patient, site, phenotype, mpp, densities) in enumerate(_LESIONS)
    )


# Fraction of CD8+ cells with PD-1, and of those the fraction with TIM-3: assumed, no published paired numbers
# from images are known. Their order is that of the flow cytometry of Zhou 2018 (OncoImmunology e1448332).
_CHECKPOINTS: dict[Site, tuple[float, float]] = {"primary": (0.30, 0.40), "metastasis": (0.50, 0.60)}


# At least so many CD8+ cells per mm2: a zone with few of them has no fraction.
_ENOUGH_FOR_STATES = ZoneDensities(80, 110, 180, 150)


def demo_mif_specs(seed: int = 1) -> tuple[SlideSpec, ...]:
    """Return the immunofluorescence of the demo: a slide of each lesion, stained and scanned as one batch."""
    specs = []
    for index, (patient, site, phenotype, _, densities) in enumerate(_LESIONS):
        pd1, tim3 = _CHECKPOINTS[site]
        panel = RenderedPanel(
            (
                RenderedMarker("PD-1", fraction=pd1, of_lymphocytes=0.1, spill={"CD8": 0.04}),
                RenderedMarker("TIM-3", among={"PD-1": tim3}, autofluorescence=0.15, spill={"PD-1": 0.05}),
            ),
            batch=seed,
        )
        specs.append(
            SlideSpec(
                slide_id=f"{patient}_{site}_mif",
                seed=1000 * seed + 750 + index,
                size_um=(2000.0, 900.0),
                tumour_fraction=0.56,
                site=site,
                host="bowel wall" if site == "primary" else "liver",
                phenotype=phenotype,
                densities=ZoneDensities(*map(max, densities, _ENOUGH_FOR_STATES)),
                kind="fluorescence",
                panel=panel,
            )
        )
    return tuple(specs)


def demo_cohort(
    folder: Path,
    seed: int = 1,
    *,
    specs: Sequence[SlideSpec] | None = None,
    mif_specs: Sequence[SlideSpec] | None = None,
    threads: int = 2,
) -> DemoCohort:
    """Render the demo cohort into `folder`: slides/, mif/, annotations/, truth/, cohort.csv and cd8_mif.yaml.

    Parameters
    ----------
    seed : the same seed gives the same cohort.
    specs, mif_specs : other slides than those of `demo_specs` and `demo_mif_specs`. The first two words of
        their `slide_id`, parted by "_", are the patient and the site, and together the lesion.
    """
    annotations, truth = folder / "annotations", folder / "truth"
    folders = {"cd8_ihc": folder / "slides", "cd8_mif": folder / "mif"}
    chosen = {
        "cd8_ihc": demo_specs(seed) if specs is None else specs,
        "cd8_mif": demo_mif_specs(seed) if mif_specs is None else mif_specs,
    }
    made = {
        stain: tuple(
            render_slide(
                spec, folders[stain], annotations_folder=annotations, truth_folder=truth, threads=threads
            )
            for spec in wanted
        )
        for stain, wanted in chosen.items()
    }
    manifest = folder / "cohort.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("slide", "patient", "lesion", "site", "stain", "mpp_um"))
        for stain, slides in made.items():
            for slide in slides:
                spec = slide.spec
                patient, *rest = spec.slide_id.split("_")
                lesion = "_".join([patient, *rest[:1]])
                writer.writerow((slide.slide.name, patient, lesion, spec.site, stain, spec.mpp))
    mif_config = folder / "cd8_mif.yaml"
    undo = made["cd8_mif"][0].truth["panel"] if made["cd8_mif"] else {}
    mif_config.write_text(yaml.safe_dump(_mif_settings(undo), sort_keys=False), encoding="utf-8")
    return DemoCohort(
        slides=made["cd8_ihc"],
        mif_slides=made["cd8_mif"],
        manifest=manifest,
        mif_config=mif_config,
        slides_folder=folders["cd8_ihc"],
        mif_folder=folders["cd8_mif"],
        annotations_folder=annotations,
        truth_folder=truth,
    )


def _mif_settings(undo: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of the demo's immunofluorescence, of channels whose spill-over is known."""
    return {
        "name": "cd8_mif",
        "stain": {
            "kind": "fluorescence",
            "nuclear": "DAPI",
            "cd8": "CD8",
            "autofluorescence": "Autofluorescence",
        },
        "cells": {"centre_threshold": 0.5, "min_area_um2": 16},
        "panel": {
            "markers": [
                # The median of a ring is that of its own membrane, also where a neighbour's lies against it.
                {"name": name, "channel": name, "role": "checkpoint", "statistic": "median"}
                for name in ("PD-1", "TIM-3")
            ],
            **undo,
        },
    }

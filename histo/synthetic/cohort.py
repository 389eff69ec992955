"""A small rendered cohort of paired primary tumours and liver metastases with known truth."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from histo.synthetic.slide import Phenotype, RenderedSlide, Site, SlideSpec, ZoneDensities, render_slide


@dataclass(frozen=True)
class DemoCohort:
    """The files of the demo.

    slides : in the order of the manifest. manifest : CSV with slide, patient, lesion, site, stain, mpp_um.
    slides_folder, annotations_folder, truth_folder : where images, QuPath annotations and true cells lie.
    """

    slides: tuple[RenderedSlide, ...]
    manifest: Path
    slides_folder: Path
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


def demo_cohort(
    folder: Path, seed: int = 1, *, specs: Sequence[SlideSpec] | None = None, threads: int = 2
) -> DemoCohort:
    """Render the demo cohort into `folder`: slides/, annotations/, truth/ and cohort.csv.

    Parameters
    ----------
    seed : the same seed gives the same cohort.
    specs : other slides than those of `demo_specs`; what precedes "_" in their `slide_id` is the patient.
    """
    slides_folder, annotations, truth = folder / "slides", folder / "annotations", folder / "truth"
    slides = tuple(
        render_slide(spec, slides_folder, annotations_folder=annotations, truth_folder=truth, threads=threads)
        for spec in (demo_specs(seed) if specs is None else specs)
    )
    manifest = folder / "cohort.csv"
    with manifest.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("slide", "patient", "lesion", "site", "stain", "mpp_um"))
        for slide in slides:
            spec = slide.spec
            patient = spec.slide_id.partition("_")[0]
            writer.writerow((slide.slide.name, patient, spec.slide_id, spec.site, "cd8_ihc", spec.mpp))
    return DemoCohort(slides, manifest, slides_folder, annotations, truth)

"""What `histo evaluate` does with its options."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from histo.config import Config, load_config
from histo.datasets.image import Dataset
from histo.errors import ConfigError
from histo.evaluation.rendered import RenderedKind, rendered_dataset, rendered_slides_dataset
from histo.evaluation.run import PAGE, choose_items, evaluate
from histo.evaluation.summary import Evaluation

# The protocol that the classical rule was published with, as in configs/kather2018.yaml: that file is no part
# of an installed package.
KATHER2018: Final = (
    "name=kather2018",
    "stain.estimate_within_deg=0",
    "stain.white_point=[255, 255, 255]",
    "cells.detector=kather2018",
    "cells.min_area_um2=0",
)
_RENDERED_N: Final = 96
_RENDERED_SEED: Final = 5_000_000
# Rendered fields are cut out of a tissue that goes on: cells at their edge are seen in part.
_RENDERED_EDGE_UM: Final = 16.0


def evaluate_command(
    out: Path,
    *,
    dataset: str | None,
    rendered: Literal["fields", "slides"] | None,
    mpp: float | None,
    part: str | None,
    n: int | None,
    first_seed: int | None,
    kind: RenderedKind | None,
    weights: str | None,
    detector: str | None,
    config_path: Path | None,
    edge_um: float | None,
    n_pictures: int,
    device: str,
    settings: Sequence[str],
    console: Console,
) -> Evaluation:
    """Evaluate as the options of the command line say; None is an option not given.

    Raises
    ------
    ConfigError : the options do not go together, or name what is not there.
    DatasetError : the dataset is not laid out as published.
    """
    if (rendered is None) == (dataset is None):
        raise ConfigError(
            "name either a dataset or --rendered",
            fix="Use --dataset NAME:PATH, or --rendered fields or slides",
        )
    config = settle_config(config_path, weights, detector, settings)
    if dataset is None:
        if mpp is not None or part is not None:
            raise ConfigError("--mpp and --part are for datasets", fix="Leave them out with --rendered")
        render = rendered_dataset if rendered == "fields" else rendered_slides_dataset
        images = render(
            _RENDERED_N if n is None else n,
            first_seed=_RENDERED_SEED if first_seed is None else first_seed,
            kind=kind or "brightfield",
        )
        items, part = list(images.items), "all"
        edge_um = _RENDERED_EDGE_UM if edge_um is None else edge_um
    else:
        if first_seed is not None or kind is not None:
            raise ConfigError("--first-seed and --kind are for --rendered", fix="Leave them out")
        images = open_named(dataset, mpp)
        items, part = choose_items(images, part, n)
        if images.commercial_use is False:
            console.print(
                f"[yellow]note:[/yellow] {images.name} may not be used commercially ({images.licence})",
                highlight=False,
            )
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("evaluate", total=len(items))
        evaluation = evaluate(
            items,
            images,
            config,
            out,
            part=part,
            device=device,
            edge_um=edge_um or 0.0,
            n_pictures=n_pictures,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    for failure in evaluation.failed:
        text = escape(f"{failure.name}: {failure.error}")
        console.print(f"  [red]failed[/red] {text}", highlight=False, soft_wrap=True)
    console.print(f"{evaluation.n_images} of {len(items)} images evaluated", highlight=False)
    console.print(f"Results: {out / PAGE}", soft_wrap=True, highlight=False)
    return evaluation


def settle_config(
    path: Path | None, weights: str | None, detector: str | None, settings: Sequence[str]
) -> Config:
    """Return the configuration that options ask for; later ones go before earlier ones."""
    overrides: list[str] = []
    if detector == "kather2018":
        overrides += KATHER2018 if path is None else ("cells.detector=kather2018",)
    elif detector is not None:
        overrides.append(f"cells.detector={detector}")
    if weights is not None:
        overrides.append(f"cells.weights={weights}")
    return load_config(path, [*overrides, *settings])


def open_named(text: str, mpp: float | None) -> Dataset:
    """Open the dataset that "NAME:PATH" names; raises ConfigError where it has no such form."""
    from histo.datasets.open import open_dataset

    name, separator, path = text.partition(":")
    if not separator or not name or not path:
        raise ConfigError(
            f"--dataset {text!r} is not of the form NAME:PATH", fix="Write e.g. --dataset lysto:/data/lysto"
        )
    return open_dataset(name, Path(path), mpp=mpp)

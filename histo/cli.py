"""The command line: one Typer app; `infer.py` and `train.py` are two of its commands on their own."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.logging import RichHandler

from histo import __version__
from histo.errors import ConfigError, HistoError

app = typer.Typer(
    name="histo",
    help="CD8+ T cells in whole-slide images: how many, where they stand, in what state. A research tool.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Exit codes: 0 all slides done, 1 some slides failed, 2 bad usage or configuration.
_SOME_FAILED = 1
_BAD_USAGE = 2
_INTERRUPTED = 130

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="YAML of the stain protocol; default: CD8 H-DAB.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one setting, as key=value, e.g. run.batch_size=8. Repeatable."),
]


@app.command()
def infer(
    slides: Annotated[
        list[Path] | None, typer.Argument(help="Slides, and folders that are searched for slides.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Results folder; resumed where it exists.")
    ] = None,
    config: ConfigOption = None,
    manifest: Annotated[
        Path | None, typer.Option(help="CSV: slide, patient, site, mpp_um ... of each slide.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="Folder of annotation files; default: beside each slide.")
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="Pixel size in um for all slides; goes before the files' own.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Render a small paired cohort with known truth and analyse it.")
    ] = False,
    settings: SetOption = None,
) -> None:
    """Find CD8+ cells in slides; write tables, maps, overlays and reports to a results folder."""
    from histo.config import load_config

    overrides = list(settings or [])
    if device is not None:
        overrides.append(f"run.device={device}")
    settled = load_config(config, overrides)
    if out is None:
        raise ConfigError("no results folder", fix="Name one with --out DIR")
    console = Console(stderr=True)
    if demo:
        if slides:
            raise ConfigError("--demo renders its own slides", fix="Leave out the slides, or --demo")
        from histo.run.demo import run_demo

        raise typer.Exit(0 if run_demo(out, settled, console) else _SOME_FAILED)
    if not slides:
        raise ConfigError("no slides named", fix="Name slide files or folders, or use --demo")
    from histo.cohort.manifest import read_manifest
    from histo.run.batch import run_batch

    result = run_batch(
        slides,
        out,
        settled,
        manifest=None if manifest is None else read_manifest(manifest),
        annotations=annotations,
        mpp=mpp,
        console=console,
    )
    done = len(result.rows) - result.n_failed
    console.print(f"{done} of {len(result.rows)} slides done ({result.n_kept} kept from before)")
    for row in result.rows:
        if row.status == "failed":
            console.print(f"  [red]failed[/red] {row.slide_id}: {row.error}", highlight=False, soft_wrap=True)
    console.print(f"Results: {out / 'slides.csv'}", soft_wrap=True)
    raise typer.Exit(_SOME_FAILED if result.n_failed else 0)


@app.command()
def train(
    config: Annotated[Path, typer.Option("--config", help="YAML of the training run.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for checkpoints, logs and weights.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")
    ] = False,
    settings: SetOption = None,
) -> None:
    """Train the network; write weights that `infer` takes with --set cells.weights=FILE."""
    from histo.training.config import load_train_config
    from histo.training.fit import train as fit

    weights = fit(load_train_config(config, list(settings or [])), out, resume=resume)
    Console(stderr=True).print(f"Weights: {weights}", soft_wrap=True)


@app.command()
def render(
    out: Annotated[Path, typer.Option("--out", help="Folder for the slides and their truth.")],
    seed: Annotated[int, typer.Option(help="Same seed, same slides.")] = 1,
) -> None:
    """Render the demo cohort: slides, annotations, manifest and the true cells."""
    from histo.synthetic.cohort import demo_cohort

    cohort = demo_cohort(out, seed=seed)
    Console(stderr=True).print(f"{len(cohort.slides)} slides in {out}", soft_wrap=True)


@app.command()
def doctor(
    slides: Annotated[list[Path] | None, typer.Argument(help="Slides to open and describe.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder to check for write access.")] = Path(),
) -> None:
    """Check this machine: versions, readers, devices, weights, one tile from pixels to cells."""
    from histo.run.doctor import examine

    raise typer.Exit(0 if examine(list(slides or []), out, Console()) else _SOME_FAILED)


@app.callback(invoke_without_command=True)
def _common(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main(command: Literal["infer", "train"] | None = None) -> None:
    """Run the app, or one command of it; errors of use become one line and exit code 2."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[
            RichHandler(logging.WARNING, Console(stderr=True), show_path=False, show_time=False, markup=False)
        ],
    )
    # It reports every oddity of a damaged file; what matters of it comes back as an error of ours.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    arguments: dict[str, Any] = {"prog_name": None if command is None else f"{command}.py"}
    single = app if command is None else _only(command)
    try:
        single(**arguments)
    except HistoError as error:
        Console(stderr=True).print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
        raise SystemExit(_BAD_USAGE) from None
    except KeyboardInterrupt:
        Console(stderr=True).print("stopped; run the same command again to go on where it was")
        raise SystemExit(_INTERRUPTED) from None


def _only(command: Literal["infer", "train"]) -> typer.Typer:
    single = typer.Typer(
        add_completion=False,
        pretty_exceptions_show_locals=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    if command == "infer":
        single.command()(infer)
    else:
        single.command()(train)
    return single


if __name__ == "__main__":
    main()

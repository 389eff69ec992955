"""The command line: one Typer app; `infer.py` and `train.py` are two of its commands on their own."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

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

# Exit codes: 0 all slides (or images) done, 1 some failed, 2 bad usage or configuration.
_SOME_FAILED = 1
_BAD_USAGE = 2
_INTERRUPTED = 130
_TERMINATED = 143

# As `histo.tables.layouts.Format`, which is not imported here: the command line has to start at once.
Format = Literal["qupath_zones", "zones", "qupath", "halo", "inform", "columns"]

ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="YAML of the stain protocol; default: CD8 H-DAB.")
]
FormatOption = Annotated[
    Format | None, typer.Option("--format", help="Of a table of another program; default: recognised.")
]
TableMppOption = Annotated[
    float | None, typer.Option("--mpp", help="Pixel size in um, for tables whose positions are in pixels.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change one setting, as key=value, e.g. run.threads=4. Repeatable."),
]


@app.command()
def infer(
    slides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Slides, and folders that are searched for slides; also s3://, gs://, az://, https:// ..."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Results folder; resumed where it exists.")
    ] = None,
    config: ConfigOption = None,
    manifest: Annotated[
        Path | None, typer.Option(help="CSV: slide, path, patient, site, mpp_um ... of each slide.")
    ] = None,
    annotations: Annotated[
        Path | None, typer.Option(help="Folder of annotation files; default: beside each slide.")
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="Pixel size in um for all slides; goes before the files' own.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            help="Slides over workers: local, local:N, tcp://HOST:PORT (Dask), or a YAML for Slurm."
        ),
    ] = None,
    stage: Annotated[
        Path | None,
        typer.Option(help="Folder for copies of remote slides; default: of the system's temporary files."),
    ] = None,
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
    if stage is not None:
        overrides.append(f"run.stage_dir={json.dumps(str(stage))}")
    settled = load_config(config, overrides)
    if out is None:
        raise ConfigError("no results folder", fix="Name one with --out DIR")
    workers = None
    if cluster is not None:
        from histo.run.cluster_config import read_cluster

        workers = read_cluster(cluster)
    console = Console(stderr=True)
    if demo:
        if slides:
            raise ConfigError("--demo renders its own slides", fix="Leave out the slides, or --demo")
        from histo.run.demo import run_demo

        raise typer.Exit(0 if run_demo(out, settled, console, workers) else _SOME_FAILED)
    from histo.cohort.manifest import read_manifest

    told = None if manifest is None else read_manifest(manifest)
    if not slides and told is not None:
        slides = told.slides
    if not slides:
        raise ConfigError(
            "no slides named", fix="Name slide files or folders, a manifest with a column 'path', or --demo"
        )
    from histo.run.batch import run_batch

    result = run_batch(
        slides,
        out,
        settled,
        manifest=told,
        annotations=annotations,
        mpp=mpp,
        cluster=workers,
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
def cohort(
    source: Annotated[
        Path,
        typer.Argument(
            help="Results folder of infer or states; or a table of another program, or a folder of such."
        ),
    ],
    manifest: Annotated[
        Path | None,
        typer.Option(help="CSV: slide, patient, lesion, site, stain, growth_pattern, treatment ..."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the report; default: the results folder.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML of the analysis; default: that of the docs.")
    ] = None,
    table_format: FormatOption = None,
    mpp: TableMppOption = None,
    mapping: Annotated[
        Path | None, typer.Option(help="YAML: what columns, classes and zones of a table mean.")
    ] = None,
    states: Annotated[
        Path | None,
        typer.Option(help="Folder of `histo states` of this table; default: looked for in SOURCE."),
    ] = None,
    settings: SetOption = None,
) -> None:
    """Compare metastases with primary tumours; write cohort.html, cohort.json and cohort_patients.csv."""
    from histo.cohort.command import analyse, headlines
    from histo.cohort.config import CohortConfig
    from histo.cohort.manifest import read_manifest
    from histo.config import read_settings
    from histo.tables.mapping import TableMapping

    if out is None and not source.is_dir():
        raise ConfigError("no folder for the report", fix="Name one with --out DIR")
    summary = analyse(
        source,
        out or source,
        read_settings(CohortConfig, config, list(settings or [])),
        manifest=None if manifest is None else read_manifest(manifest),
        table_format=table_format,
        mpp=mpp,
        mapping=None if mapping is None else read_settings(TableMapping, mapping, ()),
        states=states,
    )
    console = Console()
    for line in headlines(summary):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"Report: {(out or source) / 'cohort.html'}", soft_wrap=True)


@app.command()
def states(
    source: Annotated[
        Path,
        typer.Argument(help="Results folder of infer; or a table of cells of another program, or a folder."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for what is written; default: the results folder.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="YAML with panel and states; default: that of the results folder."),
    ] = None,
    table_format: FormatOption = None,
    mpp: TableMppOption = None,
    mapping: Annotated[
        Path | None, typer.Option(help="YAML: what columns and classes of a table mean.")
    ] = None,
    settings: SetOption = None,
) -> None:
    """Gate the markers of CD8+ cells and tell their states; write states.html, states.csv and gates.json."""
    from histo.config import read_settings
    from histo.run.states import headlines, run_states
    from histo.tables.mapping import TableMapping

    result = run_states(
        source,
        out,
        config,
        list(settings or []),
        table_format=table_format,
        mpp=mpp,
        mapping=None if mapping is None else read_settings(TableMapping, mapping, ()),
    )
    console = Console()
    for line in headlines(result):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"States: {(out or source) / 'states.html'}", soft_wrap=True)


@app.command()
def sections(
    results: Annotated[
        Path, typer.Argument(help="Results folder of infer that holds both slides of each pair.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for registrations, tiles and sections.csv.")],
    pairs: Annotated[
        Path | None, typer.Option(help="CSV: slide, serial, marker, and landmarks where there are any.")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="In place of --pairs: a manifest with lesion and stain of each slide.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML of the analysis; default: that of the docs.")
    ] = None,
    settings: SetOption = None,
) -> None:
    """Lay serial sections (CD8, and PD-1 or another marker) over each other; write co-density by tile."""
    from histo.cohort.manifest import read_manifest
    from histo.config import read_settings
    from histo.sections.command import run_sections
    from histo.sections.config import SectionsConfig
    from histo.sections.pairs import pairs_of_manifest, read_pairs

    settled = read_settings(SectionsConfig, config, list(settings or []))
    if pairs is not None and manifest is None:
        named = read_pairs(pairs)
    elif manifest is not None and pairs is None:
        named = pairs_of_manifest(read_manifest(manifest))
    else:
        raise ConfigError("it must be said which slides are pairs", fix="Give either --pairs or --manifest")
    console = Console(stderr=True)
    found = run_sections(results, named, out, settled, console=console)
    without = [result for result in found if result.status != "done"]
    console.print(f"{len(found) - len(without)} of {len(found)} pairs done")
    console.print(f"Sections: {out / 'sections.csv'}", soft_wrap=True)
    raise typer.Exit(_SOME_FAILED if without else 0)


@app.command()
def power(
    effect: Annotated[
        float, typer.Option(help="Part of the shift of Kather 2018 that is to be seen; 1 for all of it.")
    ] = 1.0,
    correlation: Annotated[
        float, typer.Option(help="Of log2 core : outer margin between the two sites of a patient.")
    ] = 0.17,
    target: Annotated[
        list[float] | None, typer.Option("--power", help="Power to reach; default: 0.8 and 0.9.")
    ] = None,
) -> None:
    """Plan a study: how many patients to compare metastases with primary tumours."""
    from rich.table import Table

    from histo.cohort.plan import plan_study

    plan = plan_study(effect, correlation=correlation, targets=target or (0.8, 0.9))
    table = Table(title=f"Patients to see a shift of {plan.shift_log2:.2f} in log2 core : outer margin")
    for heading in ("power", "unpaired: primaries + metastases", "paired: patients with both"):
        table.add_column(heading, justify="right")
    for unpaired, paired in zip(plan.unpaired, plan.paired, strict=True):
        unpaired_n = (
            "over 5000" if unpaired.n_primary is None else f"{unpaired.n_primary} + {unpaired.n_metastasis}"
        )
        paired_n = "over 5000" if paired.n_primary is None else f"{paired.n_primary}"
        table.add_row(f"{unpaired.target:.0%}", unpaired_n, paired_n)
    console = Console()
    console.print(table)
    console.print(
        "Spread and shift after Kather 2018 (eLife 7:e36967), CD8 of 25 colorectal primaries and 17 "
        f"metastases; correlation within a patient {plan.correlation:.2f}. Tests at a two-sided 5 %.",
        soft_wrap=True,
    )


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
def evaluate(
    out: Annotated[Path, typer.Option("--out", help="Folder for the table, the summary and the pictures.")],
    dataset: Annotated[
        str | None, typer.Option(help="NAME:PATH of an annotated dataset, e.g. lysto:/data/lysto.")
    ] = None,
    rendered: Annotated[
        Literal["fields", "slides"] | None,
        typer.Option(help="Evaluate on rendered images: fields as hard as they come, or typical slides."),
    ] = None,
    mpp: Annotated[
        float | None, typer.Option(help="Pixel size in um, where the dataset does not say.")
    ] = None,
    part: Annotated[
        Literal["test", "validation", "train", "all"] | None,
        typer.Option(help="Part of the dataset; default: the published test part, or all if there is none."),
    ] = None,
    n: Annotated[
        int | None,
        typer.Option(help="How many rendered images (default 96), or at most so many images of a dataset."),
    ] = None,
    first_seed: Annotated[
        int | None, typer.Option(help="Of rendered images; default 5000000, which no training uses.")
    ] = None,
    kind: Annotated[
        Literal["brightfield", "fluorescence", "both"] | None,
        typer.Option(help="Of rendered images; default: brightfield."),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help='File of weights, or "default": those of this package.')
    ] = None,
    detector: Annotated[
        Literal["network", "kather2018"] | None,
        typer.Option(help="What finds the cells: the network, or the published classical rule."),
    ] = None,
    config: ConfigOption = None,
    edge_um: Annotated[
        float | None,
        typer.Option(min=0, help="Margin that is not scored, in um; default 0, of rendered images 16."),
    ] = None,
    pictures: Annotated[int, typer.Option(min=0, help="At most so many pictures of failures.")] = 12,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    settings: SetOption = None,
) -> None:
    """Measure how well cells are found on annotated images; write a table, a summary and failure pictures."""
    from histo.evaluation.command import evaluate_command
    from histo.run.device import choose_device

    evaluation = evaluate_command(
        out,
        dataset=dataset,
        rendered=rendered,
        mpp=mpp,
        part=part,
        n=n,
        first_seed=first_seed,
        kind=kind,
        weights=weights,
        detector=detector,
        config_path=config,
        edge_um=edge_um,
        n_pictures=pictures,
        device=choose_device(device),
        settings=settings or (),
        console=Console(stderr=True),
    )
    raise typer.Exit(_SOME_FAILED if evaluation.failed else 0)


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
def measure(
    results: Annotated[Path, typer.Argument(help="Results folder of infer; it is not changed.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the results with the new numbers.")],
    cells: Annotated[
        Path | None,
        typer.Option(help="GeoJSON of all cells of a slide, as corrected in QuPath; or a folder of such."),
    ] = None,
    regions: Annotated[
        Path | None,
        typer.Option(help="GeoJSON of all regions of a slide, as corrected in QuPath; or a folder of such."),
    ] = None,
    review: Annotated[
        bool, typer.Option("--review", help="Take what was corrected in `histo review`.")
    ] = False,
) -> None:
    """Make the numbers again from cells and regions corrected in QuPath or in the review."""
    from histo.run.corrected import remeasure_folder

    remeasure_folder(results, out, cells=cells, regions=regions, review=review)
    Console(stderr=True).print(f"Results: {out / 'slides.csv'}", soft_wrap=True)


@app.command()
def review(
    results: Annotated[Path, typer.Argument(help="Results folder of infer.")],
    reader: Annotated[
        str | None, typer.Option(help="Who corrects and signs; default: the user of this machine.")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8765,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but this machine's own is guarded by a token.")
    ] = "127.0.0.1",
    blinded: Annotated[
        bool,
        typer.Option("--blinded", help="Hide site, patient, names and other readers; random order."),
    ] = False,
    slides: Annotated[
        Path | None, typer.Option(help="Folder of the slides, if they are not where they were analysed.")
    ] = None,
    agreement: Annotated[
        bool, typer.Option("--agreement", help="Compare blinded readers who signed the same slides; no page.")
    ] = False,
) -> None:
    """Look at results on their slides in a browser, correct them, and sign."""
    if agreement:
        from histo.review.command import tell_agreement

        tell_agreement(results, slides, Console())
        return
    from histo.review.command import review as serve

    serve(
        results,
        reader=reader,
        host=host,
        port=port,
        blinded=blinded,
        slides=slides,
        console=Console(stderr=True),
    )


@app.command()
def export(
    results: Annotated[
        Path | None, typer.Argument(help="Results folder, or the folder of one slide in it.")
    ] = None,
    spatialdata: Annotated[
        Path | None, typer.Option(help="Folder for a SpatialData store per slide (extra: spatialdata).")
    ] = None,
    omero: Annotated[Path | None, typer.Option(help="Folder for an OME-XML of ROIs per slide.")] = None,
    dsa: Annotated[
        Path | None, typer.Option(help="Folder for an annotation of the Digital Slide Archive per slide.")
    ] = None,
    dicom_ann: Annotated[
        Path | None,
        typer.Option(help="Folder for DICOM annotations per slide that is DICOM (extra: dicom)."),
    ] = None,
    training: Annotated[
        Path | None, typer.Option(help="Folder for a dataset that train takes; needs --reviewed.")
    ] = None,
    reviewed: Annotated[
        Path | None,
        typer.Option(help="GeoJSON with areas of the class Reviewed, per slide; or a folder of such."),
    ] = None,
    licence: Annotated[str, typer.Option(help="Of the dataset.")] = "not stated",
    mpp: Annotated[
        float, typer.Option(min=0.1, max=64, help="Pixel size in um of the image in SpatialData.")
    ] = 1.0,
    only_cd8: Annotated[bool, typer.Option("--only-cd8", help="No other nuclei; OMERO and DSA.")] = False,
    onnx: Annotated[
        Path | None, typer.Option(help="ONNX file to write of the network; needs no results.")
    ] = None,
    weights: Annotated[
        str, typer.Option("--weights", help="Of --onnx: a .safetensors file; default: the shipped weights.")
    ] = "default",
) -> None:
    """Write results for other programs, corrected slides as training data, or the network as ONNX."""
    given = {"spatialdata": spatialdata, "omero": omero, "dsa": dsa, "dicom_ann": dicom_ann}
    per_slide = {target: out for target, out in given.items() if out is not None}
    if not per_slide and training is None and onnx is None:
        raise ConfigError("nothing to export", fix="Name what to write, e.g. --spatialdata DIR")
    if (per_slide or training is not None) and results is None:
        raise ConfigError("no results named", fix="Name the folder that infer has written")
    if (training is None) != (reviewed is None):
        raise ConfigError("--training and --reviewed go together", fix="Give both, or neither")
    console = Console(stderr=True)
    if onnx is not None:
        from histo.cells.onnx import export_onnx
        from histo.cells.weights import load_weights

        export_onnx(load_weights(weights), onnx)
        console.print(f"Network: {onnx}", soft_wrap=True)
    if results is None:
        return
    from histo.run.export import export_slides, export_training

    n_failed = 0
    for target, out in per_slide.items():
        n_failed += export_slides(results, out, target, mpp=mpp, only_cd8=only_cd8, console=console)  # type: ignore[arg-type]
    if training is not None and reviewed is not None:
        export_training(results, training, reviewed, licence=licence, console=console)
        console.print(f"Dataset: {training}; use it with train as folder:{training}", soft_wrap=True)
    raise typer.Exit(_SOME_FAILED if n_failed else 0)


MppOption = Annotated[
    float | None, typer.Option("--mpp", help="Pixel size in um for all slides; goes before the files' own.")
]


@app.command()
def doctor(
    slides: Annotated[list[Path] | None, typer.Argument(help="Slides to open and describe.")] = None,
    out: Annotated[Path, typer.Option("--out", help="Folder to check for write access.")] = Path(),
    mpp: MppOption = None,
) -> None:
    """Check this machine: versions, readers, devices, weights, one tile from pixels to cells."""
    from histo.run.doctor import examine

    raise typer.Exit(0 if examine(list(slides or []), out, Console(), mpp=mpp) else _SOME_FAILED)


regions_app = typer.Typer(
    name="regions",
    help="Tissue classifiers: tumour and other regions from few annotations.",
    no_args_is_help=True,
)
app.add_typer(regions_app)

SlidesArgument = Annotated[
    list[Path], typer.Argument(help="Slides, and folders that are searched for slides.")
]


@regions_app.command("train")
def regions_train(
    slides: SlidesArgument,
    annotations: Annotated[Path, typer.Option(help="Folder of annotation files, named like their slides.")],
    out: Annotated[Path, typer.Option("--out", help="File to write, e.g. tissue.safetensors.")],
    config: ConfigOption = None,
    mpp: MppOption = None,
    line_width_um: Annotated[
        float, typer.Option("--line-width-um", min=1, help="How wide an annotated line counts.")
    ] = 20.0,
    smoothing_um: Annotated[
        float,
        typer.Option("--smoothing-um", min=8, help="Classes are averaged over a Gaussian of this width."),
    ] = 48.0,
    min_area_um2: Annotated[
        float,
        typer.Option("--min-area-um2", min=0, help="Smaller pieces take the class of their surroundings."),
    ] = 50_000.0,
    settings: SetOption = None,
) -> None:
    """Train a tissue classifier on areas and lines drawn in QuPath; print its cross-validated accuracy."""
    from histo.config import load_config
    from histo.run.regions import train_regions

    console = Console(stderr=True)
    train_regions(
        slides,
        annotations,
        out,
        load_config(config, list(settings or [])),
        line_width_um=line_width_um,
        smoothing_um=smoothing_um,
        min_area_um2=min_area_um2,
        mpp=mpp,
        console=console,
    )
    console.print(f"Classifier: {out}; use it with infer --set regions.classifier={out}", soft_wrap=True)


@regions_app.command("apply")
def regions_apply(
    slides: SlidesArgument,
    classifier: Annotated[Path, typer.Option(help="A file that regions train has written.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for a GeoJSON file per slide.")],
    config: ConfigOption = None,
    mpp: MppOption = None,
    settings: SetOption = None,
) -> None:
    """Classify the tissue of slides; write QuPath GeoJSON that infer takes with --annotations."""
    from histo.config import load_config
    from histo.run.regions import apply_regions

    console = Console(stderr=True)
    n_failed = apply_regions(
        slides, classifier, out, load_config(config, list(settings or [])), mpp=mpp, console=console
    )
    console.print(f"Regions: {out}", soft_wrap=True)
    raise typer.Exit(_SOME_FAILED if n_failed else 0)


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
    before: Any = None
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, _terminated)
    arguments: dict[str, Any] = {"prog_name": None if command is None else f"{command}.py"}
    single = app if command is None else _only(command)
    try:
        single(**arguments)
    except HistoError as error:
        Console(stderr=True).print(f"[red]error:[/red] {error}", highlight=False, soft_wrap=True)
        _end(_BAD_USAGE)
    except SystemExit as end:
        # Typer has turned Ctrl-C into this.
        if end.code in (_INTERRUPTED, _TERMINATED):
            Console(stderr=True).print("stopped; run the same command again to go on where it was")
        _end(end.code)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _terminated(*_: object) -> None:
    """End as Ctrl-C does, with what is finished in the tables: schedulers ask before they kill."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SystemExit(_TERMINATED)


def _end(code: Any) -> NoReturn:
    patience = sys.modules.get("histo.slide.patience")
    if patience is not None and patience.hung_reads():
        # Python waits for threads of libraries that wait for such a read.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else int(code is not None))
    raise SystemExit(code)


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

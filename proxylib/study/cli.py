"""The command line: `proxylib …` or `python -m proxylib …`."""

import contextlib
import os
import signal
import sys
from pathlib import Path

import click
import nbformat

import proxylib
from proxylib import datasets
from proxylib.datasets.paths import PROJECT, cache, expanded, writable
from proxylib.study import notebooks as study
from proxylib.study import paths
from proxylib.study.cli_model import run_search, run_train
from proxylib.study.runs import DASK, records


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(proxylib.__version__, message="%(prog)s %(version)s")
def app() -> None:
    """Distance metric learning with proxies: the reproducible study."""
    with contextlib.suppress(ValueError):  # only a main thread can; others have no such signal
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an end that cleans up


@app.command("study")
@click.option(
    "--tier",
    type=click.Choice(study.TIERS),
    default="fast",
    show_default=True,
    help="fast: short runs, minutes; full: all seeds.",
)
@click.option(
    "--dataset",
    type=click.Choice(datasets.NAMES),
    default="kanji",
    show_default=True,
    help="kanji is built in, folder reads -p data_root PATH, all others see data/README.md.",
)
@click.option("--only", multiple=True, metavar="NAME", help="Only this notebook, e.g. 00.")
@click.option(
    "--jobs", default=-1, show_default=True, help="Training runs at once; -1 = one per core."
)
@click.option(
    "--backend",
    type=click.Choice(("loky", "dask")),
    default="loky",
    show_default=True,
    help="Where training runs go: this machine's cores, or a Dask cluster.",
)
@click.option("--scheduler", metavar="ADDRESS", help="Of the Dask cluster, e.g. tcp://host:8786.")
@click.option("-p", "pairs", nargs=2, multiple=True, metavar="NAME VALUE", help="A parameter.")
@click.option(
    "-f", "files", multiple=True, type=click.Path(path_type=Path), help="Parameters, a YAML file."
)
@click.option(
    "--out", type=click.Path(path_type=Path), help="Output folder; default figures/DATASET-TIER."
)
@click.option(
    "--progress/--no-progress",
    default=sys.stderr.isatty,
    help="Bars over the training runs; if a terminal.",
)
def run_study(
    tier: str,
    dataset: str,
    only: tuple[str, ...],
    jobs: int,
    backend: str,
    scheduler: str | None,
    pairs: tuple[tuple[str, str], ...],
    files: tuple[Path, ...],
    out: Path | None,
    progress: bool,
) -> None:
    """Run the notebooks in batch; notebooks, figures and metrics go to one output folder.

    Finished training runs are cached: an interrupted study goes on where it was. Of the sources
    of parameters the later one wins: the tier's file, -f, -p. Lists as -p seeds 0,1,2. Options
    that may be repeated: --only, -p, -f.
    """
    if (backend == "dask") != bool(scheduler):
        raise click.UsageError("--backend dask and --scheduler ADDRESS belong together")
    if scheduler:
        os.environ[DASK] = scheduler  # for the notebooks, which are processes of their own
    try:
        given = {}
        for file in files:
            given |= study.read_yaml(file)
        given |= dict(pairs)
        options = {"tier": tier, "dataset": dataset, "jobs": jobs}
        for name in given.keys() & {*options, "out"}:
            raise ValueError(f"parameter {name!r} has an option of its own: use --{name}")
        values = options | given
        planned = study.plan(study.notebooks(only), values, tier)
        study.check_size(datasets.load(dataset, values.get("data_root") or None))
        out = writable(expanded(out or paths.figures(dataset, tier)))
        writable(cache())
    except (ValueError, OSError, RuntimeError) as error:
        raise click.UsageError(str(error)) from None
    try:
        failed = study.run_notebooks(planned, out, click.echo, progress)
    except KeyboardInterrupt:
        click.echo(f"stopped; {study.SAFE}", err=True)
        sys.exit(130)
    click.echo(f"results in {out}")
    if failed:
        raise click.ClickException(f"{len(failed)} of {len(planned)} failed: {', '.join(failed)}")


@app.command("fetch")
@click.argument("name", type=click.Choice(tuple(datasets.FETCH)))
@click.option(
    "--progress/--no-progress",
    default=sys.stderr.isatty,
    help="A bar for each download; if a terminal.",
)
def run_fetch(name: str, progress: bool) -> None:
    """Download a data set, once.

    Files are checked by their hash. Put them into data/downloads yourself to stay offline.
    """
    try:
        datasets.FETCH[name](click.echo, progress)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None


@app.command("report")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="report",
    show_default=True,
    help="Folder of the site; its start page is index.html.",
)
def run_report(out: Path) -> None:
    """Build a static site of the executed notebooks, the full tier's verdicts first."""
    try:
        from proxylib.study import report  # here, for nbconvert takes a second to import

        page = report.build(study.notebooks(), PROJECT / "figures", writable(expanded(out)))
    except OSError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"open {page}")


@app.command("student")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="student",
    show_default=True,
    help="Folder of the notebooks.",
)
def run_student(out: Path) -> None:
    """Write the notebooks without the solutions of their exercises, and without outputs."""
    try:
        folder = writable(expanded(out))
        for path in study.notebooks():
            nbformat.write(study.for_students(nbformat.read(path, 4)), folder / path.name)
    except OSError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"notebooks in {folder}")


@app.command("record")
@click.argument("dataset", type=click.Choice(datasets.NAMES))
def run_record(dataset: str) -> None:
    """Add what the cached runs of a data set measured to figures/DATASET-full/runs.jsonl.gz.

    A sweep takes from that file what its cache lacks. All runs in the cache are added, so make
    those of the full tier with a PROXYLIB_HOME of their own.
    """
    try:
        from proxylib.study import recording  # here, for it imports all that trains

        found = recording.record(dataset)
    except (OSError, ValueError) as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{found.new} new, {found.total} in all, in {records.file_of(dataset)}")
    if found.left_out:
        click.echo(f"{found.left_out} left out: made by other code, on other data or versions")


app.add_command(run_train)
app.add_command(run_search)

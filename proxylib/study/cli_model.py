"""The commands for one distance model: `proxylib train` and `proxylib search`."""

import re
import sys
from dataclasses import fields
from pathlib import Path

import click
import torch
from matplotlib.backend_bases import FigureCanvasBase

from proxylib import datasets
from proxylib.datasets.folder import IMG_EXTENSIONS
from proxylib.datasets.paths import expanded, writable
from proxylib.datasets.problems import printable
from proxylib.study import distance_model, figures
from proxylib.study.methods import METHODS
from proxylib.study.runs import distributed, execution
from proxylib.study.runs.checkpoints import write
from proxylib.study.runs.config import RunConfig
from proxylib.study.settings import RECIPES, resolve
from proxylib.study.yaml_files import parse_yaml

_TOLD = (FloatingPointError, ImportError, MemoryError, OSError, RuntimeError, ValueError)
FILES = ("checkpoint.pt", distance_model.WEIGHTS)


@click.command("train")
@click.option("--dataset", type=click.Choice(datasets.NAMES), default="kanji", show_default=True)
@click.option("--data-root", default="", help="Where the images are.")
@click.option("--allow-partial", is_flag=True, help="An incomplete copy of the data set will do.")
@click.option(
    "-d",
    "data",
    nargs=2,
    multiple=True,
    metavar="NAME VALUE",
    help="An option of the data set, as size 64.",
)
@click.option("--method", type=click.Choice(tuple(METHODS)), default="proxy_nca", show_default=True)
@click.option(
    "--recipe",
    type=click.Choice(tuple(RECIPES)),
    help="Settings to begin with; default: what suits the data set.",
)
@click.option(
    "-p", "pairs", nargs=2, multiple=True, metavar="NAME VALUE", help="A setting of the run."
)
@click.option(
    "-o", "options", nargs=2, multiple=True, metavar="NAME VALUE", help="An option of the method."
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Output folder."
)
@click.option(
    "--resume", is_flag=True, help="Go on from the last checkpoint in the folder, if there is one."
)
@click.option(
    "--checkpoint-every", type=click.IntRange(1), default=500, show_default=True, help="Steps."
)
@click.option(
    "--device",
    type=click.Choice(("cpu", "cuda")),
    help="Default: a GPU if there is one, but the CPU for the study's small network.",
)
@click.option(
    "--threads",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="CPU threads; a run repeats bit for bit with one only.",
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Processes that read image files.",
)
@click.option("--progress/--no-progress", default=sys.stderr.isatty, help="A bar; if a terminal.")
def run_train(
    dataset: str,
    data_root: str,
    allow_partial: bool,
    data: tuple[tuple[str, str], ...],
    method: str,
    recipe: str | None,
    pairs: tuple[tuple[str, str], ...],
    options: tuple[tuple[str, str], ...],
    out: Path,
    resume: bool,
    checkpoint_every: int,
    device: str | None,
    threads: int,
    workers: int,
    progress: bool,
) -> None:
    """Train one distance model, and write it to a folder.

    model.safetensors and card.json are the model (`proxylib search`, `load_model`); history.csv
    grows while it trains; checkpoint.pt is what --resume goes on from, proxies included. On
    several devices: torchrun --nproc-per-node N -m proxylib train …
    """
    try:
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: there is no GPU that torch can use")
        partial = {"allow_partial": True} if allow_partial else {}
        config = resolve(
            method,
            dataset=dataset,
            data_root=data_root,
            data_options=partial | {name: _value(name, text) for name, text in data},
            recipe=recipe or "",
            **_settings(pairs),
            **{name: _value(name, text) for name, text in options},
        )
        train_set, _ = config.data()
        out = expanded(out)
        if not resume and (used := [name for name in FILES if (out / name).exists()]):
            raise ValueError(f"{out} holds a run ({', '.join(used)}): --resume, or another --out")
        writable(out)
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        raise click.UsageError(str(error)) from None
    default = execution.Machine.default(config)
    device = device or default.device
    machine = execution.Machine(
        device=device,
        threads=threads,
        workers=workers,
        channels_last=device == "cuda" or default.channels_last,
        progress=progress,
    )
    with distributed.processes(device):
        try:
            result = execution.execute(config, machine, out, checkpoint_every)
        except _TOLD as error:
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt:
            click.echo("stopped; the same command with --resume goes on", err=True)
            sys.exit(130)
        if distributed.rank():
            return
    source = figures.provenance(device=device, threads=threads, workers=workers)
    try:
        distance_model.save_model(out, result, train_set, source)
    except OSError as error:
        raise click.ClickException(f"{error}; --resume writes it again") from None
    for name, value in result.metrics.items():
        click.echo(f"{name:>12} {100 * value:5.1f} %")
    click.echo(f"model in {out}")


def _settings(pairs: tuple[tuple[str, str], ...]) -> dict[str, object]:
    """Fields of `RunConfig` from the command line, but those with an option of their own."""
    own = ("dataset", "data_root", "data_options", "method", "options")
    known = {f.name: f.type for f in fields(RunConfig) if f.name not in own}
    result = {}
    for name, text in pairs:
        if name not in known:
            raise ValueError(f"no setting {name!r}; there are {', '.join(known)}")
        result[name] = _value(name, text)
    return result


def _value(name: str, text: str) -> object:
    """A value from the command line, read as YAML; 1e-3 is a number too."""
    try:
        value = parse_yaml(text)
    except ValueError:
        raise ValueError(f"{name}={text!r}: not a YAML value") from None
    if isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]+e[-+]?\d+", value, re.IGNORECASE):
        value = float(value)
    if isinstance(value, list | dict):
        raise ValueError(f"{name}={text!r}: expected one value")
    return value


@click.command("search")
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("image", type=click.Path(path_type=Path))
@click.option(
    "--gallery", type=click.Path(path_type=Path, file_okay=False, exists=True), required=True
)
@click.option(
    "-k", type=click.IntRange(1), help="Images to find; default 8, or all if there are fewer."
)
@click.option("--picture", type=click.Path(path_type=Path), default="search.png", show_default=True)
def run_search(model: Path, image: Path, gallery: Path, k: int | None, picture: Path) -> None:
    """Find the images of a folder that are nearest to IMAGE, by the MODEL in a folder.

    Prints a table and saves a picture.
    """
    try:
        loaded = distance_model.load_model(model)
        files = sorted(filter(_is_image, gallery.rglob("*")))
        if not files:
            raise ValueError(f"{gallery}: no images ({', '.join(IMG_EXTENSIONS)})")
        known = FigureCanvasBase.get_supported_filetypes()
        if (kind := picture.suffix[1:].lower()) not in known:
            raise ValueError(
                f"--picture {picture}: expected a name that ends as {', '.join(known)}"
            )
        k = min(8, len(files)) if k is None else k
        query, found, distances = loaded.search(image, files, k)
    except (ValueError, OSError, RuntimeError) as error:
        raise click.ClickException(printable(error)) from None
    nearest = [files[i] for i in found[0]]
    names = tuple(printable(file.relative_to(gallery)) for file in nearest)
    shown = datasets.Dataset("gallery", loaded.read(nearest), torch.arange(k), names)
    figure, table = figures.gallery(query, None, shown, torch.arange(k)[None], distances)
    try:
        write(picture, lambda file: figure.savefig(file, format=kind, bbox_inches="tight"))
    except OSError as error:
        raise click.ClickException(str(error)) from None
    table = table.rename(columns={"class": "file"})[["rank", "distance", "file"]]
    click.echo(table.to_string(index=False, float_format="%.3f"))
    click.echo(f"picture in {picture}")


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMG_EXTENSIONS and not file.name.startswith(".")

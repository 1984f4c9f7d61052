"""Saving: PNG + CSV of the data + JSON provenance."""

import importlib.metadata
import json
import math
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from IPython.display import display
from matplotlib.figure import Figure

import proxylib
from proxylib.datasets.paths import PROJECT
from proxylib.study.runs.checkpoints import write


def provenance(**parameters) -> dict:
    """What a result was made with: parameters, versions, commit, machine, time (UTC)."""
    packages = ("torch", "torchvision", "timm", "numpy", "scikit-learn", "kanjivg")
    installed = {found.name: found.version for found in importlib.metadata.distributions()}
    versions = {name: installed.get(name, "not installed") for name in packages}
    return {
        "parameters": parameters,
        "versions": {"proxylib": proxylib.__version__, **versions},
        "python": platform.python_version(),
        "commit": _commit(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def provenance_table(source: dict, **more: str) -> str:
    """Provenance (from `provenance`) and further facts as Markdown, for a notebook's end."""
    facts = source["versions"] | {"python": source["python"], "machine": source["machine"]} | more
    rows = [f"| {name} | {fact} |" for name, fact in facts.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def stamp(fig: Figure, text: str) -> None:
    """A small grey note below the figure: the data set, tier and seeds that it was made from."""
    fig.text(1, -0.01, text, ha="right", va="top", fontsize=9, color="0.35", gid="stamp")


def save(fig: Figure, name: str, data: pd.DataFrame, out: Path, source: dict) -> None:
    """Write `name.png`, `name.csv` (the plotted data) and `name.json` (where it is from) to `out`.

    Args:
        name: file name without ending, beginning with the notebook's: `00_quickstart-convergence`.
        data: what the figure shows, one row per mark.
        source: from `provenance`.

    Raises:
        OSError: one of them can't be written; says which, and why.
    """
    out.mkdir(parents=True, exist_ok=True)
    picture = out / f"{name}.png"
    write(picture, lambda file: fig.savefig(file, bbox_inches="tight"))  # else a tall title is cut
    table = data.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    write(out / f"{name}.csv", lambda file: file.write(table.encode()))
    _write_json(out / f"{name}.json", {"figure": f"{name}.png", "data": f"{name}.csv", **source})


def show(fig: Figure, alt: str) -> None:
    """Show a figure in a notebook, with words for those who can't see it.

    Args:
        alt: what it shows, in a sentence: the kind of plot, what is drawn against what.
    """
    display(fig, metadata={"image/png": {"alt": alt}})
    plt.close(fig)  # else it is shown once more when the cell ends


def save_metrics(notebook: str, metrics: dict[str, float], out: Path, source: dict) -> None:
    """Write a notebook's `NOTEBOOK.metrics.json`: flat names, fractions; provenance beside it.

    Raises:
        ValueError: a value that is no finite number.
    """
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise ValueError(f"{notebook}: metric {name} is {value}, expected a finite number")
    out.mkdir(parents=True, exist_ok=True)
    _write_json(out / f"{notebook}.metrics.json", {k: float(v) for k, v in metrics.items()})
    _write_json(out / f"{notebook}.provenance.json", source)


def _write_json(path: Path, content: dict) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write(path, lambda file: file.write(text.encode()))


def _commit() -> str:
    def git(*words: str) -> str:
        command = ["git", "-C", str(PROJECT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (" + changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"

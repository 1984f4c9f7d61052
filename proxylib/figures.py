"""The study's plots, and saving: PNG + CSV of the data + JSON provenance."""

import importlib.metadata
import itertools
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from torch import Tensor

from proxylib import paths
from proxylib.bounds import Triplets
from proxylib.datasets import Dataset

RIGHT, WRONG = "#0072B2", "#D55E00"  # blue and vermilion: told apart by every kind of eye
MARKERS = "osD^vP*X"


def use_style() -> None:
    """The study's look: white, light grid, colour-blind-safe palette."""
    sns.set_theme("notebook", "whitegrid", "colorblind", rc={"figure.dpi": 100, "savefig.dpi": 150})


def convergence(
    history: pd.DataFrame, metric: str = "recall_at_1", *, label: str = "Proxy-NCA"
) -> Figure:
    """A metric (in %) against training steps: every seed as a thin line, their mean as a bold one.

    Args:
        history: rows with `step`, `seed` and the metric as a fraction.
    """
    fig, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
    colors = sns.color_palette("colorblind")
    for (seed, rows), color, marker in zip(
        history.groupby("seed"), itertools.cycle(colors), itertools.cycle(MARKERS), strict=False
    ):
        ax.plot(
            rows["step"], 100 * rows[metric], marker=marker, color=color, lw=1, label=f"seed {seed}"
        )
    mean = history.groupby("step")[metric].mean()
    ax.plot(mean.index, 100 * mean, color="black", lw=2.5, alpha=0.7, label=f"{label}, mean")
    ax.set(xlabel="training step", ylabel=f"{title(metric)} (%)", ylim=(0, 100))
    ax.set_xlim(left=0)
    ax.legend(loc="lower right")
    return fig


def title(metric: str) -> str:
    """`recall_at_1` → `Recall@1`, `nmi` → `NMI`."""
    return metric.replace("recall_at_", "Recall@").replace("nmi", "NMI")


def image_grid(rows: Sequence[Sequence[np.ndarray] | Tensor], names: Sequence[str]) -> Figure:
    """Images (C, H, W), uint8, in rows with a word at the left of each."""
    width = max(len(row) for row in rows)
    fig, axes = plt.subplots(
        len(rows), width, figsize=(width, len(rows)), squeeze=False, layout="constrained"
    )
    for row, line, name in zip(rows, axes, names, strict=True):
        for ax in line[len(row) :]:
            ax.set_visible(False)
        for image, ax in zip(row, line, strict=False):
            _show(ax, image)
        line[0].set_ylabel(name, fontsize=11)
    return fig


def gallery(
    images: Tensor,
    labels: Tensor | None,
    dataset: Dataset,
    neighbors: Tensor,
    distances: Tensor,
    notes: Sequence[str] = (),
) -> tuple[Figure, pd.DataFrame]:
    """Queries on the left, their neighbours ranked by distance (FIG. 3 and 5), and as a table.

    A right neighbour has a solid blue frame and ✓, a wrong one a dashed vermilion frame and ✗.

    Args:
        images: (R, C, H, W) uint8, the queries.
        labels: (R,) int64, theirs; None if unknown, then nothing is marked right or wrong.
        dataset: holds the gallery.
        neighbors, distances: (R, k) from `nearest_neighbors`.
        notes: R words to stand at the left of the queries.

    Returns:
        The figure, and one row per neighbour: query (row), rank, neighbor (index in the data
        set), its class, distance, and whether it is right.
    """
    rows, k = neighbors.shape
    hits = None if labels is None else dataset.labels[neighbors] == labels[:, None]
    fig, axes = plt.subplots(
        rows, k + 1, figsize=(1.05 * (k + 1), 1.3 * rows + 0.3), squeeze=False, layout="constrained"
    )
    for r in range(rows):
        _show(axes[r][0], images[r])
        _frame(axes[r][0], "black", 1)
        if notes:
            axes[r][0].set_ylabel(notes[r], fontsize=10)
        for c, ax in enumerate(axes[r][1:]):
            _show(ax, dataset.images[neighbors[r, c]])
            text, color, dashed = "", "black", False
            if hits is not None:
                right = bool(hits[r, c])
                text, color, dashed = ("✓ ", RIGHT, False) if right else ("✗ ", WRONG, True)
                _frame(ax, color, 2.5, dashed)
            ax.set_xlabel(f"{text}{distances[r, c]:.2f}", color=color, fontsize=10, labelpad=2)
    axes[0][0].set_title("query", fontsize=11)
    for c in range(k):
        axes[0][c + 1].set_title(f"{c + 1}", fontsize=11)
    table = pd.DataFrame(
        {
            "query": np.repeat(np.arange(rows), k),
            "rank": np.tile(np.arange(1, k + 1), rows),
            "neighbor": neighbors.flatten().numpy(),
            "class": [dataset.class_names[c] for c in dataset.labels[neighbors].flatten()],
            "distance": distances.flatten().numpy(),
        }
    )
    return fig, table if hits is None else table.assign(right=hits.flatten().numpy())


def _show(ax: plt.Axes, image: np.ndarray | Tensor) -> None:
    ax.imshow(np.asarray(image).transpose(1, 2, 0).squeeze(), cmap="gray", vmin=0, vmax=255)
    ax.set(xticks=[], yticks=[])
    ax.grid(False)


def _frame(ax: plt.Axes, color: str, width: float, dashed: bool = False) -> None:
    for spine in ax.spines.values():
        spine.set(visible=True, color=color, linewidth=width)
        spine.set_linestyle((0, (3, 1.5)) if dashed else "-")


def circle(ax: plt.Axes, triplets: Triplets) -> None:
    """A triplet on the unit circle and its proxies (★); dotted chords are the proxies' errors.

    Solid lines are the distances between the points, dashed ones those that the proxies put in
    their place.

    Args:
        triplets: B = 1, K = 1, D = 2.
    """
    x, y, z, p_y, p_z = (part.reshape(2).tolist() for part in triplets)
    ax.add_patch(plt.Circle((0, 0), 1, fill=False, color="grey", lw=0.8))
    for point, proxy, color in ((y, p_y, RIGHT), (z, p_z, WRONG)):
        for end, style in ((point, "-"), (proxy, "--")):
            ax.plot([x[0], end[0]], [x[1], end[1]], style, color=color, lw=1.2)
        ax.plot([point[0], proxy[0]], [point[1], proxy[1]], ":", color="black", lw=2)
    for at, name, marker, color in (
        (x, "$x$", "o", "black"),
        (y, "$y$", "D", RIGHT),
        (z, "$z$", "s", WRONG),
        (p_y, "$p_y$", "*", RIGHT),
        (p_z, "$p_z$", "*", WRONG),
    ):
        size = 15 if marker == "*" else 9
        ax.plot(*at, marker, color=color, ms=size, mec="white", zorder=3)
        ax.annotate(name, at, (1.2 * at[0], 1.2 * at[1]), ha="center", va="center", color=color)
    ax.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal", xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_visible(False)


def provenance(**parameters) -> dict:
    """What a result was made with: parameters, versions, commit, machine, time (UTC)."""
    packages = ("proxylib", "torch", "torchvision", "numpy", "scikit-learn", "kanjivg")
    return {
        "parameters": parameters,
        "versions": {name: importlib.metadata.version(name) for name in packages},
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


def save(fig: Figure, name: str, data: pd.DataFrame, out: Path, source: dict) -> None:
    """Write `name.png`, `name.csv` (the plotted data) and `name.json` (where it is from) to `out`.

    Args:
        name: file name without ending, beginning with the notebook's: `00_quickstart-convergence`.
        data: what the figure shows, one row per mark.
        source: from `provenance`.
    """
    out.mkdir(parents=True, exist_ok=True)
    fig.savefig(out / f"{name}.png", bbox_inches="tight")  # else a tall title is cut
    data.to_csv(out / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
    _write_json(out / f"{name}.json", {"figure": f"{name}.png", "data": f"{name}.csv", **source})


def save_metrics(notebook: str, metrics: dict[str, float], out: Path, source: dict) -> None:
    """Write a notebook's `NOTEBOOK.metrics.json`: flat names, fractions; provenance beside it.

    Raises:
        ValueError: a value that is no finite number.
    """
    for name, value in metrics.items():
        if not np.isfinite(value):
            raise ValueError(f"{notebook}: metric {name} is {value}, expected a finite number")
    out.mkdir(parents=True, exist_ok=True)
    _write_json(out / f"{notebook}.metrics.json", {k: float(v) for k, v in metrics.items()})
    _write_json(out / f"{notebook}.provenance.json", source)


def _write_json(path: Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _commit() -> str:
    def git(*words: str) -> str:
        command = ["git", "-C", str(paths.PROJECT), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (" + changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"

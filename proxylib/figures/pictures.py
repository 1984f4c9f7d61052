"""Pictures: image grids, galleries of retrieved images, triplets on the circle."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from proxylib.bounds import Triplets
from proxylib.datasets import Dataset
from proxylib.figures.style import RIGHT, WRONG


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

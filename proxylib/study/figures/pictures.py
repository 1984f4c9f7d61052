"""Pictures: image grids, galleries of retrieved images, triplets on the circle."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from proxylib.bounds import Triplets
from proxylib.datasets import Dataset
from proxylib.study.figures.style import RIGHT, WRONG


def image_grid(rows: Sequence[Sequence[np.ndarray] | Tensor], names: Sequence[str]) -> Figure:
    """Images (C, H, W), uint8, in rows with a word at the left of each."""
    width = max(len(row) for row in rows)
    fig = plt.figure(figsize=(width, len(rows)), layout="constrained")
    axes = fig.subplots(len(rows), width, squeeze=False)
    for row, line, name in zip(rows, axes, names, strict=True):
        for ax in line[len(row) :]:
            ax.set_visible(False)
        for image, ax in zip(row, line, strict=False):
            image = np.asarray(image).transpose(1, 2, 0).squeeze()
            ax.imshow(image, cmap="gray", vmin=0, vmax=255)
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
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
    grid = [[query, *dataset.images[found]] for query, found in zip(images, neighbors, strict=True)]
    fig = image_grid(grid, notes or [""] * rows)
    fig.set_size_inches(1.05 * (k + 1), 1.3 * rows + 0.3)
    axes = np.array(fig.axes).reshape(rows, k + 1)
    for ax, name in zip(axes[0], ["query", *range(1, k + 1)], strict=True):
        ax.set_title(name, fontsize=11)
    for ax in axes[:, 0]:
        ax.spines[:].set(color="black", linewidth=1)
    table = pd.DataFrame(
        {
            "query": np.repeat(np.arange(rows), k),
            "rank": np.tile(np.arange(1, k + 1), rows),
            "neighbor": neighbors.flatten().numpy(),
            "class": [dataset.class_names[c] for c in dataset.labels[neighbors].flatten()],
            "distance": distances.flatten().numpy(),
        }
    )
    if labels is not None:
        table["right"] = (dataset.labels[neighbors] == labels[:, None]).flatten().numpy()
    for ax, row in zip(axes[:, 1:].flat, table.to_dict("records"), strict=True):
        text, color = "", "black"
        if labels is not None:
            text, color, line = ("✓ ", RIGHT, "-") if row["right"] else ("✗ ", WRONG, (0, (3, 1.5)))
            ax.spines[:].set(color=color, linewidth=2.5, linestyle=line)
        ax.set_xlabel(f"{text}{row['distance']:.2f}", color=color, fontsize=10, labelpad=2)
    return fig, table


def circle(ax: plt.Axes, triplets: Triplets) -> None:
    """A triplet on the unit circle and its proxies (★); dotted chords are the proxies' errors.

    Solid lines are the distances between the points, dashed ones those that the proxies put in
    their place. There is one triplet only, of one negative in the plane: B = 1, K = 1, D = 2.
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
        ax.plot(*at, marker, color=color, ms=15 if marker == "*" else 9, mec="white", zorder=3)
        ax.annotate(name, at, (1.2 * at[0], 1.2 * at[1]), ha="center", va="center", color=color)
    ax.set(xlim=(-1.4, 1.4), ylim=(-1.4, 1.4), aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)

"""Methods side by side: their curves, and every seed as a point."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.isotonic import isotonic_regression

from proxylib.figures.style import method_label, method_style, title
from proxylib.statistics import interval, show_interval

AXIS = {
    "samples": "training samples seen",
    "step": "training steps",
    "seconds": "seconds of training",
}


def method_curves(
    table: pd.DataFrame,
    columns: Sequence[str] = ("samples",),
    metric: str = "recall_at_1",
    *,
    by: str = "step",
    target: float | None = None,
    epoch: int | None = None,
) -> Figure:
    """A metric (in %) of every method, one panel a column: seeds thin, their means bold.

    The methods' names stand at the right, in the order in which the curves end.

    Args:
        table: method, seed, `by`, the columns and the metric as a fraction; a history, for one.
        columns: what goes along the axis: samples, step, seconds or another number.
        by: rows of equal `by` make a point of the mean curve.
        target: a level to draw, as a fraction.
        epoch: training images; gives the first panel a second axis, in epochs.
    """
    fig, axes = plt.subplots(
        1,
        len(columns),
        figsize=(8 if len(columns) == 1 else 10, 4.8),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    ends = {}
    for ax, column in zip(axes[0], columns, strict=True):
        for method, rows in table.groupby("method", sort=False):
            style = method_style(method)
            for _, run in rows.groupby("seed"):
                run = run.sort_values(column)
                thin = {"color": style["color"], "ls": style["linestyle"], "alpha": 0.4}
                ax.plot(run[column], 100 * run[metric], lw=0.8, marker=".", ms=3, **thin)
            mean = rows.groupby(by)[[metric, *{column} - {by}]].mean().reset_index()
            every = max(1, len(mean) // 6)
            ax.plot(mean[column], 100 * mean[metric], lw=2.2, ms=7, markevery=every, **style)
            ends[method] = 100 * mean[metric].iloc[-1]
        if target is not None:
            ax.axhline(100 * target, color="black", ls=":", lw=1.5)
        ax.set_xlabel(AXIS.get(column, column))
        _thousands(ax)
        ax.set_xlim(min(0, table[column].min()) if by == "step" else None, table[column].max())
    axes[0][0].set_ylabel(f"{title(metric)} (%)")
    if epoch:
        top = axes[0][0].secondary_xaxis(
            "top", functions=(lambda x: x / epoch, lambda x: x * epoch)
        )
        top.set_xlabel("epochs")
    _name_ends(axes[0][-1], ends)
    return fig


def method_points(
    table: pd.DataFrame,
    column: str,
    xlabel: str,
    *,
    scale: float = 1.0,
    digits: int = 1,
    levels: Mapping[str, float] | None = None,
    best_first: bool = True,
) -> Figure:
    """A row per method: every seed a small ring, their mean a mark, its 95 % interval a bar.

    A method with a value that isn't finite (it never got there) shows its other seeds and no mean.

    Args:
        table: method, seed and the column, one row per run.
        scale: factor on the values, 100 for fractions shown in %.
        digits: of the numbers at the right.
        levels: name → value (scaled already) of dotted lines to compare with.
        best_first: the highest mean comes first; else the lowest.
    """
    wide = scale * table.pivot(index="seed", columns="method", values=column)
    finite_mean = wide.where(np.isfinite(wide)).mean()
    rank = pd.DataFrame({"missed": np.isinf(wide).sum(), "mean": finite_mean})
    order = rank.sort_values(["missed", "mean"], ascending=[True, not best_first]).index
    fig, ax = plt.subplots(figsize=(8, 0.48 * len(order) + 1.2), layout="constrained")
    for y, method in enumerate(order):
        values, style = wide[method].dropna(), method_style(method)
        finite = values[np.isfinite(values)]
        ax.plot(finite, np.full(len(finite), y + 0.17), "o", mfc="none", color="0.35", ms=4.5)
        if len(finite) == len(values):
            mean, low, high = interval(values)
            if np.isfinite(low):
                ax.plot([low, high], [y, y], color=style["color"], lw=3, solid_capstyle="butt")
            ax.plot(mean, y, style["marker"], color=style["color"], ms=10, mec="0.2", mew=0.6)
            note = show_interval(values, digits)
        else:
            note = f"{len(finite)} of {len(values)} seeds get there"
        ax.annotate(note, (1.02, y), xycoords=("axes fraction", "data"), va="center", fontsize=10)
    for name, value in (levels or {}).items():
        ax.axvline(value, color="0.3", ls=":", lw=1.5)
        at = {"xycoords": ("data", "axes fraction"), "rotation": 90, "fontsize": 9}
        ax.annotate(f"{name} ", (value, 1), ha="right", va="top", color="0.3", **at)
    ax.set_yticks(range(len(order)), [method_label(method) for method in order])
    ax.set(xlabel=xlabel, ylim=(len(order) - 0.5, -0.5))
    ax.grid(False, axis="y")
    _thousands(ax)
    return fig


def _name_ends(ax: plt.Axes, ends: Mapping[str, float]) -> None:
    """Names at the right edge, moved apart where they would touch, each joined to its height."""
    low, high = ax.get_ylim()
    gap = 0.06 * (high - low)
    order = sorted(ends, key=ends.get)
    steps = gap * np.arange(len(order))
    heights = np.array([ends[method] for method in order])
    # The least movement in all that keeps them in order and a gap apart.
    places = isotonic_regression(heights - steps) + steps
    places -= max(0.0, places[-1] - high)
    for method, y in zip(order, places, strict=True):
        style = method_style(method)
        outside = {"transform": ax.get_yaxis_transform(), "clip_on": False}
        ax.plot([1, 1.05], [ends[method], y], color=style["color"], lw=0.8, **outside)
        ax.plot(1.05, y, style["marker"], color=style["color"], ms=7, **outside)
        ax.annotate(
            method_label(method),
            (1.08, y),
            xycoords=("axes fraction", "data"),
            fontweight="bold" if method == "proxy_nca" else "normal",
            fontsize=11,
            va="center",
        )
    ax.set_ylim(low, high)


def _thousands(ax: plt.Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:,.10g}".replace("-", "−"))

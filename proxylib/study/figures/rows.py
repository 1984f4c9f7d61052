"""Plots with a row for every method or setting."""

from collections.abc import Mapping
from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

from proxylib.study.claims.statistics import interval, show_interval
from proxylib.study.figures.style import MEAN, RIGHT, WRONG, method_label, method_style


def method_points(
    table: pd.DataFrame,
    column: str,
    xlabel: str,
    *,
    scale: float = 1.0,
    digits: int = 1,
    levels: Mapping[str, float] | None = None,
    best_first: bool = True,
    ax: plt.Axes | None = None,
) -> Figure:
    """A row per method: every seed a small ring, their mean a mark, its 95 % interval a bar.

    A method with a value that isn't finite (it never got there) shows its other seeds and no mean.

    Args:
        table: method, seed and the column, one row per run.
        scale: factor on the values, 100 for fractions shown in %.
        digits: of the numbers at the right.
        levels: name → value (scaled already) of dotted lines to compare with.
        best_first: the highest mean comes first; else the lowest.
        ax: where to draw; by default a new figure.
    """
    value = scale * table[column].where(np.isfinite(table[column]))
    shown = table.assign(value=value, method=table["method"].map(method_label))
    groups = shown.groupby("method")["value"]
    rank = pd.DataFrame({"missed": groups.size() - groups.count(), "mean": groups.mean()})
    rank = rank.sort_values(["missed", "mean"], ascending=[True, not best_first])
    complete = shown[shown["method"].map(rank["missed"]) == 0]
    styles = {method_label(name): method_style(name) for name in table["method"].unique()}

    if ax is None:
        _, ax = plt.subplots(figsize=(8, 0.48 * len(rank) + 1.2), layout="constrained")
    rows = {"x": "value", "y": "method", "order": rank.index, "ax": ax}
    below = offset_copy(ax.transData, ax.figure, y=-9, units="points")
    ring = {"size": 5, "linewidth": 1, "facecolors": "none", "edgecolor": "0.35"}
    sns.stripplot(shown, **rows, jitter=False, transform=below, **ring)
    mark = {"linestyle": "none", "ms": 10, "mec": "0.2", "mew": 0.6, "zorder": 3}
    mark["err_kws"] = {"lw": 1.5, "color": "black", "zorder": 4}  # on top: it may be narrow
    mark["markers"] = [styles[name]["marker"] for name in rank.index]
    mark["palette"] = [styles[name]["color"] for name in rank.index]
    look = {"hue": "method", "hue_order": rank.index, "legend": False}
    sns.pointplot(complete, **rows, **look, **mark, **MEAN)
    ax.dataLim.update_from_data_x(shown["value"].dropna(), ignore=False)  # rings, beside the bars
    ax.autoscale_view(scaley=False)
    for method, values in groups:
        missed = f"{values.count()} of {len(values)} seeds get there"
        note = missed if rank["missed"][method] else show_interval(values, digits)
        at = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 10}
        ax.annotate(note, (1.02, method), **at)
    for name, value in (levels or {}).items():
        ax.axvline(value, color="0.3", ls=":", lw=1.5)
        at = {"xycoords": ("data", "axes fraction"), "rotation": 90, "fontsize": 9}
        ax.annotate(f"{name} ", (value, 1), ha="right", va="top", color="0.3", **at)
    ax.set(xlabel=xlabel, ylabel="")
    ax.locator_params(axis="x", nbins=6)
    ax.xaxis.set_major_formatter("{x:,.10g}")
    return ax.figure


def switches(table: pd.DataFrame, columns: Mapping[str, str]) -> Figure:
    """One row per setting, one panel per column: every run a mark, the mean a tick, its value.

    Args:
        table: rows with `setting`, `seed` and the columns as fractions, settings in order. A
            setting without a value has no mark.
        columns: column → its name on the axis, without the unit.
    """
    order = table["setting"].unique()
    fig = plt.figure(figsize=(9, 0.42 * len(order) + 1.2), layout="constrained")
    axes = fig.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    run = {"jitter": False, "size": 7, "alpha": 0.6, "color": method_style("dynamic")["color"]}
    tick = {"marker": "|", "ms": 18, "mew": 2, "color": "black", "linestyle": "none", "zorder": 3}
    for ax, (column, label) in zip(axes, columns.items(), strict=True):
        shown = table.assign(value=100 * table[column])
        rows = {"data": shown, "x": "value", "y": "setting", "order": order, "ax": ax}
        sns.stripplot(**rows, **run)
        sns.pointplot(**rows, errorbar=None, **tick)
        for setting, values in shown.dropna(subset="value").groupby("setting")["value"]:
            beside = {"textcoords": "offset points", "va": "center", "fontsize": 10}
            ax.annotate(f"{values.mean():.0f}", (values.max(), setting), (8, 0), **beside)
        ax.set(xlabel=f"{label} (%)", ylabel="", xlim=(-4, 116), xticks=range(0, 101, 20))
    return fig


def occupancy(points: Mapping[str, Mapping[int, np.ndarray]]) -> tuple[Figure, pd.DataFrame]:
    """Points per proxy as sorted bars: a row per way to assign, a column per step.

    Args:
        points: way → step → (P,) int64, the points that each proxy serves; all of the same steps.

    Returns:
        The figure; `way`, `step`, `rank` (from 1, the proxy with most points first), `points`.
    """
    steps = list(next(iter(points.values())))
    fig = plt.figure(figsize=(2.7 * len(steps) + 1, 1.6 * len(points) + 0.4), layout="constrained")
    axes = fig.subplots(len(points), len(steps), sharex=True, sharey=True, squeeze=False)
    rows = []
    for ax, step in zip(axes[0], steps, strict=True):
        ax.set_title(f"step {step:,}", fontsize=11)
    for line, (way, by_step) in zip(axes, points.items(), strict=True):
        line[0].set_ylabel(way)
        for ax, (step, counts) in zip(line, by_step.items(), strict=True):
            ranked, alive = np.sort(counts)[::-1], int((counts > 0).sum())
            rank = np.arange(1, len(ranked) + 1)
            ax.bar(rank, ranked, width=1, color=method_style("dynamic")["color"], linewidth=0)
            ax.axvspan(alive + 0.5, len(ranked) + 0.5, color="0.85", linewidth=0)
            ax.axhline(ranked.mean(), color="0.3", ls=":", lw=1.2)
            dead = f"{1 - alive / len(ranked):.0%} dead"
            at = {"transform": ax.transAxes, "ha": "right", "va": "top", "fontsize": 10}
            ax.text(0.97, 0.93, dead, bbox={"facecolor": "white", "lw": 0, "pad": 1.5}, **at)
            rows.append(pd.DataFrame({"way": way, "step": step, "rank": rank, "points": ranked}))
            ax.grid(axis="x", visible=False)
    axes[0, 0].set(yscale="log", ylim=(0.7, None), xlim=(0.5, len(rank) + 0.5))
    axes[0, 0].yaxis.set_major_formatter("{x:,g}")
    fig.supxlabel("proxies, sorted by the points that they serve", fontsize=11)
    return fig, pd.concat(rows, ignore_index=True)


def ladder(table: pd.DataFrame, ax: plt.Axes | None = None) -> Figure:
    """A row per setting: its Recall@1 minus that of the setting which it changes, seed by seed.

    Every seed a small ring, their mean a mark, its 95 % interval a bar and, at the right, numbers.

    Args:
        table: one row per run: `setting`, `changes` (the setting that it differs from by one
            switch; missing where it has none to be compared with), `seed`, `recall_at_1`.
        ax: where to draw; by default a new figure.
    """
    wide = 100 * table.pivot(index="seed", columns="setting", values="recall_at_1")
    rows = table.dropna(subset="changes").drop_duplicates("setting")
    if ax is None:
        _, ax = plt.subplots(figsize=(9, 0.5 * len(rows) + 1.2), layout="constrained")
    for place, (setting, before) in enumerate(zip(rows["setting"], rows["changes"], strict=True)):
        gaps = wide[setting] - wide[before]
        mean, low, high = interval(gaps)
        ax.plot(gaps, [place + 0.22] * len(gaps), "o", ms=5, mfc="none", mec="0.35")
        ax.plot([low, high], [place] * 2, color="black", lw=1.5)
        ax.plot(mean, place, "o", ms=9, color=RIGHT if mean > 0 else WRONG, mec="0.2", mew=0.6)
        at = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": 10}
        ax.annotate(show_interval(gaps), (1.02, place), **at)
    ax.axvline(0, color="0.3", ls=":", lw=1.5)
    ax.set(xlabel="points of Recall@1 gained", ylim=(len(rows) - 0.4, -0.5))
    ax.set_yticks(range(len(rows)), rows["setting"])
    ax.grid(axis="y", visible=False)
    return ax.figure


def walk(table: pd.DataFrame) -> Figure:
    """Every run of a walk over settings as a mark on its method's row; the chosen has a ring.

    Args:
        table: one row per run: `method` (as shown), `axis`, `recall` (%), `chosen`.
    """
    method, methods = pd.factorize(table["method"])
    axis, axes = pd.factorize(table["axis"])
    shown = table.assign(place=method + np.linspace(-0.25, 0.25, len(axes))[axis])
    height = max(0.55 * len(methods) + 1.4, 0.2 * len(axes) + 0.75)  # of the rows, of the legend
    fig, ax = plt.subplots(figsize=(9, height), layout="constrained")
    best = shown[shown["chosen"].astype(bool)]
    ax.plot(best["recall"], best["place"], "o", mfc="none", mec="black", ms=13, label="chosen")
    look = {"hue": "axis", "style": "axis", "palette": "colorblind", "s": 70, "linewidth": 0.4}
    look["markers"] = dict(zip(axes, cycle("osD^vPXhp<>d8"), strict=False))
    sns.scatterplot(shown, x="recall", y="place", **look, ax=ax)
    ax.set(xlabel="Recall@1 on the judging classes (%)", ylabel="")
    ax.set(ylim=(len(methods) - 0.4, -0.6), yticks=range(len(methods)), yticklabels=methods)
    ax.grid(axis="y", visible=False)
    sns.move_legend(ax, "upper left", bbox_to_anchor=(1, 1), title="setting tried", fontsize=9)
    return fig

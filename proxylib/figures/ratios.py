"""Plots about the number of proxies and about dynamic assignment (FIG. 6 and 7)."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from proxylib.figures.style import method_label, method_style, title
from proxylib.statistics import interval

_LOOKS = (("o", "-"), ("D", "--"), ("s", ":"))


def proxy_ratio(
    swept: pd.DataFrame,
    baselines: pd.DataFrame,
    metric: str = "recall_at_1",
    *,
    published: Mapping[float, float] | None = None,
) -> Figure:
    """A metric (in %) against proxies per label, the baselines as horizontal bands (FIG. 6, 7).

    Every seed is a small mark, the mean a line, the 95 % interval over the seeds a bar (of a
    baseline: a band). Further panels below: the proxies in use, if `swept` has them, and
    published values, which are of other data and never share an axis with ours.

    Args:
        swept: rows with `curve` (its name), `ratio`, `seed` and the metric as a fraction, maybe
            `in_use`, the share of the proxies that serve a point at the end.
        baselines: rows with `method`, `seed` and the metric.
        published: ratio → the metric in %.
    """
    more = ["use"] * ("in_use" in swept) + ["published"] * (published is not None)
    fig, axes = plt.subplot_mosaic(
        [["main"] * max(1, len(more)), more] if more else [["main"]],
        figsize=(8.5, 7.6 if more else 5),
        height_ratios=(2, 1) if more else None,
        layout="constrained",
    )
    ax = axes["main"]
    _curves(ax, swept, metric)
    ticks = sorted(swept["ratio"].unique())
    _log_ratios(ax, ticks)
    _bands(ax, baselines, metric)
    ax.set_ylabel(f"{title(metric)} (%)")
    above = {"loc": "lower left", "bbox_to_anchor": (-0.02, 1)}  # where no mark can be
    ax.legend(**above, ncols=2, frameon=False)
    if "use" in axes:
        _curves(axes["use"], swept, "in_use")
        _log_ratios(axes["use"], ticks)
        axes["use"].set(ylabel="proxies in use (%)", ylim=(-4, 104))
    if published is not None:
        style = {"color": "black", "marker": "^", "linestyle": "-"}
        axes["published"].plot(list(published), list(published.values()), **style)
        _log_ratios(axes["published"], list(published))
        axes["published"].set_ylabel(f"{title(metric)} (%), published")
    return fig


def switches(table: pd.DataFrame, columns: Mapping[str, str]) -> Figure:
    """One row per setting, one panel per column: every run a mark, the mean a tick, its value.

    Args:
        table: rows with `setting`, `seed` and the columns as fractions, settings in order. A
            setting without a value has no mark.
        columns: column → its name on the axis, without the unit.
    """
    names = list(dict.fromkeys(table["setting"]))
    fig, axes = plt.subplots(
        1,
        len(columns),
        figsize=(9, 0.42 * len(names) + 1.2),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    color = method_style("dynamic")["color"]
    for ax, (column, label) in zip(axes[0], columns.items(), strict=True):
        for place, name in enumerate(names):
            values = 100 * table.loc[table["setting"] == name, column].dropna()
            if values.empty:
                continue
            ax.plot(values, [place] * len(values), "o", color=color, ms=7, alpha=0.6, mew=0)
            ax.plot([values.mean()] * 2, [place - 0.3, place + 0.3], color="black", lw=2)
            ax.annotate(
                f"{values.mean():.0f}",
                (values.max(), place),
                (8, 0),
                textcoords="offset points",
                va="center",
                fontsize=10,
            )
        ax.set(xlabel=f"{label} (%)", xlim=(0, 116), xticks=range(0, 101, 20))
        ax.grid(False, axis="y")
    axes[0][0].set_yticks(range(len(names)), names)
    axes[0][0].invert_yaxis()
    return fig


def spread(values: np.ndarray, gap: float) -> np.ndarray:
    """Places as near to the values as can be, in their order, with at least `gap` between them.

    Example:
        >>> spread(np.array([5.0, 5.0, 9.0]), 2.0)
        array([4., 6., 9.])
    """
    order = np.argsort(values, kind="stable")
    groups: list[list[int]] = []  # runs of labels that touch; each is centred on its values
    for i in order:
        groups.append([i])
        while len(groups) > 1 and _first(values, groups[-1], gap) < (
            _first(values, groups[-2], gap) + gap * len(groups[-2]) - 1e-9
        ):
            last = groups.pop()
            groups[-1] += last
    places = np.empty(len(values))
    for group in groups:
        places[group] = _first(values, group, gap) + gap * np.arange(len(group))
    return places


def _first(values: np.ndarray, group: list[int], gap: float) -> float:
    """Place of the lowest label of a run."""
    return float(values[group].mean()) - gap * (len(group) - 1) / 2


def _curves(ax: plt.Axes, swept: pd.DataFrame, metric: str) -> None:
    names = list(dict.fromkeys(swept["curve"]))
    colors = [method_style("proxy_nca")["color"], "black", "dimgrey"]
    for i, (name, color, (marker, line)) in enumerate(zip(names, colors, _LOOKS, strict=False)):
        rows = swept[swept["curve"] == name]
        shift = 1.015 ** (2 * i - len(names) + 1)  # so that marks of two curves stay apart
        ax.plot(
            shift * rows["ratio"], 100 * rows[metric], marker, color=color, ms=5, alpha=0.4, mew=0
        )
        ratios = sorted(rows["ratio"].unique())
        means = [interval(100 * rows.loc[rows["ratio"] == r, metric]) for r in ratios]
        at = shift * np.array(ratios)
        ax.plot(at, [m.mean for m in means], line, marker=marker, color=color, lw=2, label=name)
        ax.vlines(at, [m.low for m in means], [m.high for m in means], color=color, lw=2)


def _log_ratios(ax: plt.Axes, ratios: list[float]) -> None:
    ax.set_xscale("log")
    ax.set_xticks(ratios, [f"{ratio:g}" for ratio in ratios])
    ax.set_xticks([], minor=True)
    ax.set_xlabel("proxies per label")


def _bands(ax: plt.Axes, baselines: pd.DataFrame, metric: str) -> None:
    """Mean lines and intervals over the whole width; names at the right, none over another."""
    methods = list(dict.fromkeys(baselines["method"]))
    means = {m: interval(100 * baselines.loc[baselines["method"] == m, metric]) for m in methods}
    for method, (mean, low, high) in means.items():
        color = method_style(method)["color"]
        ax.axhline(mean, color=color, ls="--", lw=1.3, zorder=1)
        if high > low:
            ax.axhspan(low, high, color=color, alpha=0.13, lw=0, zorder=0)
    bottom, top = ax.get_ylim()
    values = np.array([means[m].mean for m in methods])
    places = spread(values, 0.055 * (top - bottom))
    for method, value, place in zip(methods, values, places, strict=True):
        style = method_style(method)
        ax.plot([1, 1.03], [value, place], color=style["color"], lw=1.3, **_beside(ax))
        ax.plot(1.045, place, style["marker"], color=style["color"], ms=6, **_beside(ax))
        text = f"{method_label(method)} {value:.1f}"
        ax.text(1.065, place, text, va="center", fontsize=10, transform=ax.get_yaxis_transform())
    ax.set_ylim(bottom, top)
    sns.despine(ax=ax)


def _beside(ax: plt.Axes) -> dict[str, object]:
    return {"transform": ax.get_yaxis_transform(), "clip_on": False}

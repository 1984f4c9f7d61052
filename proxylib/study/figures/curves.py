"""Curves: every seed a thin line, their means bold."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from proxylib.study.figures.style import DASHED, method_label, method_style, name_at_right, title

AXIS = {"samples": "training samples seen", "step": "training steps", "seconds": "training seconds"}


def convergence(
    history: pd.DataFrame, metric: str = "recall_at_1", *, label: str = "Proxy-NCA"
) -> Figure:
    """A metric (in %) against training steps: every seed as a thin line, their mean as a bold one.

    Args:
        history: rows with `step`, `seed` and the metric as a fraction.
        label: whose mean it is.
    """
    fig, ax = plt.subplots(figsize=(8, 4.2), layout="constrained")
    shown = history.assign(seed="seed " + history["seed"].astype(str), y=100 * history[metric])
    curve = {"data": shown, "x": "step", "y": "y", "errorbar": None, "ax": ax}
    look = {"palette": "colorblind", "markers": True, "dashes": False, "lw": 1, "mec": "auto"}
    sns.lineplot(**curve, hue="seed", style="seed", **look)
    sns.lineplot(**curve, color="black", lw=2.5, alpha=0.7, label=f"{label}, mean")
    ax.set(xlabel=AXIS["step"], ylabel=f"{title(metric)} (%)", ylim=(0, 100))
    ax.set_xlim(left=0)
    sns.move_legend(ax, "upper left", bbox_to_anchor=(1, 1), title=None)
    return fig


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

    The methods' names stand at the right with their last means, in the order of these.

    Args:
        table: method, seed, `by`, the columns and the metric as a fraction; a history, for one.
        columns: what goes along the axis: samples, step, seconds or another number.
        by: rows of equal `by` make a point of the mean curve.
        target: a level to draw, as a fraction.
        epoch: training images; gives the first panel a second axis, in epochs.
    """
    fig = plt.figure(figsize=(8 if len(columns) == 1 else 10, 4.8), layout="constrained")
    axes = fig.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for ax, column in zip(axes, columns, strict=True):
        lasts = draw_curves(ax, table, column, metric, by=by, target=target)
    if epoch:
        scales = (lambda x: x / epoch, lambda x: x * epoch)
        axes[0].secondary_xaxis("top", functions=scales).set_xlabel("epochs")
    name_at_right(axes[-1], lasts)
    return fig


def draw_curves(
    ax: plt.Axes,
    table: pd.DataFrame,
    column: str = "samples",
    metric: str = "recall_at_1",
    *,
    by: str = "step",
    target: float | None = None,
) -> pd.Series:
    """One panel of `method_curves`, without names; returns the last mean of every method in %."""
    means = _seeds_and_means(ax, table, column, metric, by)
    ax.get_legend().remove()
    if target is not None:
        ax.axhline(100 * target, color="black", ls=":", lw=1.5)
    ax.set_xlabel(AXIS.get(column, column))
    ax.set_xlim(right=table[column].max())
    if by == "step":
        ax.set_xlim(left=min(0, table[column].min()))
        ax.locator_params(axis="x", nbins=5)
        ax.xaxis.set_major_formatter("{x:,.10g}")
    return means.groupby("method")[metric].last()


def rotation(table: pd.DataFrame) -> Figure:
    """Recall@1 against the angle by which queries are turned; seeds thin, means bold.

    Args:
        table: from `rotation.rotation`: `method`, `seed`, `angle`, `recall_at_1`.
    """
    fig, ax = plt.subplots(figsize=(8.5, 4.5), layout="constrained")
    _seeds_and_means(ax, table, "angle", "recall_at_1", "angle")
    ax.set(xlabel="queries turned by (degrees)", ylim=(0, 100))
    sns.move_legend(ax, "upper left", bbox_to_anchor=(1, 1), title=None, handlelength=3)
    for text in ax.get_legend().get_texts():
        text.set_text(method_label(text.get_text()))
    return fig


def _seeds_and_means(ax: plt.Axes, table: pd.DataFrame, x: str, y: str, by: str) -> pd.DataFrame:
    """Draw metric y (in %) of every method over x; return the means, a row per method and `by`."""
    shown = table.assign(**{y: 100 * table[y]})
    means = shown.groupby(["method", by], sort=False, as_index=False).mean(numeric_only=True)
    styles = {method: method_style(method) for method in table["method"].unique()}
    curve = {"x": x, "y": y, "hue": "method", "style": "method", "estimator": None, "ax": ax}
    curve["palette"] = {method: style["color"] for method, style in styles.items()}
    curve["dashes"] = {m: "" if s["linestyle"] == "-" else DASHED for m, s in styles.items()}
    thin = {"lw": 0.8, "alpha": 0.4, "marker": ".", "ms": 3, "mec": "auto"}
    sns.lineplot(shown, **curve, units="seed", legend=False, **thin)
    every = max(1, means.groupby("method").size().max() // 6)
    bold = {"lw": 2.2, "ms": 7, "mec": "auto", "markevery": every}
    bold["markers"] = {method: style["marker"] for method, style in styles.items()}
    sns.lineplot(means, **curve, **bold)
    ax.set_ylabel(f"{title(y)} (%)")
    if by != "step":
        ax.set_xticks(sorted(table[x].unique()))
    return means

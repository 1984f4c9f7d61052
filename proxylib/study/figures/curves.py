"""Curves over training, angle or number of proxies: seeds thin or small, their means bold."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from proxylib.study.claims.statistics import interval
from proxylib.study.figures.style import DASHED, MEAN, method_label, method_style, name_at_right

AXIS = {"samples": "training samples seen", "step": "training steps", "seconds": "training seconds"}


def convergence(history: pd.DataFrame, *, label: str = "Proxy-NCA") -> Figure:
    """Recall@1 against training steps: every seed as a thin line, their mean as a bold one.

    Args:
        history: rows with `step`, `seed` and `recall_at_1`.
        label: whose mean it is.
    """
    fig, ax = plt.subplots(figsize=(8, 4.2), layout="constrained")
    shown = history.assign(
        seed="seed " + history["seed"].astype(str), y=100 * history["recall_at_1"]
    )
    curve = {"data": shown, "x": "step", "y": "y", "errorbar": None, "ax": ax}
    look = {"palette": "colorblind", "markers": True, "dashes": False, "lw": 1, "mec": "auto"}
    sns.lineplot(**curve, hue="seed", style="seed", **look)
    sns.lineplot(**curve, color="black", lw=2.5, alpha=0.7, label=f"{label}, mean")
    ax.set(xlabel=AXIS["step"], ylabel="Recall@1 (%)", ylim=(0, 100))
    ax.set_xlim(left=0)
    sns.move_legend(ax, "upper left", bbox_to_anchor=(1, 1), title=None)
    return fig


def method_curves(
    table: pd.DataFrame,
    columns: Sequence[str] = ("samples",),
    *,
    by: str = "step",
    target: float | None = None,
    epoch: int | None = None,
) -> Figure:
    """Recall@1 of every method, one panel a column: seeds thin, their means bold.

    The methods' names stand at the right with their last means, in the order of these.

    Args:
        table: method, seed, `by`, the columns and `recall_at_1`; a history, for one.
        columns: what goes along the axis: samples, step, seconds or another number.
        by: rows of equal `by` make a point of the mean curve.
        target: a level to draw, as a fraction.
        epoch: training images; gives the first panel a second axis, in epochs.
    """
    fig = plt.figure(figsize=(8 if len(columns) == 1 else 10, 4.8), layout="constrained")
    axes = fig.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for ax, column in zip(axes, columns, strict=True):
        lasts = draw_curves(ax, table, column, by=by, target=target)
    if epoch:
        scales = (lambda x: x / epoch, lambda x: x * epoch)
        axes[0].secondary_xaxis("top", functions=scales).set_xlabel("epochs")
    name_at_right(axes[-1], lasts)
    return fig


def draw_curves(
    ax: plt.Axes,
    table: pd.DataFrame,
    column: str = "samples",
    *,
    by: str = "step",
    target: float | None = None,
) -> pd.Series:
    """One panel of `method_curves`, without names; returns the last mean of every method in %."""
    means = _seeds_and_means(ax, table, column, by)
    ax.get_legend().remove()
    if target is not None:
        ax.axhline(100 * target, color="black", ls=":", lw=1.5)
    ax.set_xlabel(AXIS.get(column, column))
    ax.set_xlim(right=table[column].max())
    if by == "step":
        ax.set_xlim(left=min(0, table[column].min()))
        ax.locator_params(axis="x", nbins=5)
        ax.xaxis.set_major_formatter("{x:,.10g}")
    return means.groupby("method")["recall_at_1"].last()


def rotation(table: pd.DataFrame) -> Figure:
    """Recall@1 against the angle by which queries are turned; seeds thin, means bold.

    Args:
        table: from `rotation.rotation`: `method`, `seed`, `angle`, `recall_at_1`.
    """
    fig, ax = plt.subplots(figsize=(8.5, 4.5), layout="constrained")
    _seeds_and_means(ax, table, "angle", "angle")
    ax.set(xlabel="queries turned by (degrees)", ylim=(0, 100))
    sns.move_legend(ax, "upper left", bbox_to_anchor=(1, 1), title=None, handlelength=3)
    for text in ax.get_legend().get_texts():
        text.set_text(method_label(text.get_text()))
    return fig


def _seeds_and_means(ax: plt.Axes, table: pd.DataFrame, x: str, by: str) -> pd.DataFrame:
    """Draw every method's Recall@1 over x; return the means in %, a row per method and `by`."""
    shown = table.assign(recall_at_1=100 * table["recall_at_1"])
    means = shown.groupby(["method", by], sort=False, as_index=False).mean(numeric_only=True)
    styles = {method: method_style(method) for method in table["method"].unique()}
    curve = {"x": x, "y": "recall_at_1", "hue": "method", "style": "method", "ax": ax}
    curve["estimator"] = None
    curve["palette"] = {method: style["color"] for method, style in styles.items()}
    curve["dashes"] = {m: "" if s["linestyle"] == "-" else DASHED for m, s in styles.items()}
    thin = {"lw": 0.8, "alpha": 0.4, "marker": ".", "ms": 3, "mec": "auto"}
    sns.lineplot(shown, **curve, units="seed", legend=False, **thin)
    every = max(1, means.groupby("method").size().max() // 6)
    bold = {"lw": 2.2, "ms": 7, "mec": "auto", "markevery": every}
    bold["markers"] = {method: style["marker"] for method, style in styles.items()}
    sns.lineplot(means, **curve, **bold)
    ax.set_ylabel("Recall@1 (%)")
    if by != "step":
        ax.set_xticks(sorted(table[x].unique()))
    return means


def proxy_ratio(
    swept: pd.DataFrame, baselines: pd.DataFrame, *, published: Mapping[float, float] | None = None
) -> Figure:
    """Recall@1 against proxies per label, the baselines as horizontal bands (FIG. 6, 7).

    Every seed is a small mark, the mean a line, the 95 % interval over the seeds a bar (of a
    baseline: a band). Further panels below: the proxies in use, if `swept` has them, and
    published values, which are of other data and never share an axis with ours.

    Args:
        swept: rows with `curve` (its name; four at most), `ratio`, `seed` and `recall_at_1`,
            maybe `in_use`, the share of the proxies that serve a point at the end.
        baselines: rows with `method`, `seed` and `recall_at_1`.
        published: ratio → Recall@1 in %.
    """
    more = ["in_use"] * ("in_use" in swept) + ["published"] * (published is not None)
    fig = plt.figure(figsize=(8.5, 7.6 if more else 5), layout="constrained")
    panels = [["main"] * max(1, len(more)), more] if more else [["main"]]
    axes = fig.subplot_mosaic(panels, height_ratios=(2, 1)[: len(panels)])
    draw_ratios(axes["main"], swept, baselines)
    above = {"bbox_to_anchor": (-0.02, 1), "ncols": 2, "title": None}  # where no mark can be
    sns.move_legend(axes["main"], "lower left", frameon=False, handlelength=2.8, **above)
    if "in_use" in axes:
        _ratio_curves(axes["in_use"], swept, "in_use")
        axes["in_use"].set(ylabel="proxies in use (%)", ylim=(-4, 104))
        axes["in_use"].get_legend().remove()
    if "published" in axes:
        axes["published"].plot(list(published), list(published.values()), "^-", color="black")
        axes["published"].set_ylabel("Recall@1 (%), published")
        _log_ratios(axes["published"], list(published))
    return fig


def draw_ratios(
    ax: plt.Axes, swept: pd.DataFrame, baselines: pd.DataFrame, names: Sequence[str] | None = None
) -> None:
    """The main panel of `proxy_ratio`; the looks of the curves are dealt in the order of `names`.

    By default these are the curves as they come in `swept`.
    """
    _ratio_curves(ax, swept, "recall_at_1", names)
    means = {}
    for method, values in baselines.groupby("method", sort=False)["recall_at_1"]:
        means[method], low, high = interval(100 * values)
        color = method_style(method)["color"]
        ax.axhline(means[method], color=color, ls="--", lw=1.3, zorder=1)
        if high > low:
            ax.axhspan(low, high, color=color, alpha=0.13, lw=0, zorder=0)
    name_at_right(ax, pd.Series(means))
    ax.set_ylabel("Recall@1 (%)")


def _ratio_curves(
    ax: plt.Axes, swept: pd.DataFrame, metric: str, names: Sequence[str] | None = None
) -> None:
    names = list(swept["curve"].unique() if names is None else names)
    shift = {name: 1.015 ** (2 * i - len(names) + 1) for i, name in enumerate(names)}
    apart = swept["ratio"] * swept["curve"].map(shift)  # so that two curves' marks don't meet
    shown = swept.assign(ratio=apart, **{metric: 100 * swept[metric]})
    curve = {"data": shown, "x": "ratio", "y": metric, "hue": "curve", "style": "curve", "ax": ax}
    curve |= {"hue_order": names, "style_order": names}
    colors = [method_style("proxy_nca")["color"], "black", "dimgrey", "#882255"]
    curve["palette"] = colors[: len(names)]
    curve["markers"] = ["o", "D", "s", "^"][: len(names)]
    sns.scatterplot(**curve, alpha=0.4, s=30, legend=False)
    line = {"dashes": ["", DASHED, (1, 1), (5, 1, 1, 1)][: len(names)], "lw": 2, "ms": 7}
    sns.lineplot(**curve, **MEAN, **line, err_style="bars", err_kws={"lw": 2})
    _log_ratios(ax, sorted(swept["ratio"].unique()))


def _log_ratios(ax: plt.Axes, ratios: list[float]) -> None:
    ax.set(xscale="log", xlabel="proxies per label")
    ax.set_xticks(ratios, [f"{ratio:g}" for ratio in ratios])
    ax.set_xticks([], minor=True)

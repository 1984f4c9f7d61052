"""The number of proxies (FIG. 6 and 7)."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from proxylib.study.claims.statistics import interval
from proxylib.study.figures.style import DASHED, MEAN, method_style, name_at_right, title


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
        swept: rows with `curve` (its name; three at most), `ratio`, `seed` and the metric as a
            fraction, maybe `in_use`, the share of the proxies that serve a point at the end.
        baselines: rows with `method`, `seed` and the metric.
        published: ratio → the metric in %.
    """
    more = ["in_use"] * ("in_use" in swept) + ["published"] * (published is not None)
    fig = plt.figure(figsize=(8.5, 7.6 if more else 5), layout="constrained")
    panels = [["main"] * max(1, len(more)), more] if more else [["main"]]
    axes = fig.subplot_mosaic(panels, height_ratios=(2, 1)[: len(panels)])
    draw_ratios(axes["main"], swept, baselines, metric)
    above = {"bbox_to_anchor": (-0.02, 1), "ncols": 2, "title": None}  # where no mark can be
    sns.move_legend(axes["main"], "lower left", frameon=False, handlelength=2.8, **above)
    if "in_use" in axes:
        _curves(axes["in_use"], swept, "in_use")
        axes["in_use"].set(ylabel="proxies in use (%)", ylim=(-4, 104))
        axes["in_use"].get_legend().remove()
    if "published" in axes:
        axes["published"].plot(list(published), list(published.values()), "^-", color="black")
        axes["published"].set_ylabel(f"{title(metric)} (%), published")
        _log_ratios(axes["published"], list(published))
    return fig


def draw_ratios(
    ax: plt.Axes,
    swept: pd.DataFrame,
    baselines: pd.DataFrame,
    metric: str = "recall_at_1",
    names: Sequence[str] | None = None,
) -> None:
    """The main panel of `proxy_ratio`; the looks of the curves are dealt in the order of `names`.

    By default these are the curves as they come in `swept`.
    """
    _curves(ax, swept, metric, names)
    _bands(ax, baselines, metric)
    ax.set_ylabel(f"{title(metric)} (%)")


def _curves(
    ax: plt.Axes, swept: pd.DataFrame, metric: str, names: Sequence[str] | None = None
) -> None:
    names = list(swept["curve"].unique() if names is None else names)
    shift = {name: 1.015 ** (2 * i - len(names) + 1) for i, name in enumerate(names)}
    apart = swept["ratio"] * swept["curve"].map(shift)  # so that two curves' marks don't meet
    shown = swept.assign(ratio=apart, **{metric: 100 * swept[metric]})
    curve = {"data": shown, "x": "ratio", "y": metric, "hue": "curve", "style": "curve", "ax": ax}
    curve |= {"hue_order": names, "style_order": names}
    curve["palette"] = [method_style("proxy_nca")["color"], "black", "dimgrey"][: len(names)]
    curve["markers"] = ["o", "D", "s"][: len(names)]
    sns.scatterplot(**curve, alpha=0.4, s=30, legend=False)
    line = {"dashes": ["", DASHED, (1, 1)][: len(names)], "lw": 2, "ms": 7}
    sns.lineplot(**curve, **MEAN, **line, err_style="bars", err_kws={"lw": 2})
    _log_ratios(ax, sorted(swept["ratio"].unique()))


def _log_ratios(ax: plt.Axes, ratios: list[float]) -> None:
    ax.set(xscale="log", xlabel="proxies per label")
    ax.set_xticks(ratios, [f"{ratio:g}" for ratio in ratios])
    ax.set_xticks([], minor=True)


def _bands(ax: plt.Axes, baselines: pd.DataFrame, metric: str) -> None:
    """Mean lines and intervals over the whole width; names at the right, none over another."""
    means = {}
    for method, values in baselines.groupby("method", sort=False)[metric]:
        means[method], low, high = interval(100 * values)
        color = method_style(method)["color"]
        ax.axhline(means[method], color=color, ls="--", lw=1.3, zorder=1)
        if high > low:
            ax.axhspan(low, high, color=color, alpha=0.13, lw=0, zorder=0)
    name_at_right(ax, pd.Series(means))

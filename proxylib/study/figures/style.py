"""The look that all plots share: colours, markers, names as readers know them, intervals."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from proxylib.study.claims.statistics import interval
from proxylib.study.methods import METHODS

RIGHT, WRONG = "#0072B2", "#D55E00"  # blue and vermilion: told apart by every kind of eye
DASHED = (3.7, 1.6)  # seaborn's dashes, in line widths; "" is a solid line

# For seaborn: the mean of the seeds and its 95 % interval, both as the claims have them.
MEAN = {
    "estimator": lambda values: interval(values).mean,
    "errorbar": lambda values: (interval(values).low, interval(values).high),
}


def use_style() -> None:
    """The study's look: white, light grid, colour-blind-safe palette."""
    sns.set_theme("notebook", "whitegrid", "colorblind", rc={"figure.dpi": 100, "savefig.dpi": 150})


def title(metric: str) -> str:
    """`recall_at_1` → `Recall@1`, `nmi` → `NMI`."""
    return metric.replace("recall_at_", "Recall@").replace("nmi", "NMI")


def method_label(name: str) -> str:
    """`npairs` → `N-pairs`."""
    return METHODS[name].label


def method_style(name: str) -> dict[str, object]:
    """Colour, marker and line of a method, the same in every plot; solid if it has proxies."""
    method = METHODS[name]
    color = sns.color_palette("colorblind")[method.color]
    line = "-" if method.has_proxies else "--"
    return {"color": color, "marker": method.marker, "linestyle": line}


def name_at_right(ax: plt.Axes, heights: pd.Series) -> None:
    """Names and values right of the axes, joined to their heights, apart where they would touch.

    The heights are the methods' values on the y axis, by name.
    """
    low, high = ax.get_ylim()
    heights = heights.sort_values()
    places = spread(heights.to_numpy(), 0.06 * (high - low))
    places += max(0.0, low - places[0])
    places -= max(0.0, places[-1] - high)
    outside = {"transform": ax.get_yaxis_transform(), "clip_on": False}
    for (method, height), place in zip(heights.items(), places, strict=True):
        color, name = method_style(method)["color"], f"{method_label(method)} {height:.1f}"
        weight = "bold" if method == "proxy_nca" else "normal"
        ax.plot([1, 1.04], [height, place], color=color, lw=1, **outside)
        ax.plot(1.05, place, method_style(method)["marker"], color=color, ms=7, **outside)
        ax.text(1.08, place, name, va="center", weight=weight, fontsize=10.5, **outside)
    ax.set_ylim(low, high)


def spread(values: np.ndarray, gap: float) -> np.ndarray:
    """The places (N,) nearest to ascending values (N,) that are at least a gap apart."""
    from sklearn.isotonic import isotonic_regression  # not above, for it takes long to import

    steps = gap * np.arange(len(values))
    return isotonic_regression(values - steps) + steps

"""Curves: one mark a seed, means in bold."""

import itertools

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from proxylib.figures.style import MARKERS, title


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

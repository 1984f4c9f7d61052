"""Walks over settings (notebook A1_tuning)."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from proxylib.figures.style import MARKERS


def walk(table: pd.DataFrame) -> Figure:
    """Every run of a walk as a mark on its method's row; the chosen one has a ring.

    Args:
        table: one row per run: `method` (as shown), `axis`, `recall` (%), `chosen`.
    """
    methods = list(dict.fromkeys(table["method"]))[::-1]
    fig, ax = plt.subplots(figsize=(9, 0.55 * len(methods) + 1.4), layout="constrained")
    axes = dict.fromkeys(table["axis"])
    colors = sns.color_palette("colorblind", len(axes))
    spread = {axis: 0.5 * (i / max(1, len(axes) - 1) - 0.5) for i, axis in enumerate(axes)}
    for (axis, offset), color, marker in zip(spread.items(), colors, MARKERS * 2, strict=False):
        rows = table[table["axis"] == axis]
        height = [methods.index(method) - offset for method in rows["method"]]
        ax.plot(rows["recall"], height, marker, color=color, ms=6, label=axis)
        best = rows["chosen"].to_numpy(bool)
        ax.plot(
            rows["recall"][best],
            [h for h, b in zip(height, best, strict=True) if b],
            "o",
            mfc="none",
            mec="black",
            ms=13,
        )
    ax.set(xlabel="Recall@1 on the judging classes (%)", ylim=(-0.6, len(methods) - 0.4))
    ax.set_yticks(range(len(methods)), methods)
    ax.grid(axis="y", visible=False)
    ax.legend(title="setting tried", bbox_to_anchor=(1, 1), loc="upper left", fontsize=9)
    return fig

"""Pictures of the claims' ledger and of its evidence on rotation (notebook 08_claims)."""

import textwrap
from collections.abc import Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from proxylib.claims import NOT_REPRODUCED, NOT_TESTED, PARTLY, REPRODUCED, Claim
from proxylib.figures.style import RIGHT, WRONG, method_label, method_style

VERDICTS = {  # sign and colour
    REPRODUCED: ("✓", RIGHT),
    PARTLY: ("≈", "#8A5A00"),
    NOT_REPRODUCED: ("✗", WRONG),
    NOT_TESTED: ("–", "grey"),
}


def ledger(claims: Sequence[Claim]) -> Figure:
    """Every claim on a row: what is said, verdict, effect with its interval."""
    lines = [textwrap.wrap(claim.statement, 58) for claim in claims]
    heights = [0.22 * max(2, len(line)) + 0.14 for line in lines]
    fig, ax = plt.subplots(figsize=(10, sum(heights) + 0.4), layout="constrained")
    at = 0.0
    for claim, line, height in zip(claims, lines, heights, strict=True):
        sign, color = VERDICTS[claim.verdict]
        middle = at + height / 2
        ax.axhspan(at + 0.03, at + height - 0.03, color=color, alpha=0.07, lw=0)
        ax.text(0.1, middle, claim.id, va="center", weight="bold", fontsize=10)
        ax.text(0.7, middle, "\n".join(line), va="center", fontsize=9)
        ax.text(
            6.0,
            middle,
            f"{sign} {claim.verdict}",
            va="center",
            color=color,
            weight="bold",
            fontsize=9,
        )
        ax.text(7.9, middle, _effect(claim), va="center", fontsize=9)
        at += height
    ax.set(xlim=(0, 10.9), ylim=(at, 0))
    ax.axis("off")
    return fig


def _effect(claim: Claim) -> str:
    if claim.effect != claim.effect:
        return ""
    text = f"{claim.effect:.3g} {claim.unit}"
    if claim.low == claim.low:
        text += f" ({claim.low:.3g} to {claim.high:.3g})"
    return textwrap.fill(text.replace("-", "−"), 32)


def rotation(table: pd.DataFrame) -> Figure:
    """Recall@1 against the angle by which queries are turned; seeds thin, means bold.

    Args:
        table: from `rotation.rotation`: `method`, `seed`, `angle`, `recall_at_1`.
    """
    fig, ax = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name, rows in table.groupby("method", sort=False):
        style = method_style(name)
        for _, run in rows.groupby("seed"):
            ax.plot(run["angle"], 100 * run["recall_at_1"], **style, lw=0.7, ms=0, alpha=0.5)
        mean = rows.groupby("angle")["recall_at_1"].mean()
        ax.plot(mean.index, 100 * mean, **style, lw=2, label=method_label(name))
    ax.set(xlabel="queries turned by (degrees)", ylabel="Recall@1 (%)", ylim=(0, 100))
    ax.set_xticks(sorted(table["angle"].unique()))
    ax.tick_params(axis="x", labelrotation=45)
    ax.legend(bbox_to_anchor=(1, 1), loc="upper left")
    return fig

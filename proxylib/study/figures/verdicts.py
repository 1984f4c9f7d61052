"""The ledger: every claim with its verdict and effect, a column for each data set."""

import math
import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from proxylib.study.claims import NOT_REPRODUCED, NOT_TESTED, PARTLY, REPRODUCED, Claim
from proxylib.study.figures.style import RIGHT, WRONG

VERDICTS = {  # sign and colour
    REPRODUCED: ("✓", RIGHT),
    PARTLY: ("≈", "#8A5A00"),
    NOT_REPRODUCED: ("✗", WRONG),
    NOT_TESTED: ("–", "grey"),
}


def ledger(claims: Sequence[Claim] | Mapping[str, Sequence[Claim]]) -> Figure:
    """Every claim on a row: what is said, then the verdict above its effect with the interval.

    Args:
        claims: judged ones; or those of several data sets by name, each of which gets a column of
            its own, empty where it lacks a claim.
    """
    results = claims if isinstance(claims, Mapping) else {"": claims}
    step = min(2.4, 8.8 / len(results))
    width = min(11.8, 5.4 + step * len(results))
    columns = {name: width - step * (len(results) - i) for i, name in enumerate(results)}
    wrap, fits = int(13.5 * (min(columns.values()) - 0.8)), int(15 * step)
    rows: dict[str, dict[str, Claim]] = {}
    for name, judged in results.items():
        for claim in judged:
            rows.setdefault(claim.id, {})[name] = claim

    fig, ax = plt.subplots(layout="constrained")
    for name, x in columns.items():
        ax.text(x, 0.15, name, weight="bold", va="center", fontsize=11)
    top = 0.3 if any(columns) else 0.0
    for key, cells in rows.items():
        said = textwrap.wrap(next(iter(cells.values())).statement, wrap)
        effects = {
            name: "\n".join(textwrap.fill(line, fits) for line in effect_of(claim).splitlines())
            for name, claim in cells.items()
        }
        lines = max(len(said), 2, *(2 + text.count("\n") for text in effects.values()))
        middle, height = top + 0.1 * lines + 0.07, 0.2 * lines + 0.14
        ax.text(0.1, middle, key, weight="bold", va="center", fontsize=9)
        ax.text(0.7, middle, "\n".join(said), va="center", fontsize=9)
        for name, text in effects.items():
            sign, color = VERDICTS[cells[name].verdict]
            x, y = columns[name], middle - 0.08 * text.count("\n")  # where verdict and effect meet
            span = ((x - 0.1) / width, (x + step - 0.15) / width)
            ax.axhspan(top + 0.03, top + height - 0.03, *span, color=color, alpha=0.07, lw=0)
            verdict = f"{sign} {cells[name].verdict}"
            ax.text(x, y - 0.01, verdict, color=color, weight="bold", va="bottom", fontsize=9)
            ax.text(x, y + 0.02, text, va="top", fontsize=9)
        top += height
    ax.set(xlim=(0, width), ylim=(top, 0))
    ax.axis("off")
    fig.set_size_inches(width, top + 0.4)
    return fig


def effect_of(claim: Claim, width: int = 30) -> str:
    """A claim's effect with its unit and interval, on two lines if longer than `width`."""
    if math.isnan(claim.effect):
        return ""
    digits = 0 if claim.unit == "violations" else 2 if abs(claim.effect) < 10 else 1
    numbers = (claim.effect, claim.low, claim.high)
    mean, low, high = (f"{round(number, digits) + 0.0:.{digits}f}" for number in numbers)
    between = "" if math.isnan(claim.low) else f"\n({low} to {high})"
    text = f"{mean} {claim.unit}{between}".replace("-", "−")
    text = text.replace("percentage points", "points")
    return text if len(text) > width else text.replace("\n", " ")

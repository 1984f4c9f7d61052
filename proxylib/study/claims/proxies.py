"""C5 to C7: how many proxies it takes, on fixed labels or going to the nearest proxy."""

import pandas as pd

from proxylib.study.claims.claim import Finding, claim, verdict_of
from proxylib.study.claims.evidence import final_values, gap_between, show_percent
from proxylib.study.claims.statistics import DIGITS, by_seed, interval, require
from proxylib.study.methods import BASELINES, METHODS

_HALF_SUFFICES_FROM_PRETRAINED = (
    "Reproduced if the mean R@1 at ratio 0.5 is at least the best baseline's from the same "
    "pre-trained start; partly if it is at ratio 0.75."
)


@claim(
    "C5",
    statement="One proxy for two labels is enough to beat the earlier methods, labels put on "
    "proxies at random.",
    source="FIG. 6",
    rule="Reproduced if the mean R@1 at ratio 0.5 is at least the best baseline's; partly if it "
    "is at ratio 0.75.",
    likely_cause="Two unrelated classes on one proxy are pulled together. With few, small training "
    "classes that costs more than on Cars196 with a network pre-trained on ImageNet.",
)
def c5(static: pd.DataFrame, benchmark: pd.DataFrame) -> Finding:
    require(static, "static", "ratio", "seed", "recall_at_1")
    return _half_suffices(static, final_values(benchmark))


@claim(
    "C6a",
    statement="Half as many proxies as concepts are enough without labels, every point going to "
    "its nearest proxy (by the patent's rule).",
    source="FIG. 7, method 1000",
    rule=_HALF_SUFFICES_FROM_PRETRAINED,
    likely_cause="The nearest proxy is mostly chosen by what the network knew before training. Our "
    "start knows other scripts, and proxies without points stay without them.",
)
def c6a(dynamic: pd.DataFrame, pretrained: pd.DataFrame) -> Finding:
    return _half_suffices_dynamic(dynamic, pretrained, "patent")


@claim(
    "C6b",
    statement="Half as many proxies as concepts are enough without labels, every point going to "
    "its nearest proxy (with our stabilisers).",
    source="FIG. 7, method 1000; restarts of dead proxies and batch norm are ours",
    rule=_HALF_SUFFICES_FROM_PRETRAINED,
    likely_cause="Half the proxies may be too few after such a start even with labels (06 shows "
    "that run, static); and the nearest proxy cannot tell classes apart that the start does not.",
)
def c6b(dynamic: pd.DataFrame, pretrained: pd.DataFrame) -> Finding:
    return _half_suffices_dynamic(dynamic, pretrained, "stabilised")


@claim(
    "C7",
    statement="With dynamic assignment more proxies than concepts help, until they over-fit.",
    source="FIG. 7",
    rule="Stabilised runs: reproduced if the ratio with the best mean R@1 is above 1 and the "
    "largest ratio's mean is below that; partly if only the first.",
    likely_cause="Differences between neighbouring ratios are of the size of the noise between "
    "seeds; and with few images per class more proxies soon split classes.",
)
def c7(dynamic: pd.DataFrame) -> Finding:
    wide = _seeds_by_ratio(dynamic, "stabilised")
    means = wide.mean().round(DIGITS)
    best, largest = means.idxmax(), means.index[-1]
    few, many = means[means.index <= 1].idxmax(), means[means.index > 1].idxmax()
    effect = interval(100 * (wide[many] - wide[few]))
    evidence = (
        f"Stabilised, R@1 is best at ratio {best:g} ({show_percent(means[best])}) and "
        f"{show_percent(means[largest])} at the largest, {largest:g}; the best ratio above 1, "
        f"{many:g}, against the best up to 1, {few:g}: {effect.show()}"
    )
    if (dynamic["rule"] == "patent").any():
        patent = _seeds_by_ratio(dynamic, "patent").mean()
        top = show_percent(patent.max())
        evidence += f"; by the patent's rule it is best at {patent.idxmax():g} ({top})"
    gains, overfits = best > 1, means[largest] < means[best]
    return Finding(evidence + ".", verdict_of(gains and overfits, gains), effect)


def _half_suffices_dynamic(dynamic: pd.DataFrame, pretrained: pd.DataFrame, rule: str) -> Finding:
    swept = _rows_of_rule(dynamic, rule)
    require(pretrained, "pretrained", "method", "seed", "recall_at_1")
    return _half_suffices(swept, pretrained)


def _half_suffices(swept: pd.DataFrame, reference: pd.DataFrame) -> Finding:
    """Compare ratios 0.5 and 0.75 of a sweep with the reference's best baseline; one row a run."""
    means = by_seed(reference, BASELINES).mean()
    name = means.idxmax()
    # As methods of one table, because `gap_between` pairs by seed within a table.
    swept = swept.assign(method="ratio " + swept["ratio"].map("{:g}".format))
    rows = pd.concat([reference, swept], ignore_index=True)
    half, more = (gap_between(rows, f"ratio {ratio}", name) for ratio in (0.5, 0.75))
    evidence = (
        f"R@1 minus that of the best baseline, {METHODS[name].label} "
        f"({show_percent(means[name])}): {half.show()} at ratio 0.5, {more.show()} at 0.75."
    )
    return Finding(evidence, verdict_of(half.mean >= 0, more.mean >= 0), half)


def _rows_of_rule(dynamic: pd.DataFrame, rule: str) -> pd.DataFrame:
    require(dynamic, "dynamic", "rule", "ratio", "seed", "recall_at_1")
    if (part := dynamic[dynamic["rule"] == rule]).empty:
        there = ", ".join(map(str, dynamic["rule"].unique()))
        raise ValueError(f"dynamic: no runs with rule {rule}; there are {there}")
    return part


def _seeds_by_ratio(dynamic: pd.DataFrame, rule: str) -> pd.DataFrame:
    """R@1 of the runs by this rule: one row per seed, one column per ratio, in order."""
    part = _rows_of_rule(dynamic, rule)
    ratios = sorted(part["ratio"].unique())
    if not ratios[0] <= 1 < ratios[-1]:
        raise ValueError(f"dynamic, {rule}: expected ratios up to 1 and above, got {ratios}")
    return by_seed(part, ratios, key="ratio")

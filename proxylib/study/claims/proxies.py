"""C5 to C7: how many proxies it takes, on fixed labels or going to the nearest proxy."""

import pandas as pd

from proxylib.study.claims.claim import Finding, Variant, no_runs, twice, verdict_of
from proxylib.study.claims.evidence import final_values
from proxylib.study.claims.quality import pretrained_runs
from proxylib.study.claims.statistics import by_seed, interval, require
from proxylib.study.methods import BASELINES, METHODS

_HALF_SUFFICES = (
    "Reproduced if the interval of R@1 at ratio 0.5 minus the best baseline's mean is not below 0 "
    "anywhere; partly if that mean is above 0, or if the interval at ratio 0.75 is not below 0."
)
_SAME_START = (
    " Every baseline from exactly the same pre-trained start, batch norm of the embedding included."
)


@twice(
    "C5",
    statement="One proxy for two labels is enough to beat the earlier methods, labels put on "
    "proxies at random.",
    source="FIG. 6",
    rule=_HALF_SUFFICES,
    likely_cause="Two unrelated classes on one proxy are pulled together. With few, small training "
    "classes that costs more than on Cars196 with a network pre-trained on ImageNet.",
)
def c5(own: Variant, static: pd.DataFrame, benchmark: pd.DataFrame) -> Finding:
    require(static, "static", "norms", "ratio", "seed", "recall_at_1")
    swept = static[static["norms"] == own.norms]
    return _half_suffices(own, swept, final_values(benchmark))


@twice(
    "C6",
    statement="Half as many proxies as concepts are enough without labels, every point going to "
    "its nearest proxy (by the patent's rule).",
    source="FIG. 7, method 1000",
    rule=_HALF_SUFFICES + _SAME_START,
    likely_cause="The nearest proxy is mostly chosen by what the network knew before training. Our "
    "start knows other things, and proxies without points stay without them.",
)
def c6(own: Variant, dynamic: pd.DataFrame, pretrained: pd.DataFrame) -> Finding:
    return _half_suffices(own, _swept(own, dynamic, "patent"), pretrained_runs(pretrained, "off"))


@twice(
    "C6s",
    statement="Half as many proxies as concepts are enough without labels, every point going to "
    "its nearest proxy (with our stabilisers).",
    source="FIG. 7, method 1000; restarts of dead proxies and batch norm are ours",
    rule=_HALF_SUFFICES + _SAME_START,
    likely_cause="Half the proxies may be too few after such a start even with labels (06 shows "
    "that run, static); and the nearest proxy cannot tell classes apart that the start does not.",
)
def c6s(own: Variant, dynamic: pd.DataFrame, pretrained: pd.DataFrame) -> Finding:
    swept = _swept(own, dynamic, "stabilised")
    return _half_suffices(own, swept, pretrained_runs(pretrained, "on"))


@twice(
    "C7",
    statement="With dynamic assignment more proxies than concepts help, until they over-fit.",
    source="FIG. 7",
    rule="Stabilised runs; the best ratio above 1 is that with the highest mean R@1. Reproduced if "
    "the interval of its R@1 minus that at ratio 1 is above 0, and so is that of its R@1 minus "
    "that at the largest ratio; partly if only the first.",
    likely_cause="Differences between neighbouring ratios are of the size of the noise between "
    "seeds; and with few images per class more proxies soon split classes.",
)
def c7(own: Variant, dynamic: pd.DataFrame) -> Finding:
    if (swept := _swept(own, dynamic, "stabilised")).empty:
        return no_runs(f"stabilised ones with {own.norms} norms")
    ratios = sorted(swept["ratio"].unique())
    if 1 not in ratios or ratios[-1] <= 1:
        raise ValueError(f"dynamic, stabilised: expected ratios 1 and above, got {ratios}")
    wide = 100 * by_seed(swept, ratios, key="ratio")
    best, largest = wide[[r for r in ratios if r > 1]].mean().idxmax(), ratios[-1]
    gain, loss = interval(wide[best] - wide[1]), interval(wide[best] - wide[largest])
    means = ", ".join(f"{ratio:g}: {mean:.1f}" for ratio, mean in wide.mean().items())
    evidence = (
        f"Stabilised, mean R@1 in % by ratio is {means}. The best ratio above 1, {best:g}, minus "
        f"ratio 1: {gain.show()}; minus the largest, {largest:g}: {loss.show()}."
    )
    gains, overfits = gain.low > 0, loss.low > 0
    return Finding(evidence, verdict_of(gains and overfits, gains, known=not gain.is_unknown), gain)


def _half_suffices(own: Variant, swept: pd.DataFrame, reference: pd.DataFrame) -> Finding:
    """Compare ratios 0.5 and 0.75 of a sweep with the reference's best baseline; one row a run."""
    if swept.empty:
        return no_runs(f"a sweep with {own.norms} norms")
    means = 100 * by_seed(reference, BASELINES).mean()
    name = means.idxmax()
    wide = 100 * by_seed(swept, (0.5, 0.75), key="ratio")
    half, more = (interval(wide[ratio] - means[name]) for ratio in (0.5, 0.75))
    evidence = (
        f"R@1 minus the mean of the best baseline, {METHODS[name].label} ({means[name]:.1f} %): "
        f"{half.show()} at ratio 0.5, {more.show()} at 0.75."
    )
    partly = half.mean > 0 or more.low >= 0
    return Finding(evidence, verdict_of(half.low >= 0, partly, known=not half.is_unknown), half)


def _swept(own: Variant, dynamic: pd.DataFrame, rule: str) -> pd.DataFrame:
    """The rows of the sweep by this rule and with these norms; none if there are no such norms."""
    require(dynamic, "dynamic", "norms", "rule", "ratio", "seed", "recall_at_1")
    if (part := dynamic[dynamic["rule"] == rule]).empty:
        there = ", ".join(map(str, dynamic["rule"].unique()))
        raise ValueError(f"dynamic: no runs with rule {rule}; there are {there}")
    return part[part["norms"] == own.norms]

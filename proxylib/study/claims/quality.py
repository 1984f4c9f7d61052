"""C2 to C4: whether the methods with proxies end better than the baselines."""

import pandas as pd

from proxylib.study.claims.claim import Finding, Variant, twice, verdict_of
from proxylib.study.claims.evidence import final_values, gap_between, show_percent
from proxylib.study.claims.statistics import by_seed, require
from proxylib.study.methods import BASELINES, METHODS

_ABOVE_EACH_BASELINE = (
    "Reproduced if the interval of the paired difference in final {} is above 0 for each "
    "baseline; partly if each mean is above 0."
)
_TUNED = (
    "The baselines are tuned with as many runs as Proxy-NCA and use their best batches; the "
    "published gap may in part be a gap in tuning."
)


@twice(
    "C2",
    statement="Proxy-NCA retrieves better than every baseline: its R@1 is higher.",
    source="Tables 1 and 2, FIG. 4 (four baselines; NCA and contrastive are our additions)",
    rule=_ABOVE_EACH_BASELINE.format("R@1"),
    likely_cause=_TUNED,
)
def c2(own: Variant, benchmark: pd.DataFrame) -> Finding:
    return _beats_baselines(own, final_values(benchmark), "recall_at_1", "R@1")


@twice(
    "C2p",
    statement="The same from a pre-trained network, as the patent trained: its R@1 is higher.",
    source="Tables 1 and 2, FIG. 4; section 5 on the set-up",
    rule=_ABOVE_EACH_BASELINE.format("R@1") + " Every method from the same pre-trained start.",
    likely_cause=_TUNED + " And a network that is good already leaves less to gain.",
)
def c2p(own: Variant, pretrained: pd.DataFrame) -> Finding:
    tuned = pretrained_runs(pretrained, "as tuned")
    return _beats_baselines(own, tuned, "recall_at_1", "R@1")


@twice(
    "C3",
    statement="Its clusters agree better with the classes, too: its NMI is higher.",
    source="Tables 1 and 2, section 5 on Stanford Products",
    rule=_ABOVE_EACH_BASELINE.format("NMI"),
    likely_cause="NMI depends on one k-means clustering of the test half, whose own noise may hide "
    "small differences between methods.",
)
def c3(own: Variant, benchmark: pd.DataFrame) -> Finding:
    return _beats_baselines(own, final_values(benchmark, "nmi"), "nmi", "NMI")


@twice(
    "C4",
    statement="The hinge loss over proxies beats the tuple baselines and is beaten by Proxy-NCA.",
    source="Table 1, where Struct Clust is an exception: it is above Proxy-Triplet",
    rule="Reproduced if Proxy-Triplet's mean R@1 is above each baseline's and below Proxy-NCA's; "
    "partly if one pair is in the wrong order and its interval includes 0.",
    likely_cause="The hinge loss has no gradient once its margin is met, so it depends on margin "
    "and scale more than NCA does; and the baselines are tuned.",
)
def c4(own: Variant, benchmark: pd.DataFrame) -> Finding:
    final = final_values(benchmark)
    pairs = [("proxy_triplet", name) for name in BASELINES] + [(own.method, "proxy_triplet")]
    margins = {pair: gap_between(final, *pair) for pair in pairs}
    wrong = [pair for pair, margin in margins.items() if margin.mean <= 0]
    worst = min(margins.values(), key=lambda margin: margin.mean)
    means = 100 * by_seed(final, (own.method, "proxy_triplet", *BASELINES)).mean()
    order = means.sort_values(ascending=False)
    ranking = ", ".join(f"{METHODS[name].label} {mean:.1f}" for name, mean in order.items())
    swapped = "; ".join(
        f"{METHODS[a].label} is not above {METHODS[b].label}: {margins[a, b].show()}"
        for a, b in wrong
    )
    evidence = (
        f"Mean R@1 in %: {ranking}; {swapped or 'every pair is in order'} "
        "(in the patent's own Table 1 Struct Clust is above Proxy-Triplet)."
    )
    partly = len(wrong) == 1 and worst.low <= 0 <= worst.high
    return Finding(evidence, verdict_of(not wrong, partly, known=not worst.is_unknown), worst)


def pretrained_runs(pretrained: pd.DataFrame, batch_norm: str) -> pd.DataFrame:
    """The checked rows of the table `pretrained` with this batch norm of the embedding."""
    require(pretrained, "pretrained", "method", "batch_norm", "seed", "recall_at_1")
    if (part := pretrained[pretrained["batch_norm"] == batch_norm]).empty:
        there = ", ".join(map(str, pretrained["batch_norm"].unique()))
        raise ValueError(f"pretrained: no runs with batch_norm {batch_norm}; there are {there}")
    return part


def _beats_baselines(own: Variant, final: pd.DataFrame, column: str, label: str) -> Finding:
    gaps = {name: gap_between(final, own.method, name, column) for name in BASELINES}
    least = min(gaps.values(), key=lambda gap: gap.mean)
    above = all(gap.low > 0 for gap in gaps.values())
    mean = final.loc[final["method"] == own.method, column].mean()
    each = "; ".join(f"{METHODS[name].label} {gap.show()}" for name, gap in gaps.items())
    evidence = f"Proxy-NCA's {label} is {show_percent(mean)}, minus that of each baseline: {each}."
    verdict = verdict_of(above, least.mean > 0, known=not least.is_unknown)
    return Finding(evidence, verdict, least)

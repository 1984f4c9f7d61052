"""C1 and C1b: how much sooner Proxy-NCA gets as far as the best baseline."""

import numpy as np
import pandas as pd

from proxylib.study.claims.claim import NOT_REPRODUCED, NOT_TESTED, Finding, claim, verdict_of
from proxylib.study.claims.evidence import check_benchmark, show_percent
from proxylib.study.claims.statistics import by_seed, interval, times_to
from proxylib.study.methods import BASELINES, METHODS

_IN_EACH_SEED = (
    " The ratio is taken in each seed, then averaged. If Proxy-NCA never gets there in one seed or "
    "more, the claim is not reproduced, and such a seed counts with the ratio to Proxy-NCA's whole "
    "budget, at most 1. Otherwise one seed alone, or a run that gets there before training, leaves "
    "it not tested."
)


@claim(
    "C1",
    statement="Proxy-NCA converges about three times as fast as the methods that train on tuples.",
    source="FIG. 1 (by its caption over training steps, by its axis over epochs)",
    rule="Reproduced if the samples that the best baseline needs to its best R@1 are at least 2.5 "
    "times those that Proxy-NCA needs to the same R@1, with the interval above 1; partly if "
    "only the interval is above 1. The best baseline has the highest mean of its best R@1."
    + _IN_EACH_SEED,
    likely_cause="Every baseline here has its own tuned settings and batches with several images "
    "of each class, so it meets useful tuples early; small images leave less to gain than Cars196.",
)
def c1(benchmark: pd.DataFrame) -> Finding:
    return _speed(benchmark, 1.0)


@claim(
    "C1b",
    statement="Our variation on C1: both times are to 95 % of the best baseline's best R@1, "
    "because when a curve on its plateau has its maximum is mostly chance.",
    source="not in the patent; a robust reading of FIG. 1",
    rule="Reproduced if the ratio of samples is at least 2.5 and its interval is above 1; partly "
    "if only the interval is above 1." + _IN_EACH_SEED,
    likely_cause="As C1; and without the long plateau of the baseline there is less time to save.",
)
def c1b(benchmark: pd.DataFrame) -> Finding:
    return _speed(benchmark, 0.95)


def speed_target(benchmark: pd.DataFrame, share: float = 1.0) -> tuple[str, pd.Series]:
    """The R@1 that C1 and C1b measure the time to: a share of the best baseline's best.

    The best baseline has the highest mean over the seeds of its best R@1. Its table: see `judge`.

    Returns:
        Name of the best baseline; seed → R@1 to reach.
    """
    check_benchmark(benchmark)
    best = benchmark.groupby(["method", "seed"], as_index=False)["recall_at_1"].max()
    wide = by_seed(best, ("proxy_nca", *BASELINES))
    name = wide[list(BASELINES)].mean().idxmax()
    return name, share * wide[name]


def _speed(benchmark: pd.DataFrame, share: float) -> Finding:
    """Compare the times to this share of the best baseline's best R@1 in the same seed."""
    name, targets = speed_target(benchmark, share)
    runs = benchmark[benchmark["method"].isin(["proxy_nca", name])]
    times = times_to(runs, targets).set_index(["method", "seed"]).drop(columns="target")
    own, theirs = (times.loc[method].loc[targets.index] for method in ("proxy_nca", name))
    missed = np.isinf(own["samples"])
    only = f"; Proxy-NCA got there in {(~missed).sum()} of {len(missed)} seeds only"
    if (own["samples"] == 0).any() or (theirs["samples"] == 0).any():
        text = "A seed meets the target before training, so there is no time to compare"
        if missed.any():
            return Finding(text + only + ".", NOT_REPRODUCED, unit="times")
        return Finding(text + ".", NOT_TESTED, unit="times")
    budget = runs[runs["method"] == "proxy_nca"].groupby("seed")[list(own)].max()
    own = own.mask(np.isinf(own), budget)
    ratio = theirs / own
    # The budgets may differ by a batch, and the baseline's time may be the longer one.
    ratio[missed] = ratio[missed].clip(upper=1)
    effect = interval(ratio["samples"])
    evidence = (
        f"To {share:.0%} of its best R@1 ({show_percent(targets.mean())}), the best "
        f"baseline, {METHODS[name].label}, needed {theirs['samples'].mean():,.0f} samples, "
        f"Proxy-NCA {own['samples'].mean():,.0f}; ratio {effect.show('', sign='')} in samples, "
        f"{ratio['step'].mean():.2f} in steps, {ratio['seconds'].mean():.2f} in seconds"
    )
    if missed.any():
        evidence += f"{only} (the others count with its whole budget, at a ratio of at most 1)"
        return Finding(evidence + ".", NOT_REPRODUCED, effect, "times")
    fast = effect.low > 1
    verdict = NOT_TESTED if effect.is_unknown else verdict_of(fast and effect.mean >= 2.5, fast)
    return Finding(evidence + ".", verdict, effect, "times")

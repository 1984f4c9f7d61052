"""C1: how much sooner Proxy-NCA gets as far as the best baseline."""

import numpy as np
import pandas as pd

from proxylib.study.claims.claim import (
    NOT_REPRODUCED,
    NOT_TESTED,
    Finding,
    Variant,
    twice,
    verdict_of,
)
from proxylib.study.claims.evidence import check_benchmark, show_percent
from proxylib.study.claims.statistics import by_seed, interval, times_to
from proxylib.study.methods import BASELINES, METHODS

SHARE = 0.95  # of the best R@1: when a curve on its plateau has its maximum is mostly chance
COUNTED = ("samples", "step", "seconds")


@twice(
    "C1",
    statement="Proxy-NCA converges about three times as fast as the methods that train on tuples.",
    source="FIG. 1 (by its caption over training steps, by its axis over epochs)",
    rule="The ratio of two numbers of samples in each seed: those that the best baseline needs to "
    "95 % of its best R@1, over those that Proxy-NCA needs to the same R@1. Reproduced if the "
    "interval of the ratio is above 2, partly if it is above 1. The best baseline has the highest "
    "mean of its best R@1. A seed in which Proxy-NCA never gets there counts with its whole budget "
    "and a ratio of at most 1, and the claim is then not reproduced.",
    likely_cause="Every baseline here has its own tuned settings and batches with several images "
    "of each class, so it meets useful tuples early; small images leave less to gain than Cars196.",
)
def c1(own: Variant, benchmark: pd.DataFrame) -> Finding:
    name, targets = speed_target(benchmark)
    theirs, ours, missed = _times(benchmark, own.method, name)
    got = f"got there in {(~missed).sum()} of {len(missed)} seeds only"
    if (ours["samples"] == 0).any() or (theirs["samples"] == 0).any():
        text = "A seed meets the target before training, so there is no time to compare"
        if missed.any():
            return Finding(f"{text}; Proxy-NCA {got}.", NOT_REPRODUCED, unit="times")
        return Finding(text + ".", NOT_TESTED, unit="times")
    ratio = _ratio(theirs, ours, missed)
    effect = interval(ratio["samples"])
    seconds = f"{ratio['seconds'].mean():.2f}" if "seconds" in ratio else "not measured"
    evidence = (
        f"To {SHARE:.0%} of its best R@1 ({show_percent(targets.mean())}), the best "
        f"baseline, {METHODS[name].label}, needed {theirs['samples'].mean():,.0f} samples, "
        f"Proxy-NCA {ours['samples'].mean():,.0f}; ratio {effect.show('', sign='')} in samples, "
        f"{ratio['step'].mean():.2f} in steps, {seconds} in seconds"
    )
    if missed.any():
        evidence += f"; Proxy-NCA {got} (the others count with its whole budget)"
    others = [_own_level(benchmark, own.method, rival) for rival in BASELINES if rival != name]
    evidence += f". To each other baseline's own level, in samples: {', '.join(others)}."
    fast = effect.low > 1 and not missed.any()
    verdict = verdict_of(fast and effect.low > 2, fast, known=missed.any() or not effect.is_unknown)
    return Finding(evidence, verdict, effect, "times")


def speed_target(benchmark: pd.DataFrame) -> tuple[str, pd.Series]:
    """The R@1 that C1 measures the time to: 95 % of the best baseline's best.

    The best baseline has the highest mean over the seeds of its best R@1. Its table: see `judge`.

    Returns:
        Name of the best baseline; seed → R@1 to reach.
    """
    check_benchmark(benchmark)
    best = _best(benchmark, BASELINES)
    name = best.mean().idxmax()
    return name, SHARE * best[name]


def _best(benchmark: pd.DataFrame, names: tuple[str, ...]) -> pd.DataFrame:
    best = benchmark.groupby(["method", "seed"], as_index=False)["recall_at_1"].max()
    return by_seed(best, names)


def _times(
    benchmark: pd.DataFrame, own: str, rival: str
) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series]:
    """Times of the rival and of Proxy-NCA to the rival's level; where the latter never came.

    One row per seed, a column for each way to count; a time never reached is the whole budget.
    """
    best = _best(benchmark, (own, rival))
    runs = benchmark[benchmark["method"].isin([own, rival])]
    counted = [column for column in COUNTED if column in runs and runs[column].notna().all()]
    times = times_to(runs, SHARE * best[rival], counted).set_index(["method", "seed"])
    theirs, ours = (times.loc[name, counted].loc[best.index] for name in (rival, own))
    missed = np.isinf(ours["samples"])
    budget = runs[runs["method"] == own].groupby("seed")[counted].max()
    return theirs, ours.mask(np.isinf(ours), budget), missed


def _ratio(theirs: pd.DataFrame, ours: pd.DataFrame, missed: pd.Series) -> pd.DataFrame:
    ratio = theirs / ours
    # The budgets may differ by a batch, and the baseline's time may be the longer one.
    ratio[missed] = ratio[missed].clip(upper=1)
    return ratio


def _own_level(benchmark: pd.DataFrame, own: str, rival: str) -> str:
    theirs, ours, missed = _times(benchmark, own, rival)
    if missed.any():
        return f"{METHODS[rival].label} not reached in {missed.sum()} of {len(missed)} seeds"
    if (ours["samples"] == 0).any():
        return f"{METHODS[rival].label} met before training"
    return f"{METHODS[rival].label} {(theirs / ours)['samples'].mean():.2f}"

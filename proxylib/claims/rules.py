"""The rules: from tables of results (see `judge`) to one claim each, fixed before the runs.

Differences of Recall@1 and NMI are in percentage points.
"""

import math

import pandas as pd

from proxylib.claims.claim import (
    NONE,
    NOT_TESTED,
    Claim,
    build_claim,
)
from proxylib.claims.evidence import (
    BASELINES,
    check_benchmark,
    check_bounds,
    final_values,
    gap_between,
    is_unknown,
    label_of,
    means_by_ratio,
    pretrained_values,
    rows_of_rule,
    show_counts,
    show_effect,
    show_percent,
    verdict_of,
)
from proxylib.statistics import (
    Interval,
    by_seed,
    interval,
    require,
    time_to,
)

_POINTS = "percentage points"


def c1(benchmark: pd.DataFrame) -> Claim:
    """Samples to the best baseline's best R@1, as a multiple of Proxy-NCA's (FIG. 1)."""
    return _speed("C1", benchmark, 1.0)


def c1b(benchmark: pd.DataFrame) -> Claim:
    """As C1 to 95 % of that R@1. Ours: when a plateau has its maximum is mostly chance."""
    return _speed("C1b", benchmark, 0.95)


def c2(benchmark: pd.DataFrame) -> Claim:
    """Final R@1 of Proxy-NCA against each baseline (Tables 1 and 2, FIG. 4)."""
    return _beats("C2", benchmark, "recall_at_1")


def c3(benchmark: pd.DataFrame) -> Claim:
    """Final NMI of Proxy-NCA against each baseline (Tables 1 and 2)."""
    return _beats("C3", benchmark, "nmi")


def c4(benchmark: pd.DataFrame) -> Claim:
    """Proxy-Triplet between the baselines and Proxy-NCA (Table 1)."""
    final = final_values(benchmark)
    pairs = [("proxy_triplet", name) for name in BASELINES] + [("proxy_nca", "proxy_triplet")]
    margins = {pair: gap_between(final, *pair) for pair in pairs}
    wrong = [pair for pair, margin in margins.items() if margin.mean <= 0]
    worst = min(margins.values(), key=lambda margin: margin.mean)
    means = 100 * by_seed(final, ("proxy_nca", "proxy_triplet", *BASELINES)).mean()
    order = means.sort_values(ascending=False)
    ranking = ", ".join(f"{label_of(name)} {mean:.1f}" for name, mean in order.items())
    swapped = "; ".join(
        f"{label_of(a)} is not above {label_of(b)}: {show_effect(margins[a, b])}" for a, b in wrong
    )
    evidence = (
        f"Mean R@1 in %: {ranking}; {swapped or 'every pair is in order'} "
        "(in the patent's own Table 1 Struct Clust is above Proxy-Triplet)."
    )
    if len(wrong) == 1 and is_unknown(worst):
        verdict = NOT_TESTED
    else:
        verdict = verdict_of(not wrong, len(wrong) == 1 and worst.low <= 0 <= worst.high)
    return build_claim("C4", evidence, verdict, worst, _POINTS)


def c5(static: pd.DataFrame, benchmark: pd.DataFrame) -> Claim:
    """Half as many proxies as labels, each label on a fixed proxy (FIG. 6)."""
    require(static, "static", "ratio", "seed", "recall_at_1")
    return _suffices("C5", static, final_values(benchmark))


def c6a(dynamic: pd.DataFrame, pretrained: pd.DataFrame) -> Claim:
    """Half as many proxies as labels, nearest proxy by the patent's rule (FIG. 7)."""
    return _suffices("C6a", rows_of_rule(dynamic, "patent"), pretrained_values(pretrained))


def c6b(dynamic: pd.DataFrame, pretrained: pd.DataFrame) -> Claim:
    """Half as many proxies as labels, nearest proxy with stabilisers (FIG. 7)."""
    return _suffices("C6b", rows_of_rule(dynamic, "stabilised"), pretrained_values(pretrained))


def c7(dynamic: pd.DataFrame) -> Claim:
    """More proxies than labels help, too many over-fit: dynamic, stabilised (FIG. 7)."""
    wide, best, largest = means_by_ratio(dynamic, "stabilised")
    means = wide.mean()
    few, many = (means[means.index <= 1], means[means.index > 1])
    effect = interval(100 * (wide[many.idxmax()] - wide[few.idxmax()]))
    gains = best > 1
    evidence = (
        f"Stabilised, R@1 is best at ratio {best:g} ({show_percent(means[best])}) and "
        f"{show_percent(means[largest])} at the largest, {largest:g}; the best ratio above 1, "
        f"{many.idxmax():g}, against the best up to 1, {few.idxmax():g}: {show_effect(effect)}"
    )
    if (dynamic["rule"] == "patent").any():
        patent, best_patent, _ = means_by_ratio(dynamic, "patent")
        top = patent[best_patent].mean()
        evidence += f"; by the patent's rule it is best at {best_patent:g} ({show_percent(top)})"
    overfits = means[largest] < means[best]
    return build_claim("C7", evidence + ".", verdict_of(gains and overfits, gains), effect, _POINTS)


def c8(bounds: pd.DataFrame) -> Claim:
    """Violations of the corrected bounds, and of the printed ones (propositions, section 2.3)."""
    corrected, published = (
        [f"{name}_violations_{constant}" for name in ("ranking", "nca", "triplet")]
        for constant in ("corrected", "published")
    )
    check_bounds(bounds, "triplets", *corrected, *published)
    count = bounds[corrected + published].sum()
    broken = float(count[corrected].sum())
    evidence = (
        f"Among {bounds['triplets'].sum():,.0f} triplets, seen in {len(bounds):,} evaluations, "
        f"violations of the corrected constants: {show_counts(count[corrected])}; "
        f"of the published ones: {show_counts(count[published])} "
        "(NCA: pairs of anchor and positive)."
    )
    return build_claim(
        "C8", evidence, verdict_of(broken == 0), Interval(broken, math.nan, math.nan), "violations"
    )


def c9(bounds: pd.DataFrame) -> Claim:
    """Slack of the corrected bounds before and after training, every run (section 1)."""
    slack = ["nca_slack_corrected", "triplet_slack_corrected"]
    check_bounds(bounds, *slack)
    runs = bounds.sort_values("step").groupby(["norms", "seed"])
    if (runs["step"].nunique() < 2).any():
        raise ValueError("bounds: expected at least two evaluations of every run")
    start, end = runs[slack].first(), runs[slack].last()
    tighter = (end < start).all(axis=1)
    effect = interval(100 * (1 - end / start).mean(axis=1).groupby(level="seed").mean())
    means = ", ".join(
        f"{label} {start[key].mean():.2f} → {end[key].mean():.2f}"
        for label, key in zip(("NCA", "triplet"), slack, strict=True)
    )
    evidence = (
        f"Both bounds are tighter at the end in {tighter.sum()} of {len(tighter)} runs; "
        f"mean slack: {means}; it falls by {show_effect(effect, '%', sign='')}."
    )
    return build_claim(
        "C9", evidence, verdict_of(tighter.all()), effect, "% of the slack at the start"
    )


def c10(batch: pd.DataFrame) -> Claim:
    """R@1 at batch 128 and at batch 32."""
    require(batch, "batch", "batch_size", "seed", "recall_at_1")
    effect = gap_between(batch, 128, 32, key="batch_size")
    within = abs(effect.mean) <= 2
    evidence = f"R@1 at batch 128 minus that at batch 32: {show_effect(effect)}"
    if effect.mean > 2:
        evidence += "; the larger batch is better, which by the letter isn't within 2 points either"
    return build_claim("C10", evidence + ".", verdict_of(within), effect, _POINTS)


def c11(norms: pd.DataFrame) -> Claim:
    """R@1 with embeddings and proxies of equal norms, and with free ones."""
    require(norms, "norms", "norms", "seed", "recall_at_1")
    effect = gap_between(norms, "fixed", "free", key="norms")
    evidence = f"R@1 with fixed norms minus that with free ones: {show_effect(effect)}."
    holds = effect.mean >= 0 and effect.low >= -1
    verdict = NOT_TESTED if is_unknown(effect) else verdict_of(holds)
    return build_claim("C11", evidence, verdict, effect, _POINTS)


def c12(rotation: pd.DataFrame) -> Claim:
    """R@1 of turned queries over that of upright ones, Proxy-NCA (FIG. 5)."""
    require(rotation, "rotation", "method", "seed", "angle", "recall_at_1")
    kept = {}
    for method in ("proxy_nca", *(name for name in BASELINES if name in set(rotation["method"]))):
        part = rotation[rotation["method"] == method]
        wide = by_seed(part, (0, 15, 30), key="angle")
        kept[method] = {angle: interval(wide[angle] / wide[0]) for angle in (15, 30)}
    own = kept.pop("proxy_nca")
    evidence = (
        f"Proxy-NCA keeps {show_percent(own[15].mean)} of its upright R@1 at 15° and "
        f"{show_percent(own[30].mean)} at 30°"
    )
    if kept:
        others = [f"{label_of(name)} {show_percent(at[30].mean)}" for name, at in kept.items()]
        evidence += f" ({', '.join(others)} at 30°)"
    verdict = verdict_of(own[30].mean >= 0.9, own[15].mean >= 0.9)
    return build_claim("C12", evidence + ".", verdict, own[30], "of upright R@1")


def speed_target(benchmark: pd.DataFrame, share: float = 1.0) -> tuple[str, pd.Series]:
    """The best baseline, and by seed this share of its best R@1: what C1 and C1b run to.

    The best baseline has the highest mean over the seeds of its best R@1.

    Args:
        benchmark: as in `judge`.
    """
    check_benchmark(benchmark)
    best = benchmark.groupby(["method", "seed"], as_index=False)["recall_at_1"].max()
    wide = by_seed(best, ("proxy_nca", *BASELINES))
    name = wide[list(BASELINES)].mean().idxmax()
    return name, share * wide[name]


def _speed(id: str, benchmark: pd.DataFrame, share: float) -> Claim:
    """C1 and C1b: the target is this share of the best baseline's best R@1 in that seed."""
    name, targets = speed_target(benchmark, share)
    runs = dict(list(benchmark.groupby(["method", "seed"])))
    columns = ("samples", "step", "seconds")
    rows, missed = [], 0
    for seed, target in targets.items():
        own, theirs = runs["proxy_nca", seed], runs[name, seed]
        missed += own["recall_at_1"].max() < target
        for column in columns:
            # Never reached counts as the whole budget: the ratio is then at most 1.
            time = min(time_to(own, target, column), own[column].max())
            rows.append((column, seed, time, time_to(theirs, target, column)))
    times = pd.DataFrame(rows, columns=["column", "seed", "own", "theirs"]).set_index("column")
    if (times.loc[["samples"], ["own", "theirs"]] == 0).any(axis=None):
        text = "A seed meets the target before training, so there is no time to compare."
        return build_claim(id, text, NOT_TESTED, NONE, "times")
    ratio = times["theirs"] / times["own"]
    effect = interval(ratio[["samples"]])
    mean = times.loc[["samples"], ["own", "theirs"]].mean()
    evidence = (
        f"To {share:.0%} of its best R@1 ({show_percent(targets.mean())}), the best "
        f"baseline, {label_of(name)}, needed {mean['theirs']:,.0f} samples, Proxy-NCA "
        f"{mean['own']:,.0f}; ratio {show_effect(effect, '', sign='')} in samples, "
        f"{ratio[['step']].mean():.2f} in steps, {ratio[['seconds']].mean():.2f} in seconds"
    )
    if missed:
        evidence += (
            f"; {missed} of {len(targets)} seeds never got there (counted as the whole budget)"
        )
    fast = effect.low > 1
    verdict = NOT_TESTED if is_unknown(effect) else verdict_of(fast and effect.mean >= 2.5, fast)
    return build_claim(id, evidence + ".", verdict, effect, "times")


def _beats(id: str, benchmark: pd.DataFrame, column: str) -> Claim:
    """C2 and C3."""
    final = final_values(benchmark, column)
    gaps = {name: gap_between(final, "proxy_nca", name, column) for name in BASELINES}
    least = min(gaps.values(), key=lambda gap: gap.mean)
    above = all(gap.low > 0 for gap in gaps.values())
    own = final.loc[final["method"] == "proxy_nca", column].mean()
    each = "; ".join(f"{label_of(name)} {show_effect(gap)}" for name, gap in gaps.items())
    name = {"recall_at_1": "R@1", "nmi": "NMI"}[column]
    evidence = f"Proxy-NCA's {name} is {show_percent(own)}, minus that of each baseline: {each}."
    verdict = NOT_TESTED if is_unknown(least) else verdict_of(above, least.mean > 0)
    return build_claim(id, evidence, verdict, least, _POINTS)


def _suffices(id: str, swept: pd.DataFrame, reference: pd.DataFrame) -> Claim:
    """C5 and C6: ratios 0.5 and 0.75 against the best baseline among the reference's final rows."""
    means = by_seed(reference, BASELINES).mean()
    name = means.idxmax()
    swept = swept.assign(method="ratio " + swept["ratio"].map("{:g}".format))
    rows = pd.concat([reference, swept], ignore_index=True)
    half, more = (gap_between(rows, f"ratio {ratio}", name) for ratio in (0.5, 0.75))
    evidence = (
        f"R@1 minus that of the best baseline, {label_of(name)} ({show_percent(means[name])}): "
        f"{show_effect(half)} at ratio 0.5, {show_effect(more)} at 0.75."
    )
    return build_claim(id, evidence, verdict_of(half.mean >= 0, more.mean >= 0), half, _POINTS)

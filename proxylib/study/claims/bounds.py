"""C8 and C9: whether the loss over proxies bounds the loss over the data, and how tightly."""

import math

import pandas as pd

from proxylib.study.claims.claim import Finding, claim, verdict_of
from proxylib.study.claims.evidence import check_single
from proxylib.study.claims.statistics import Interval, interval, require


@claim(
    "C8",
    statement="The loss over proxies bounds the loss over the data from above.",
    source="Eq. 9–14, the propositions on the NCA and triplet losses, section 2.3 on ranking",
    rule="Reproduced if the corrected bounds have 0 violations over all triplets checked, whatever "
    "the norms, seed and step; violations of the published constants are counted beside.",
    likely_cause="A bound that is proved cannot be violated: look for an error in the code.",
)
def c8(bounds: pd.DataFrame) -> Finding:
    corrected, published = (
        [f"{name}_violations_{constant}" for name in ("ranking", "nca", "triplet")]
        for constant in ("corrected", "published")
    )
    _check(bounds, "triplets", *corrected, *published)
    count = bounds[corrected + published].sum()
    broken = float(count[corrected].sum())
    evidence = (
        f"Among {bounds['triplets'].sum():,.0f} triplets, seen in {len(bounds):,} evaluations, "
        f"violations of the corrected constants: {_show_counts(count[corrected])}; "
        f"of the published ones: {_show_counts(count[published])} "
        "(NCA: pairs of anchor and positive)."
    )
    effect = Interval(broken, math.nan, math.nan)
    return Finding(evidence, verdict_of(broken == 0), effect, "violations")


@claim(
    "C9",
    statement="The bound gets tighter while training converges.",
    source="section 1, second contribution",
    rule="The mean slack of the corrected bounds after training against that before, for the NCA "
    "and the triplet bound apart: reproduced if both are tighter in every run (norms, seed), "
    "partly if only one is.",
    likely_cause="The slack is mostly the term for ε, the error of the worst served point, and one "
    "point suffices to keep it large.",
)
def c9(bounds: pd.DataFrame) -> Finding:
    slack = ["nca_slack_corrected", "triplet_slack_corrected"]
    _check(bounds, *slack)
    runs = bounds.sort_values("step").groupby(["norms", "seed"])
    _check_steps(runs["step"].agg(tuple))
    start, end = runs[slack].first(), runs[slack].last()
    tighter = end < start
    effect = interval(100 * (1 - end / start).mean(axis=1).groupby(level="seed").mean())
    each = "; ".join(
        f"{label}: tighter at the end in {tighter[key].sum()} of {len(tighter)} runs, mean slack "
        f"{start[key].mean():.2f} → {end[key].mean():.2f}"
        for label, key in zip(("NCA", "triplet"), slack, strict=True)
    )
    evidence = (
        f"{each}. Of the slack, {effect.show('%', sign='')} is gone and "
        f"{100 - effect.mean:.2f} % is left."
    )
    every = tighter.all()
    verdict = verdict_of(every.all(), every.any())
    return Finding(evidence, verdict, effect, "% less slack than at the start")


def _check(bounds: pd.DataFrame, *columns: str) -> None:
    require(bounds, "bounds", "norms", "seed", "step", *columns)
    if (there := set(bounds["norms"])) != {"fixed", "free"}:
        raise ValueError(f"bounds: expected norms fixed and free, got {sorted(there)}")
    check_single(bounds, "bounds", "norms")
    fixed, free = (sorted(set(bounds.loc[bounds["norms"] == n, "seed"])) for n in ("fixed", "free"))
    if fixed != free:
        raise ValueError(
            f"bounds: expected the same seeds for both norms, got {fixed} with fixed norms and "
            f"{free} with free ones"
        )


def _check_steps(steps: pd.Series) -> None:
    """Refuse runs that were not evaluated at the same steps, from step 0 on; one row per run."""
    if steps.nunique() > 1 or steps.iloc[0][0] != 0 or len(steps.iloc[0]) < 2:
        came = "; ".join(
            f"{', '.join(map(str, at))} (norms {norms}, seed {seed})"
            for (norms, seed), at in steps.drop_duplicates().items()
        )
        raise ValueError(
            "bounds: expected at least two evaluations of every run, all at the same steps, the "
            f"first at step 0; got steps {came}"
        )


def _show_counts(violations: pd.Series) -> str:
    return "ranking {:,.0f}, NCA {:,.0f}, triplet {:,.0f}".format(*violations)

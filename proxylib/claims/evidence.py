"""What the rules share: checks of their tables, differences, words for numbers."""

import math

import pandas as pd

from proxylib.claims.claim import (
    NOT_REPRODUCED,
    PARTLY,
    REPRODUCED,
)
from proxylib.methods import METHODS
from proxylib.statistics import (
    Interval,
    by_seed,
    finals,
    interval,
    paired_difference,
    require,
)

BASELINES = ("semihard", "lifted", "npairs", "struct_clust", "nca", "contrastive")


def check_benchmark(benchmark: pd.DataFrame) -> None:
    columns = ("method", "seed", "step", "samples", "seconds", "recall_at_1")
    require(benchmark, "benchmark", *columns)
    check_single(benchmark, "benchmark", "method")
    budget = benchmark.groupby(["method", "seed"])["samples"].max()
    trained = benchmark[benchmark["step"] > 0]
    batch = (trained["samples"] / trained["step"]).max()
    if budget.max() - budget.min() > max(0.01 * budget.max(), batch):  # whole batches differ
        (few, seed), (many, other) = budget.idxmin(), budget.idxmax()
        raise ValueError(
            f"benchmark: expected equal budgets, got {budget.min():,.0f} samples for {few}, seed "
            f"{seed}, and {budget.max():,.0f} for {many}, seed {other}"
        )


def check_single(table: pd.DataFrame, name: str, key: str) -> None:
    if (twice := table.duplicated([key, "seed", "step"])).any():
        row = table.loc[twice, [key, "seed", "step"]].iloc[0].to_dict()
        raise ValueError(f"{name}: expected one row per {key}, seed and step; several for {row}")


def final_values(benchmark: pd.DataFrame, column: str = "recall_at_1") -> pd.DataFrame:
    check_benchmark(benchmark)
    final = finals(benchmark)
    require(final, "benchmark, last evaluation of each run", column)
    return final


def pretrained_values(pretrained: pd.DataFrame) -> pd.DataFrame:
    require(pretrained, "pretrained", "method", "seed", "recall_at_1")
    return pretrained


def rows_of_rule(dynamic: pd.DataFrame, rule: str) -> pd.DataFrame:
    require(dynamic, "dynamic", "rule", "ratio", "seed", "recall_at_1")
    if (part := dynamic[dynamic["rule"] == rule]).empty:
        there = ", ".join(map(str, dynamic["rule"].unique()))
        raise ValueError(f"dynamic: no runs with rule {rule}; there are {there}")
    return part


def means_by_ratio(dynamic: pd.DataFrame, rule: str) -> tuple[pd.DataFrame, float, float]:
    """R@1, seeds × ratios in order; the ratio with the best mean; the largest ratio."""
    part = rows_of_rule(dynamic, rule)
    ratios = sorted(part["ratio"].unique())
    if not ratios[0] <= 1 < ratios[-1]:
        raise ValueError(f"dynamic, {rule}: expected ratios up to 1 and above, got {ratios}")
    wide = by_seed(part, ratios, key="ratio")
    return wide, wide.mean().idxmax(), ratios[-1]


def check_bounds(bounds: pd.DataFrame, *columns: str) -> None:
    require(bounds, "bounds", "norms", "seed", "step", *columns)
    if (there := set(bounds["norms"])) != {"fixed", "free"}:
        raise ValueError(f"bounds: expected norms fixed and free, got {sorted(there)}")
    check_single(bounds, "bounds", "norms")


def gap_between(
    table: pd.DataFrame, a, b, column: str = "recall_at_1", key: str = "method"
) -> Interval:
    """The paired difference in points."""
    return interval(100 * paired_difference(table, a, b, column, key))


def verdict_of(reproduced: bool, partly: bool = False) -> str:
    return REPRODUCED if reproduced else PARTLY if partly else NOT_REPRODUCED


def is_unknown(effect: Interval) -> bool:
    return math.isnan(effect.low)


def label_of(method: str) -> str:
    return METHODS[method].label


def show_percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def show_effect(effect: Interval, unit: str = "points", sign: str = "+") -> str:
    between = "one seed" if is_unknown(effect) else f"{effect.low:.2f} to {effect.high:.2f}"
    text = " ".join(filter(None, (f"{effect.mean:{sign}.2f}", unit, f"({between})")))
    return text.replace("-", "−")


def show_counts(violations: pd.Series) -> str:
    return "ranking {:,.0f}, NCA {:,.0f}, triplet {:,.0f}".format(*violations)

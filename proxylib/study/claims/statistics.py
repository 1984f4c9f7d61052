"""Statistics for the claims: values of the same seed are compared, then averaged over the seeds.

Tables have one row per run (its final metrics), or one per evaluation of a run (a history).
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import t

LEAST = 3  # seeds; of fewer there is no interval worth the name
DIGITS = 9  # so that a value equal to a threshold is not above or below it by rounding


class Interval(NamedTuple):
    """A mean over seeds and its 95 % interval; low and high are NaN with fewer than 3 seeds."""

    mean: float
    low: float
    high: float

    @property
    def is_unknown(self) -> bool:
        """Whether there is a mean only, because there are too few seeds."""
        return math.isnan(self.low)

    def show(self, unit: str = "points", sign: str = "+") -> str:
        """The mean with its unit, and the interval in brackets if there is one."""
        between = "" if self.is_unknown else f"({self.low:.2f} to {self.high:.2f})"
        text = " ".join(filter(None, (f"{self.mean:{sign}.2f}", unit, between)))
        return text.replace("-", "−")


def require(table: pd.DataFrame, name: str, *columns: str) -> None:
    """Refuse a table that is no DataFrame, has no rows, or lacks values in one of the columns.

    Raises:
        ValueError: so it is; the message says what is wrong.
    """
    if not isinstance(table, pd.DataFrame) or table.empty:
        came = "no rows" if isinstance(table, pd.DataFrame) else type(table).__name__
        raise ValueError(f"{name}: expected a DataFrame with rows, got {came}")
    if missing := [column for column in columns if column not in table]:
        raise ValueError(
            f"{name}: lacks {', '.join(missing)}; it has {', '.join(map(str, table.columns))}"
        )
    if empty := [column for column in columns if table[column].isna().any()]:
        raise ValueError(f"{name}: NaN in {', '.join(empty)}, expected a value in every row")


def interval(values: Iterable[float]) -> Interval:
    """Mean and 95 % interval (Student's t) of one value per seed, rounded to 9 decimals.

    For normal values the interval covers the true mean in 95 of 100 cases, whatever the number of
    seeds. With fewer than 3 seeds there is none. Of equal values both ends are the mean.

    Raises:
        ValueError: no values, or one that is not finite.

    Example:
        >>> interval([1.0, 2.0, 3.0])
        Interval(mean=2.0, low=-0.484137712, high=4.484137712)
    """
    sample = np.asarray(list(values), float)
    if not len(sample) or not np.isfinite(sample).all():
        raise ValueError(f"expected finite values, one per seed; got {sample.tolist()}")
    mean, n = float(sample.mean()), len(sample)
    half = t.ppf(0.975, n - 1) * sample.std(ddof=1) / n**0.5 if n >= LEAST else math.nan
    return Interval(*(round(end, DIGITS) for end in (mean, mean - half, mean + half)))


def show_interval(values: Iterable[float], digits: int = 1) -> str:
    """Mean and interval for a table; of one or two values the mean only.

    Example:
        >>> show_interval([1.0, 1.0, 1.0], 2)
        '1.00 (1.00 to 1.00)'
    """
    mean, low, high = (round(value, digits) + 0.0 for value in interval(values))  # no −0.0
    between = "" if math.isnan(low) else f" ({low:,.{digits}f} to {high:,.{digits}f})"
    return f"{mean:,.{digits}f}{between}".replace("-", "−")


def by_seed(
    table: pd.DataFrame, wanted: Sequence, column: str = "recall_at_1", key: str = "method"
) -> pd.DataFrame:
    """One row per seed and one column for each of `wanted`, so that seeds can be compared.

    Args:
        table: columns `key`, seed and `column`; one row per run.
        wanted: values of `key`.

    Raises:
        ValueError: a value with no run, two runs of the same seed, or seeds that don't match.
    """
    for value in wanted:
        rows = table[table[key] == value]
        if rows.empty:
            there = ", ".join(map(str, table[key].unique()))
            raise ValueError(f"no runs with {key} {value}; there are {there}")
        if (twice := rows["seed"].duplicated()).any():
            seed = rows.loc[twice, "seed"].iloc[0]
            raise ValueError(f"{key} {value}: expected one run with seed {seed}, got several")
    wide = table[table[key].isin(wanted)].pivot(index="seed", columns=key, values=column)
    for value in wanted:
        if (absent := wide[value].isna()).any():
            raise ValueError(
                f"seeds don't match: {key} {value} has no {column} with seed "
                f"{', '.join(map(str, wide.index[absent]))}, but another {key} has"
            )
    return wide[list(wanted)]


def paired_difference(
    table: pd.DataFrame, a, b, column: str = "recall_at_1", key: str = "method"
) -> pd.Series:
    """`column` of a minus that of b, for each seed; a and b are values of `key`, see `by_seed`."""
    wide = by_seed(table, (a, b), column, key)
    return wide[a] - wide[b]


def time_to(history: pd.DataFrame, target: float, column: str = "samples") -> float:
    """When a run first reaches a Recall@1, linearly interpolated between evaluations.

    Args:
        history: of one run: recall_at_1 and `column`, one row per evaluation.
        target: Recall@1 to reach.
        column: what time is counted in: samples, step or seconds.

    Returns:
        In units of the column; ∞ if the target is never reached. If the first evaluation
        reaches it, the time of that.

    Raises:
        ValueError: absent columns or NaN in them, or rows of several runs.

    Example:
        >>> time_to(pd.DataFrame({"samples": [0, 100], "recall_at_1": [0.0, 0.8]}), 0.4)
        50.0
    """
    require(history, "history", column, "recall_at_1")
    history = history.sort_values(column, kind="stable")
    times, values = history[column].to_numpy(float), history["recall_at_1"].to_numpy(float)
    if (np.diff(times) <= 0).any():
        raise ValueError(f"history: expected one run, got rows with the same {column}")
    if not (reached := values >= target - 10.0**-DIGITS).any():
        return math.inf
    i = int(reached.argmax())
    if i == 0:
        return float(times[0])
    share = min(1.0, (target - values[i - 1]) / (values[i] - values[i - 1]))
    return float(times[i - 1] + share * (times[i] - times[i - 1]))


def times_to(
    history: pd.DataFrame,
    targets: Mapping[int, float],
    columns: Sequence[str] = ("samples", "step", "seconds"),
) -> pd.DataFrame:
    """`time_to` of every run, in one row per method and seed; `targets` is by seed."""
    return pd.DataFrame(
        [
            {"method": method, "seed": seed, "target": targets[seed]}
            | {column: time_to(run, targets[seed], column) for column in columns}
            for (method, seed), run in history.groupby(["method", "seed"], sort=False)
        ]
    )


def finals(history: pd.DataFrame) -> pd.DataFrame:
    """The last evaluation of every run: one row per method and seed."""
    ordered = history.sort_values("step", kind="stable")
    return ordered.groupby(["method", "seed"], sort=False).tail(1).reset_index(drop=True)

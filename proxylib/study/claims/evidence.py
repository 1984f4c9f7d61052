"""The tables that claims are judged by: their files, and what judging functions share."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from proxylib.study.claims.statistics import Interval, finals, interval, paired_difference, require


def check_benchmark(benchmark: pd.DataFrame) -> None:
    """Refuse a benchmark table that lacks what its claims need, or whose budgets differ."""
    columns = ("method", "seed", "step", "samples", "recall_at_1")
    require(benchmark, "benchmark", *columns)
    check_single(benchmark, "benchmark", "method")
    budget = benchmark.groupby(["method", "seed"])["samples"].max()
    trained = benchmark[benchmark["step"] > 0]
    batch = (trained["samples"] / trained["step"]).max()
    # Methods of different batch sizes can't spend exactly the same: the last batch is whole.
    if budget.max() - budget.min() > max(0.01 * budget.max(), batch):
        (few, seed), (many, other) = budget.idxmin(), budget.idxmax()
        raise ValueError(
            f"benchmark: expected equal budgets, got {budget.min():,.0f} samples for {few}, seed "
            f"{seed}, and {budget.max():,.0f} for {many}, seed {other}"
        )


def check_single(table: pd.DataFrame, name: str, key: str) -> None:
    """Refuse a history with two rows for the same evaluation: runs were mixed up."""
    if (twice := table.duplicated([key, "seed", "step"])).any():
        row = table.loc[twice, [key, "seed", "step"]].iloc[0].to_dict()
        raise ValueError(f"{name}: expected one row per {key}, seed and step; several for {row}")


def final_values(benchmark: pd.DataFrame, column: str = "recall_at_1") -> pd.DataFrame:
    """The checked benchmark's last row of every run, where `column` must have a value."""
    check_benchmark(benchmark)
    final = finals(benchmark)
    require(final, "benchmark, last evaluation of each run", column)
    return final


def gap_between(
    table: pd.DataFrame, a, b, column: str = "recall_at_1", key: str = "method"
) -> Interval:
    """What a has more than b, in points: the mean of the seeds' differences."""
    return interval(100 * paired_difference(table, a, b, column, key))


def show_percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %"


def seconds_from(benchmark: pd.DataFrame, milliseconds: Mapping[str, float]) -> pd.DataFrame:
    """The table with `seconds` as steps × the milliseconds of a step, measured one at a time.

    Training runs share the machine with others, so the seconds that they took say little. A method
    without such a measurement gets NaN.

    Args:
        benchmark: a history of several methods, see `judge`.
        milliseconds: method → what a step took on an idle machine (`A2_speed`).
    """
    each = benchmark["method"].map(dict(milliseconds)).astype(float)
    return benchmark.assign(seconds=benchmark["step"] * each / 1000)


def save_evidence(evidence: Mapping[str, pd.DataFrame | None], folder: Path) -> None:
    """Write each table to `folder/NAME.csv`, in full precision, so that it can be judged again.

    Args:
        evidence: as `judge` takes it. The file of a table that is None is removed: it would be
            that of earlier runs.
        folder: made if it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in evidence.items():
        file = folder / f"{name}.csv"
        if table is None:
            file.unlink(missing_ok=True)
        else:
            table.to_csv(file, index=False, lineterminator="\n")


def read_evidence(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables that `save_evidence` wrote, for `judge`.

    Raises:
        FileNotFoundError: there is none.
    """
    files = sorted(folder.glob("*.csv"))
    if not files:
        raise FileNotFoundError(
            f"no table of evidence (NAME.csv) in {folder}; 08_claims writes them to the folder "
            "`evidence` of its output"
        )
    return {file.stem: pd.read_csv(file) for file in files}

"""Intervals over seeds, differences within seeds, and times to a target."""

import math

import numpy as np
import pandas as pd
import pytest

from proxylib.study.claims.statistics import (
    Interval,
    interval,
    paired_difference,
    show_interval,
    time_to,
    times_to,
)


def test_interval():
    mean, low, high = interval([1.0, 2.0, 3.0, 4.0, 5.0])
    assert mean == 3 and low == pytest.approx(3 - 2.776445 * 2.5**0.5 / 5**0.5, abs=1e-6)
    assert high == pytest.approx(6 - low)
    assert interval([1.0, 2.0, 3.0, 4.0, 5.0]) == (mean, low, high)
    assert interval([0.1, 0.1, 0.1]) == (0.1, 0.1, 0.1)
    for few in ([2.0], [1.0, 3.0]):
        assert interval(few)[0] == 2 and all(map(math.isnan, interval(few)[1:]))
    for bad in ([], [1.0, math.nan]):
        with pytest.raises(ValueError, match="expected finite values"):
            interval(bad)


@pytest.mark.parametrize("n", [5, 10])
def test_an_interval_covers_the_mean_as_often_as_it_says(n):
    draws = np.random.default_rng(0).normal(size=(4000, n))
    covered = [low <= 0 <= high for _, low, high in map(interval, draws)]
    assert 0.94 < np.mean(covered) < 0.96


def test_an_interval_shows_itself():
    assert Interval(1.234, -0.5, 3.0).show() == "+1.23 points (−0.50 to 3.00)"
    assert Interval(1.234, 1.0, 3.0).show("", sign="") == "1.23 (1.00 to 3.00)"
    alone = interval([2.0])
    assert alone.is_unknown and not interval([2.0, 2.0, 2.0]).is_unknown
    assert alone.show("%", sign="") == "2.00 %"


def test_paired_difference_pairs_by_seed_not_by_row():
    rows = [("a", 0, 0.5), ("a", 1, 0.9), ("b", 1, 0.8), ("b", 0, 0.1)]
    data = pd.DataFrame(rows, columns=["method", "seed", "recall_at_1"])
    difference = paired_difference(data, "a", "b")
    assert difference.loc[0] == pytest.approx(0.4) and difference.loc[1] == pytest.approx(0.1)
    with pytest.raises(ValueError, match="method b has no recall_at_1 with seed 0, but"):
        paired_difference(data[:3], "a", "b")
    with pytest.raises(ValueError, match="method a: expected one run with seed 1, got several"):
        paired_difference(pd.concat([data, data[1:2]]), "a", "b")
    with pytest.raises(ValueError, match="no runs with method c; there are a, b"):
        paired_difference(data, "a", "c")


def test_times_to_has_a_row_for_every_run():
    run = pd.DataFrame({"samples": [0, 100], "step": [0, 4], "recall_at_1": [0.0, 0.8]})
    runs = pd.concat([run.assign(method=m, seed=s) for m in ("a", "b") for s in (0, 1)])
    times = times_to(runs, {0: 0.4, 1: 0.9}, ("samples", "step"))
    assert times["method"].tolist() == ["a", "a", "b", "b"]
    assert times["samples"].tolist() == [50, math.inf, 50, math.inf]
    assert times["step"].tolist() == [2, math.inf, 2, math.inf]


def test_show_interval():
    assert show_interval([-1.0]) == "−1.0"
    assert show_interval([-0.01]) == "0.0"
    assert show_interval([1.0, 1.0, 1.0], 2) == "1.00 (1.00 to 1.00)"


def test_time_to_interpolates():
    run = pd.DataFrame({"samples": [0, 100, 200, 300], "recall_at_1": [0.1, 0.5, 0.3, 0.7]})
    run["step"] = run["samples"] / 10
    assert time_to(run, 0.3) == pytest.approx(50)
    assert time_to(run, 0.5) == 100
    assert time_to(run[::-1], 0.6) == pytest.approx(275)
    assert time_to(run, 0.6, "step") == pytest.approx(27.5)
    assert time_to(run, 0.05) == 0
    assert time_to(run, 0.71) == math.inf
    target, found = 0.95 * (180 / 220), 171 / 220
    assert target > found  # by rounding
    assert time_to(pd.DataFrame({"samples": [0, 100], "recall_at_1": [0.1, found]}), target) == 100
    with pytest.raises(ValueError, match="expected one run"):
        time_to(pd.concat([run, run]), 0.5)
    with pytest.raises(ValueError, match="lacks epochs; it has samples, recall_at_1, step"):
        time_to(run, 0.5, "epochs")

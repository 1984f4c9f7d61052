import math
import subprocess
import sys

import pandas as pd
import pytest

from proxylib.study import speed
from proxylib.study.speed import growth, race


class Clock:
    """Stands for the module `time`: what is measured takes as long as it says, on any machine."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(speed, "time", clock)
    return clock


def test_all_sides_take_turns_and_the_median_counts(clock):
    calls = []

    def slow_at_first():
        calls.append("a")
        clock.sleep(0.05 if len(calls) < 4 else 0.002)

    times = race({"a": slow_at_first, "b": lambda: calls.append("b")}, repeats=5, at_least=0)
    assert calls == ["a", "b"] * 6  # once before, then five rounds
    assert times["a"] == pytest.approx(2)  # the slow first round is not the median
    assert times["b"] == 0


def test_quick_sides_are_called_often(clock):
    calls = {"quick": 0, "slow": 0}

    def count(name, seconds):
        calls[name] += 1
        clock.sleep(seconds)

    sides = {"quick": 1e-4, "slow": 0.05}
    times = race({name: lambda n=name, s=s: count(n, s) for name, s in sides.items()}, repeats=5)
    assert calls["slow"] == 7  # once before, once to see how long it takes, then five rounds
    assert calls["quick"] == pytest.approx(2 + 5 * 200, abs=5)  # 20 ms of a call of 0.1 ms
    assert times.to_dict() == pytest.approx({"quick": 0.1, "slow": 50})


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is Linux's")
def test_the_peak_counts_what_is_held_at_once():
    """In a process of its own, for a run asks malloc to keep what is freed."""
    code = """
import torch
from proxylib.study.speed import peak_memory
torch.ones(10_000_000)  # freed at once: it must not hide the next ones
print(peak_memory(lambda: torch.ones(20_000_000)))
print(peak_memory(lambda: [torch.ones(10_000_000).sum() for _ in range(4)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    at_once, one_by_one = map(float, done.stdout.split())
    assert at_once == pytest.approx(80, abs=8)
    assert one_by_one == pytest.approx(40, abs=8)


def test_the_exponent_of_a_power_is_found():
    sizes = pd.Series([10.0, 100.0, 1000.0])
    assert growth(sizes, 3 * sizes**1.5) == pytest.approx(1.5)
    assert math.isclose(growth(sizes, 0 * sizes + 7), 0, abs_tol=1e-9)

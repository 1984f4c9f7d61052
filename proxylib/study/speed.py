"""What code costs: time side by side, and peak memory."""

import ctypes
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd


def race(
    sides: Mapping[str, Callable[[], object]], repeats: int = 5, at_least: float = 0.02
) -> pd.Series:
    """Milliseconds of a call of each side: the median over rounds in which all take their turn.

    A machine that slows down for a while slows all sides down, so their ratios can be trusted
    where milliseconds can't.

    Args:
        sides: name → what is called, without arguments. Each is called once before, unmeasured.
        repeats: rounds.
        at_least: seconds of one measurement; a quick side is called several times for it. 0 = one
            call.

    Returns:
        Milliseconds by name.

    Example:
        >>> milliseconds = race({"sum": lambda: sum(range(1000)), "nothing": lambda: None})
        >>> bool(milliseconds["sum"] > milliseconds["nothing"])
        True
    """

    def seconds(call: Callable[[], object], times: int) -> float:
        began = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - began) / times

    for call in sides.values():
        call()
    times = dict.fromkeys(sides, 1)
    if at_least:
        for name, call in sides.items():
            times[name] = max(1, int(at_least / max(seconds(call, 1), 1e-6)))
    rounds = [
        {name: seconds(call, times[name]) for name, call in sides.items()} for _ in range(repeats)
    ]
    return 1000 * pd.DataFrame(rounds).median()


def peak_memory(call: Callable[[], object]) -> float:
    """MB by which the process grows at most while `call` runs; NaN but on Linux with glibc.

    Pieces below some 0.1 MB that were freed before are used again and not seen.
    """
    reset, libc = Path("/proc/self/clear_refs"), ctypes.CDLL(None)
    if not (reset.exists() and hasattr(libc, "malloc_trim")):
        call()
        return float("nan")
    libc.malloc_trim(0)  # gives back what is free, else the call would use it unseen
    reset.write_text("5")  # forgets the peak so far
    before = _status("VmRSS")
    call()
    return (_status("VmHWM") - before) / 1000


def growth(sizes: pd.Series, milliseconds: pd.Series) -> float:
    """Exponent a of milliseconds ∝ sizes^a, by least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(milliseconds), 1)[0])


def _status(name: str) -> float:
    """A field of the process's memory in kB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(name)))

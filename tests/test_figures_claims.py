import matplotlib.pyplot as plt
import pandas as pd
import pytest

from proxylib import figures
from proxylib.claims.claim import NONE, NOT_REPRODUCED, PARTLY, REPRODUCED, build_claim
from proxylib.claims.texts import CLAIMS
from proxylib.methods import METHODS
from proxylib.statistics import Interval


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def words(fig):
    return [text.get_text() for text in fig.axes[0].texts]


def test_ledger_has_a_row_for_every_claim():
    verdicts = (REPRODUCED, PARTLY, NOT_REPRODUCED)
    effects = (Interval(2.5, 1.5, 3.5), NONE, Interval(0.0, float("nan"), float("nan")))
    claims = [
        build_claim(id, "seen", verdicts[i % 3], effects[i % 3], "times")
        for i, id in enumerate(CLAIMS)
    ]
    shown = words(figures.ledger(claims))
    assert [word for word in shown if word in CLAIMS] == list(CLAIMS)
    assert sum("not reproduced" in word for word in shown) == len(CLAIMS) // 3
    assert "2.5 times (1.5 to 3.5)" in shown and "0 times" in shown


def test_rotation_shows_every_seed_and_the_mean():
    rows = [
        (method, seed, angle, 0.8 - angle / 300 - seed / 10)
        for method in ("proxy_nca", "npairs")
        for seed in (0, 1)
        for angle in (0, 30, 90)
    ]
    table = pd.DataFrame(rows, columns=["method", "seed", "angle", "recall_at_1"])
    ax = figures.rotation(table).axes[0]
    assert len(ax.lines) == 2 * (2 + 1)
    mean = next(line for line in ax.lines if line.get_label() == "Proxy-NCA")
    assert mean.get_ydata() == pytest.approx([75, 65, 45])


def test_walk_marks_every_run_and_rings_the_chosen():
    table = pd.DataFrame(
        {
            "method": ["NCA", "NCA", "N-pairs", "N-pairs"],
            "axis": ["start", "lr", "start", "lr"],
            "recall": [50.0, 60.0, 70.0, 65.0],
            "chosen": [False, True, True, False],
        }
    )
    ax = figures.walk(table).axes[0]
    marks = [
        x for line in ax.lines if line.get_markerfacecolor() != "none" for x in line.get_xdata()
    ]
    rings = [
        x for line in ax.lines if line.get_markerfacecolor() == "none" for x in line.get_xdata()
    ]
    assert sorted(marks) == [50, 60, 65, 70] and sorted(rings) == [60, 70]


def test_every_method_has_its_own_look():
    looks = [(s["color"], s["marker"]) for s in map(figures.method_style, METHODS)]
    assert len(set(looks)) == len(METHODS)
    assert figures.method_style("dynamic") == figures.method_style("proxy_nca")
    assert figures.method_label("dynamic") == "Proxy-NCA, dynamic"

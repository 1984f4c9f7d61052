import itertools
import math

import matplotlib.pyplot as plt
import pytest

from proxylib.study import figures
from proxylib.study.claims import CLAIMS, NOT_REPRODUCED, PARTLY, REPRODUCED
from proxylib.study.claims.claim import NO_EFFECT, Finding
from proxylib.study.claims.statistics import Interval


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


UNITS = ("times", "percentage points", "% less slack than at the start")


def judged():
    """All claims with their real words, and made-up verdicts and effects."""
    verdicts = (REPRODUCED, PARTLY, NOT_REPRODUCED)
    effects = (Interval(-27.35, -30.25, -24.95), NO_EFFECT, Interval(0.0, math.nan, math.nan))
    return [
        record.conclude(Finding("seen", verdicts[i % 3], effects[i % 3], UNITS[i // 3 % 3]))
        for i, record in enumerate(CLAIMS.values())
    ]


def test_ledger_has_a_row_for_every_claim():
    claims = judged()
    shown = [text.get_text() for text in figures.ledger(claims).axes[0].texts]
    assert [word for word in shown if word in CLAIMS] == list(CLAIMS)
    for sign, verdict in (("✓", REPRODUCED), ("≈", PARTLY), ("✗", NOT_REPRODUCED)):
        count = sum(claim.verdict == verdict for claim in claims)
        assert shown.count(f"{sign} {verdict}") == count > 0
    assert "−27.4 times (−30.2 to −24.9)" in shown and "0.00 times" in shown


def test_no_word_of_the_ledger_is_cut_or_covers_another():
    fig = figures.ledger(judged())
    fig.canvas.draw()
    (ax,) = fig.axes
    boxes = [text.get_window_extent() for text in ax.texts if text.get_text()]
    assert all(ax.bbox.x0 <= box.x0 and box.x1 <= ax.bbox.x1 for box in boxes)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))

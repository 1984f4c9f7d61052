"""What of the patent reproduces: every claim judged by a rule that was fixed before the runs.

The evidence is tables; nothing here trains or reads files.
"""

from collections.abc import Mapping

import pandas as pd

from proxylib.claims.claim import (
    NONE,
    NOT_REPRODUCED,
    NOT_TESTED,
    PARTLY,
    REPRODUCED,
    Claim,
    build_claim,
    ledger,
    save_claims,
)
from proxylib.claims.rules import (
    BASELINES,
    c1,
    c1b,
    c2,
    c3,
    c4,
    c5,
    c6a,
    c6b,
    c7,
    c8,
    c9,
    c10,
    c11,
    c12,
    speed_target,
)

__all__ = ["BASELINES", "NOT_REPRODUCED", "NOT_TESTED", "PARTLY", "REPRODUCED", "TABLES"]
__all__ += ["Claim", "judge", "ledger", "save_claims"]
__all__ += ["c1", "c1b", "c2", "c3", "c4", "c5", "c6a", "c6b", "c7", "c8", "c9", "c10"]
__all__ += ["c11", "c12", "speed_target"]

_JUDGES = {
    "C1": (c1, "benchmark"),
    "C1b": (c1b, "benchmark"),
    "C2": (c2, "benchmark"),
    "C3": (c3, "benchmark"),
    "C4": (c4, "benchmark"),
    "C5": (c5, "static", "benchmark"),
    "C6a": (c6a, "dynamic", "pretrained"),
    "C6b": (c6b, "dynamic", "pretrained"),
    "C7": (c7, "dynamic"),
    "C8": (c8, "bounds"),
    "C9": (c9, "bounds"),
    "C10": (c10, "batch"),
    "C11": (c11, "norms"),
    "C12": (c12, "rotation"),
}
TABLES = tuple(dict.fromkeys(name for _, *names in _JUDGES.values() for name in names))


def judge(evidence: Mapping[str, pd.DataFrame]) -> list[Claim]:
    """All claims in order; those whose tables are missing (or None) are not tested.

    Args:
        evidence: tables by name; R@1 and NMI are fractions, final unless a history is meant.
            - `benchmark`: history of every method and seed, equal budgets of samples: method,
              seed, step, samples, seconds, recall_at_1, nmi (needed in the last row of a run).
            - `static`: ratio, seed, recall_at_1.
            - `dynamic`: rule (patent or stabilised), ratio, seed, recall_at_1.
            - `pretrained`: method, seed, recall_at_1; every method from the start of `dynamic`.
            - `bounds`: history: norms (fixed or free), seed, step and `bound_statistics`'s columns.
            - `batch`: batch_size (32 and 128), seed, recall_at_1 of Proxy-NCA.
            - `norms`: norms (fixed or free), seed, recall_at_1 of Proxy-NCA.
            - `rotation`: method, seed, angle of the queries in degrees, recall_at_1.

    Raises:
        ValueError: an unknown table, a table without the columns or rows that its claims need,
            NaN, unequal budgets, or methods whose seeds don't match.
    """
    if unknown := sorted(evidence.keys() - set(TABLES)):
        raise ValueError(f"unknown tables {', '.join(unknown)}; expected {', '.join(TABLES)}")
    claims = []
    for id, (function, *names) in _JUDGES.items():
        if missing := [name for name in names if evidence.get(name) is None]:
            text = f"No runs: {' and '.join(missing)} missing."
            claims.append(build_claim(id, text, NOT_TESTED, NONE, ""))
        else:
            claims.append(function(*(evidence[name] for name in names)))
    return claims

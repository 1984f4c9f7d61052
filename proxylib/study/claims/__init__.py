"""The claims of the patent, each judged by a rule that was fixed before the runs: second edition.

Up to C7 each claim is judged for Proxy-NCA with free norms, as the patent trained it (C1a …), and
beside it for our variation with fixed norms (C1b …).

A claim's words and its judging function stand together, in the module of its subject: speed,
quality, proxies, bounds or variations. The evidence is tables, and nothing here trains. Whoever
doubts a verdict judges it again: `judge(read_evidence(Path("figures/kanji-full/evidence")))`.
"""

from collections.abc import Mapping

import pandas as pd

from proxylib.study.claims.bounds import c8, c9
from proxylib.study.claims.claim import (
    NOT_REPRODUCED,
    NOT_TESTED,
    PARTLY,
    REPRODUCED,
    Claim,
    hash_of_rules,
    ledger,
    no_runs,
    save_claims,
)
from proxylib.study.claims.evidence import read_evidence, save_evidence, seconds_from
from proxylib.study.claims.proxies import c5, c6, c6s, c7
from proxylib.study.claims.quality import c2, c2p, c3, c4
from proxylib.study.claims.speed import c1, speed_target
from proxylib.study.claims.variations import c10, c11, c12
from proxylib.study.methods import BASELINES

__all__ = ["BASELINES", "CLAIMS", "NOT_REPRODUCED", "NOT_TESTED", "PARTLY", "REPRODUCED", "TABLES"]
__all__ += ["RULES", "Claim", "judge", "ledger", "read_evidence", "save_claims", "save_evidence"]
__all__ += ["seconds_from", "speed_target"]

# In the order in which they are judged and shown.
_RECORDS = (*c1, *c2, *c2p, *c3, *c4, *c5, *c6, *c6s, *c7, c8, c9, c10, c11, c12)
CLAIMS = {record.id: record for record in _RECORDS}
RULES = hash_of_rules(_RECORDS)
TABLES = tuple(dict.fromkeys(name for record in _RECORDS for name in record.tables))


def judge(evidence: Mapping[str, pd.DataFrame | None]) -> list[Claim]:
    """Judge all claims, in order; those whose tables are missing (or None) are not tested.

    Of baselines with equal means, the best one is the first in the registry's order.

    Args:
        evidence: tables by name; R@1 and NMI are fractions, final unless a history is meant.
            - `benchmark`: history of every method and seed, equal budgets of samples: method,
              seed, step, samples, seconds, recall_at_1, nmi (needed in the last row of a run).
            - `static`: norms (fixed, free or both), ratio, seed, recall_at_1.
            - `dynamic`: norms, rule (patent or stabilised), ratio, seed, recall_at_1.
            - `pretrained`: method, batch_norm of the embedding (as tuned, on or off), seed,
              recall_at_1; every method from the start of `dynamic`.
            - `bounds`: history: norms (fixed or free), seed, step and `bound_statistics`'s columns.
            - `batch`: batch_size (32 and 128), seed, recall_at_1 of Proxy-NCA.
            - `rotation`: method, seed, angle of the queries in degrees, recall_at_1.

    Raises:
        ValueError: an unknown table, a table without the columns or rows that its claims need,
            NaN, unequal budgets, or runs whose seeds or steps don't match. The message names the
            claim and its tables.
    """
    if unknown := sorted(evidence.keys() - set(TABLES)):
        raise ValueError(f"unknown tables {', '.join(unknown)}; expected {', '.join(TABLES)}")
    claims = []
    for record in CLAIMS.values():
        if missing := [name for name in record.tables if evidence.get(name) is None]:
            claims.append(record.conclude(no_runs(f"{' and '.join(missing)} missing")))
        else:
            claims.append(record(*(evidence[name] for name in record.tables)))
    return claims

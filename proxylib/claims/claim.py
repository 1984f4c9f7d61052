"""One claim with its verdict, the ledger of them all, and its file."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

from proxylib.claims.texts import CLAIMS, LIKELY_CAUSES
from proxylib.statistics import Interval

REPRODUCED, PARTLY = "reproduced", "partly reproduced"
NOT_REPRODUCED, NOT_TESTED = "not reproduced", "not tested"
NONE = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Claim:
    """A claim of the patent with its verdict.

    Attributes:
        id: C1 … C12; C1b, C6a and C6b too.
        statement: what the patent says. source: where it says so.
        rule: when it counts as reproduced, or as partly reproduced.
        evidence: what was measured, in one sentence.
        effect, unit: the number that the rule is about; NaN if there is none.
        low, high: its 95 % interval over the seeds; NaN with one seed, and for a count.
        verdict: reproduced, partly reproduced, not reproduced or not tested.
        likely_cause: a hypothesis why it did not reproduce (in full); else empty.
    """

    id: str
    statement: str
    source: str
    rule: str
    evidence: str
    effect: float
    unit: str
    low: float
    high: float
    verdict: str
    likely_cause: str


def build_claim(id: str, evidence: str, verdict: str, effect: Interval, unit: str) -> Claim:
    """The claim with its words; a likely cause only if it was tested and didn't fully hold."""
    statement, source, rule = CLAIMS[id]
    cause = LIKELY_CAUSES[id] if verdict in (PARTLY, NOT_REPRODUCED) else ""
    mean, low, high = effect
    return Claim(id, statement, source, rule, evidence, mean, unit, low, high, verdict, cause)


def ledger(claims: Sequence[Claim]) -> pd.DataFrame:
    """The claims as a table to show, one row each, indexed by their ids."""
    rows = [
        {
            "claim": claim.id,
            "the patent says": f"{claim.statement} ({claim.source})",
            "rule": claim.rule,
            "verdict": claim.verdict,
            "effect": "" if math.isnan(claim.effect) else f"{claim.effect:.2f} {claim.unit}",
            "95 % interval": f"{claim.low:.2f} to {claim.high:.2f}".replace("nan to nan", ""),
            "evidence": claim.evidence,
            "likely cause": claim.likely_cause,
        }
        for claim in claims
    ]
    return pd.DataFrame(rows).set_index("claim")


def save_claims(claims: Sequence[Claim], path: Path, source: dict) -> None:
    """Write the claims and their provenance as JSON, `{"claims": […], "provenance": {…}}`.

    Args:
        path: the file, `claims.json` by custom; NaN becomes null.
        source: from `figures.provenance`.
    """
    rows = [
        {key: None if value != value else value for key, value in asdict(claim).items()}
        for claim in claims
    ]
    content = {"claims": rows, "provenance": source}
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")

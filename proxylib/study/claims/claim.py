"""What a claim is: one record of its words with the function that judges it.

`claim` makes the record of a judging function, `Finding` is what that function returns, and
`Claim` is the outcome: the words and the finding together, as they are shown and saved.
"""

import hashlib
import inspect
import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pandas as pd

from proxylib.datasets.code import code_of
from proxylib.study.claims.statistics import LEAST, Interval

REPRODUCED, PARTLY = "reproduced", "partly reproduced"
NOT_REPRODUCED, NOT_TESTED = "not reproduced", "not tested"
NO_EFFECT = Interval(math.nan, math.nan, math.nan)
EDITION = 2  # of the rules; the history has the first one


@dataclass(frozen=True)
class Variant:
    """The Proxy-NCA that a claim is judged for."""

    letter: str  # at the end of the claim's id
    method: str  # in the registry
    norms: str  # in the tables of sweeps
    words: str


PATENTED = Variant("a", "proxy_nca_free", "free", "free norms, as the patent trained")
FIXED = Variant("b", "proxy_nca", "fixed", "fixed norms, our variation")


@dataclass(frozen=True)
class Claim:
    """A claim of the patent with its verdict.

    Attributes:
        id: C1 … C12, and C2p and C6s; up to C7 once with an `a` at the end and once with a `b`.
        statement: what the patent says. source: where it says so.
        rule: when it counts as reproduced, or as partly reproduced; fixed before the runs.
        evidence: what was measured, in one sentence.
        effect, unit: the number that the rule is about; NaN if there is none.
        low, high: its 95 % interval over the seeds; NaN with too few seeds, and for a count.
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


@dataclass(frozen=True)
class Finding:
    """What a judging function found in its tables. `Claim` explains the fields."""

    evidence: str
    verdict: str
    effect: Interval = NO_EFFECT
    unit: str = "percentage points"


@dataclass(frozen=True)
class Record:
    """A claim before it is judged. Called with its tables, it gives the judged `Claim`."""

    id: str
    statement: str
    source: str
    rule: str
    likely_cause: str  # shown only if the claim turns out not to reproduce in full
    find: Callable[..., Finding]  # its parameters are named after the tables that it needs

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the tables that the claim needs, in the order of the parameters."""
        return tuple(inspect.signature(self.find).parameters)

    def __call__(self, *tables: pd.DataFrame) -> Claim:
        try:
            return self.conclude(self.find(*tables))
        except (TypeError, ValueError) as error:  # TypeError: words where numbers should be
            named = re.split("[:,]", str(error))[0] in self.tables
            names = "" if named else f"{' and '.join(self.tables)}: "
            raise ValueError(f"{self.id}: {names}{error}") from error

    def conclude(self, found: Finding) -> Claim:
        """The words together with what was found."""
        words = (self.id, self.statement, self.source, self.rule)
        cause = self.likely_cause if found.verdict in (PARTLY, NOT_REPRODUCED) else ""
        mean, low, high = found.effect
        return Claim(*words, found.evidence, mean, found.unit, low, high, found.verdict, cause)


def claim(
    id: str, *, statement: str, source: str, rule: str, likely_cause: str
) -> Callable[[Callable[..., Finding]], Record]:
    """Decorator that makes the record of a claim from its words and its judging function."""
    return lambda find: Record(id, statement, source, rule, likely_cause, find)


def twice(
    id: str, *, statement: str, source: str, rule: str, likely_cause: str
) -> Callable[[Callable[..., Finding]], tuple[Record, Record]]:
    """Like `claim`, but two records: the function's first parameter is the `Variant` judged."""

    def records(find: Callable[..., Finding]) -> tuple[Record, Record]:
        return tuple(
            Record(
                id + own.letter,
                f"{statement.removesuffix('.')} ({own.words}).",
                source,
                rule,
                likely_cause,
                partial(find, own),
            )
            for own in (PATENTED, FIXED)
        )

    return records


def verdict_of(reproduced: bool, partly: bool = False, *, known: bool = True) -> str:
    """The verdict; not tested if what decides is not known, as with too few seeds."""
    if not known:
        return NOT_TESTED
    return REPRODUCED if reproduced else PARTLY if partly else NOT_REPRODUCED


def no_runs(what: str) -> Finding:
    return Finding(f"No runs: {what}.", NOT_TESTED, unit="")


def hash_of_rules(records: Iterable[Record]) -> str:
    """Hash of the words of all records and of the code that judges, as in every `claims.json`."""
    digest = hashlib.sha256(f"edition {EDITION}, {LEAST} seeds".encode())
    for record in records:
        find = getattr(record.find, "func", record.find)
        digest.update(repr((record.id, record.statement, record.source, record.rule)).encode())
        digest.update(code_of(find).encode())
    return digest.hexdigest()[:16]


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


def save_claims(claims: Sequence[Claim], path: Path, source: dict, rules: str) -> None:
    """Write claims, edition and hash of the rules, and provenance as JSON.

    Args:
        path: the file, `claims.json` by custom. NaN becomes null there, as JSON has no NaN.
        source: from `figures.provenance`.
        rules: see `hash_of_rules`.
    """
    rows = pd.DataFrame(claims).astype(object).replace({math.nan: None}).to_dict("records")
    content = {"edition": EDITION, "rules": rules, "claims": rows, "provenance": source}
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")

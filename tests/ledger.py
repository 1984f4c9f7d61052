"""README's two tables of verdicts, made from the committed claims: `python tests/ledger.py`."""

import json
import math
import re
import sys
from pathlib import Path

from proxylib.datasets.paths import PROJECT
from proxylib.study.claims import CLAIMS, Claim
from proxylib.study.claims.claim import EDITION, FIXED, PATENTED, Variant
from proxylib.study.figures.verdicts import VERDICTS, effect_of

README = PROJECT / "README.md"


def read(file: Path) -> list[Claim]:
    """The claims of a `claims.json`, in which null stands for NaN."""
    rows = json.loads(file.read_text(encoding="utf-8"))["claims"]
    return [Claim(**{k: math.nan if v is None else v for k, v in row.items()}) for row in rows]


def ledgers(folder: Path = PROJECT / "figures") -> dict[str, dict[str, Claim]]:
    """Data set → id → claim, of all ledgers of this edition; kanji first, then by name."""
    found = {}
    for file in folder.glob("*-full/claims.json"):
        if json.loads(file.read_text(encoding="utf-8")).get("edition") == EDITION:
            claims = read(file)
            found[file.parent.name.removesuffix("-full")] = {claim.id: claim for claim in claims}
    return dict(sorted(found.items(), key=lambda item: (item[0] != "kanji", item[0])))


def cell(claim: Claim | None) -> str:
    """Sign, verdict, effect with its unit and interval: as the ledger's figure has them."""
    if claim is None:
        return "–"
    found = f"{VERDICTS[claim.verdict][0]} {claim.verdict}"
    effect = effect_of(claim).replace("\n", " ")
    return f"{found}: {effect}" if effect else found


def table(own: Variant, found: dict[str, dict[str, Claim]]) -> str:
    """The claims on this Proxy-NCA; those that know no such difference stand with the patent's."""
    header = f"| {own.words} | the patent says | "
    lines = [header + " | ".join(f"`{name}`" for name in found) + " |"]
    lines.append("|---" * (2 + len(found)) + "|")
    for record in CLAIMS.values():
        letter = record.id[-1] if record.id[-1] in (PATENTED.letter, FIXED.letter) else ""
        if letter == own.letter or (not letter and own is PATENTED):
            statement = record.statement.replace(f" ({own.words})", "")
            cells = [cell(claims.get(record.id)) for claims in found.values()]
            lines.append(f"| {' | '.join([record.id, statement, *cells])} |")
    return "\n".join(lines)


def main() -> None:
    text, found = README.read_text(encoding="utf-8"), ledgers()
    for own in (PATENTED, FIXED):
        old = rf"^\| {own.words} \| the patent says .*?(?=\n\n)"
        text, count = re.subn(old, lambda _, own=own: table(own, found), text, flags=re.M | re.S)
        if not count:
            sys.exit(f"README has no table that begins: | {own.words} | the patent says |")
    README.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

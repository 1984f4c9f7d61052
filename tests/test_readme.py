"""What the README says of the results is what the committed files say."""

import json
import re

from proxylib import paths

README = (paths.PROJECT / "README.md").read_text(encoding="utf-8")


def test_the_ledger_is_that_of_the_full_tier():
    file = paths.PROJECT / "figures" / "kanji-full" / "claims.json"
    claims = json.loads(file.read_text(encoding="utf-8"))["claims"] if file.exists() else []
    rows = re.findall(r"^\| (C\d+[ab]?) \|.*\| \S (.+) \|$", README, re.MULTILINE)
    assert rows == [(claim["id"], claim["verdict"]) for claim in claims]


def test_every_picture_and_link_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (paths.PROJECT / target).exists(), target

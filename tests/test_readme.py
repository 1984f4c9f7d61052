"""What the README says of the results is what the committed files say."""

import json
import re

from proxylib.datasets import paths

FIGURES = paths.PROJECT / "figures"
README = (paths.PROJECT / "README.md").read_text(encoding="utf-8")


def test_the_ledger_is_that_of_the_full_tier():
    rows = re.findall(r"^\| (C\d+[ab]?) \|[^|]*\| (.+) \|$", README, re.MULTILINE)
    [header] = re.findall(r"^\| \| the patent says \| (.+) \|$", README, re.MULTILINE)
    datasets = [name.strip("`") for name in header.split(" | ")]
    committed = sorted(path.parent.name for path in FIGURES.glob("*-full/claims.json"))
    assert sorted(f"{name}-full" for name in datasets) == committed
    for column, dataset in enumerate(datasets):
        text = (FIGURES / f"{dataset}-full" / "claims.json").read_text(encoding="utf-8")
        for (name, cells), claim in zip(rows, json.loads(text)["claims"], strict=True):
            verdict, _, effect = cells.split(" | ")[column][2:].partition(": ")
            assert (name, verdict) == (claim["id"], claim["verdict"])
            if effect:
                assert effect.split()[0].replace("−", "-") == f"{claim['effect']:.3g}"


def test_the_first_python_of_the_readme_runs():
    snippets = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    [first] = [text for text in snippets if "ProxyNCA" in text]
    names = {}
    exec(first, names)
    names["loss"].backward()
    assert names["loss_fn"].proxies.grad.abs().sum(1).gt(0).all()


def test_every_picture_and_link_exists():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert target.startswith("http") or (paths.PROJECT / target).exists(), target

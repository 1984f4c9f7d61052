"""What the README says of the results is what the committed files say."""

import json
import math
import re

import pandas as pd
import pytest

from proxylib.datasets import paths
from proxylib.study import claims
from proxylib.study.claims import Claim
from proxylib.study.claims.statistics import show_interval
from proxylib.study.figures import method_label
from proxylib.study.figures.rows import VERDICTS, effect_of

FIGURES = paths.PROJECT / "figures"
LEDGERS = sorted(FIGURES.glob("*-full/claims.json"))
README = (paths.PROJECT / "README.md").read_text(encoding="utf-8")


def test_the_ledger_is_that_of_the_full_tier():
    rows = re.findall(r"^\| (C\d+s?p?[ab]?) \|[^|]*\| (.+) \|$", README, re.MULTILINE)
    [header] = re.findall(r"^\| \| the patent says \| (.+) \|$", README, re.MULTILINE)
    datasets = [name.strip("`") for name in header.split(" | ")]
    committed = {path.parent.name.removesuffix("-full"): path for path in LEDGERS}
    assert sorted(datasets) == sorted(committed)
    for column, dataset in enumerate(datasets):
        shown = {name: cells.split(" | ")[column] for name, cells in rows}
        assert shown == {claim.id: cell(claim) for claim in read(committed[dataset])}


def read(file):
    """The claims of a `claims.json`, in which null stands for NaN."""
    rows = json.loads(file.read_text(encoding="utf-8"))["claims"]
    return [Claim(**{k: math.nan if v is None else v for k, v in row.items()}) for row in rows]


def cell(claim):
    """Sign, verdict, effect with its unit and interval: as the ledger's figure has them."""
    found = f"{VERDICTS[claim.verdict][0]} {claim.verdict}"
    effect = effect_of(claim).replace("\n", " ")
    # The unit that the first edition gave C9 said the opposite.
    effect = effect.replace("% of the slack at the start", "% less slack than at the start")
    return f"{found}: {effect}" if effect else found


@pytest.mark.parametrize("file", LEDGERS, ids=lambda file: file.parent.name)
def test_verdicts_are_those_of_the_committed_evidence(file):
    content = json.loads(file.read_text(encoding="utf-8"))
    if "edition" not in content:
        pytest.skip("first edition, which kept no evidence")
    assert content["rules"] == claims.RULES
    again = claims.judge(claims.read_evidence(file.parent / "evidence"))
    numbers = ["effect", "low", "high"]
    found, saved = pd.DataFrame(again), pd.DataFrame(read(file))
    pd.testing.assert_frame_equal(found[numbers], saved[numbers], rtol=1e-9)
    assert found.drop(columns=numbers).equals(saved.drop(columns=numbers))


def table_of(first):
    """Data sets in the header, and the cells of each row, of the table that begins so."""
    text = re.search(rf"^\| {re.escape(first)}.*?(?=\n\n)", README, re.M | re.S)[0]
    header, _, *rows = text.splitlines()
    return re.findall(r"`(.+?)`", header), [row.strip("| ").split(" | ") for row in rows]


def test_the_table_of_photographs_is_that_of_the_full_tier():
    datasets, rows = table_of("Recall@1 (%) |")
    assert datasets == ["cars196-half", "grocery"]
    untrained = {"features": "the network's own features", "pca": "64 principal components of them"}
    measured = {}
    for dataset in datasets:
        folder = FIGURES / f"{dataset}-full"
        runs = pd.read_csv(folder / "04_retrieval_benchmark-recall.csv")
        text = (folder / "04_retrieval_benchmark.metrics.json").read_text(encoding="utf-8")
        for name, recalls in runs.groupby("method")["recall_at_1"]:
            assert len(recalls) == 5
            measured[method_label(name), dataset] = show_interval(100 * recalls)
        for name, words in untrained.items():
            measured[words, dataset] = f"{100 * json.loads(text)[f'recall_at_1_{name}']:.1f}"
    shown = {}
    for name, *cells in rows:
        shown |= {(name, dataset): cell for dataset, cell in zip(datasets, cells, strict=True)}
    assert {where: cell for where, cell in shown.items() if cell != "–"} == measured


def test_the_table_of_softmax_and_successors_is_that_of_the_full_tier():
    datasets, rows = table_of("Recall@1 (%), characters |")
    settings = ["the patent's loss", "+ scale 9", "+ positive in the sum"]
    assert datasets == ["kanji", "omniglot"]
    for column, dataset in enumerate(datasets):
        ends = {}
        for name, key in (("switches", "setting"), ("successors", "method")):
            saved = pd.read_csv(FIGURES / f"{dataset}-full" / f"09_just_softmax-{name}.csv")
            ends |= {n: show_interval(100 * v) for n, v in saved.groupby(key)["recall_at_1"]}
        names = [*settings, "proxy_anchor", "soft_triple", "softmax"]
        assert [row[column + 1] for row in rows] == [ends[name] for name in names]


def test_the_claims_on_cars_are_those_of_the_full_tier():
    said = re.search(r"FIG. 1 redone on cars.*?\*", README, re.S)[0]
    expected = {}
    for notebook in ("03_convergence", "04_retrieval_benchmark"):
        file = FIGURES / "cars196-half-full" / f"{notebook}.metrics.json"
        expected |= json.loads(file.read_text(encoding="utf-8"))
    numbers = [expected[name] for name in ("c1b_ratio", "c1a_ratio", "c2b_points", "c2a_points")]
    assert re.findall(r"\d+\.\d+", said) == [f"{number:.2f}" for number in numbers]


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

"""What the README says of the results is what the committed files say."""

import json
import re

import pandas as pd

from proxylib.datasets import paths
from proxylib.study.claims.statistics import show_interval
from proxylib.study.figures import method_label

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


def test_the_table_of_photographs_is_that_of_the_full_tier():
    header, _, *rows = re.search(r"^\| Recall@1.*?(?=\n\n)", README, re.M | re.S)[0].splitlines()
    datasets = re.findall(r"`(.+?)`", header)
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
    for row in rows:
        name, *cells = row.strip("| ").split(" | ")
        shown |= {(name, dataset): cell for dataset, cell in zip(datasets, cells, strict=True)}
    assert {where: cell for where, cell in shown.items() if cell != "–"} == measured


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

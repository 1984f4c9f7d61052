"""What the README says of the results is what the committed files say."""

import json
import re

import ledger
import pandas as pd
import pytest

from proxylib.datasets import paths
from proxylib.study import claims
from proxylib.study.claims import CLAIMS, REPRODUCED
from proxylib.study.claims.claim import FIXED, PATENTED, Finding
from proxylib.study.claims.statistics import Interval, show_interval
from proxylib.study.figures import method_label

FIGURES = paths.PROJECT / "figures"
LEDGERS = sorted(FIGURES.glob("*-full/claims.json"))
FOUND = Finding("seen", REPRODUCED, Interval(1.5, 1.25, 2.0))
README = (paths.PROJECT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("own", [PATENTED, FIXED], ids=lambda own: own.letter)
def test_the_ledgers_are_those_of_the_full_tier(own):
    """If not: `python tests/ledger.py` writes them."""
    assert f"\n{ledger.table(own, ledger.ledgers())}\n\n" in README


def test_every_claim_stands_in_one_of_the_ledgers():
    claims = {name: record.conclude(FOUND) for name, record in CLAIMS.items()}
    texts = [ledger.table(own, {"a": claims, "b": {}}) for own in (PATENTED, FIXED)]
    rows = [row for text in texts for row in text.splitlines() if row.startswith("| C")]
    assert sorted(row.split(" | ")[0] for row in rows) == sorted(f"| {name}" for name in CLAIMS)
    assert all(row.endswith(" | ✓ reproduced: 1.50 points (1.25 to 2.00) | – |") for row in rows)


def test_the_summary_is_that_of_the_ledgers():
    found = ledger.ledgers()
    said = re.search(r"\*\*In short:\*\*.*?\n\n", README, re.S)[0]
    for own in "ab":
        speed = [claims[f"C1{own}"].effect for claims in found.values()]
        assert f"{min(speed):.1f} to {max(speed):.1f} times" in said and max(speed) < 2.5
    reproduced = {
        id: {name for name, claims in found.items() if claims[id].verdict == REPRODUCED}
        for id in CLAIMS
    }
    assert reproduced["C2a"] == reproduced["C3a"] == {"kanji", "omniglot"}
    assert reproduced["C2b"] == reproduced["C3b"] == {"kanji", "omniglot", "cars196-half"}
    assert reproduced["C2pb"] == {"kanji", "cars196-half"} and not reproduced["C2pa"]
    assert reproduced["C8"] == set(found)
    assert reproduced["C9"] == {"kanji", "omniglot"} and "rose in three of ten" in README
    assert "NCA: tighter at the end in 7 of 10 runs" in found["cars196-half"]["C9"].evidence
    for id in ("C5a", "C5b", "C6a", "C6b", "C6sa", "C6sb"):
        assert not reproduced[id] and all(claims[id].effect < 0 for claims in found.values())


def test_only_ledgers_of_this_edition_are_shown(tmp_path):
    for name, edition in (("omniglot", {"edition": 2}), ("kanji", {"edition": 2}), ("b", {})):
        (tmp_path / f"{name}-full").mkdir()
        text = json.dumps({"claims": [], **edition})
        (tmp_path / f"{name}-full" / "claims.json").write_text(text)
    assert list(ledger.ledgers(tmp_path)) == ["kanji", "omniglot"]


@pytest.mark.parametrize("file", LEDGERS, ids=lambda file: file.parent.name)
def test_verdicts_are_those_of_the_committed_evidence(file):
    content = json.loads(file.read_text(encoding="utf-8"))
    assert content["rules"] == claims.RULES
    again = claims.judge(claims.read_evidence(file.parent / "evidence"))
    numbers = ["effect", "low", "high"]
    found, saved = pd.DataFrame(again), pd.DataFrame(ledger.read(file))
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
    assert re.findall(r"\d+\.\d+", said) == [f"{abs(number):.2f}" for number in numbers]
    assert [number > 0 for number in numbers] == [True, True, True, False]
    assert "points above that" in said and "points below it" in said


def test_the_time_of_a_step_on_photographs_is_the_measured_one():
    file = FIGURES / "cars196-half-full" / "A2_speed.metrics.json"
    measured = json.loads(file.read_text(encoding="utf-8"))["ms_a_step_proxy_nca"]
    assert f"a step of 32 photographs then takes {measured:.0f} ms on one core" in README


def test_the_gallery_of_cars_shows_what_its_caption_says():
    folder = FIGURES / "cars196-half-full"
    shown = pd.read_csv(folder / "07_retrieval_gallery-random.csv")
    found = json.loads((folder / "07_retrieval_gallery.metrics.json").read_text(encoding="utf-8"))
    nearest = shown[shown["rank"] == 1]["right"]
    assert (nearest.sum(), len(nearest)) == (3, 5) and "here for three of five" in README
    assert 0.45 < found["recall_at_1"] < 0.55 and "about half of all photographs" in README


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

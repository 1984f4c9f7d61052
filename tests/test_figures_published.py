"""The published results, from committed files and from made-up ones that say other things."""

import itertools
import json
import math
import re
from dataclasses import asdict

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from proxylib.study import figures
from proxylib.study.claims import CLAIMS, NOT_REPRODUCED, NOT_TESTED, REPRODUCED
from proxylib.study.claims.claim import NO_EFFECT, Finding
from proxylib.study.claims.statistics import Interval
from proxylib.study.figures import full_tier

NOTEBOOKS = list(full_tier._NOTEBOOKS)
COMMITTED = full_tier.PROJECT / "figures"
FILES = {name: file for name, (file, _) in full_tier._NOTEBOOKS.items()}
WITH_RESULTS = [name for name, file in FILES.items() if any(COMMITTED.glob(f"*-full/{file}"))]


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def write(folder, dataset, name, rows, seeds=(0, 1)):
    out = folder / f"{dataset}-full"
    out.mkdir(exist_ok=True)
    pd.DataFrame(rows).to_csv(out / f"{name}.csv", index=False)
    source = {"parameters": {"tier": "full", "seeds": list(seeds)}}
    (out / f"{name}.json").write_text(json.dumps(source))


def finals(folder, dataset, seeds=(0, 1), noise=0.01, **means):
    rows = [
        {"method": method, "seed": seed, "recall_at_1": mean + noise * seed * (method == "npairs")}
        for method, mean in means.items()
        for seed in seeds
    ]
    write(folder, dataset, "04_retrieval_benchmark-recall", rows, seeds)


def histories(folder, dataset, seeds=(0, 1), **ends):
    """Straight lines from 0 to the end given, each over 1,000 samples."""
    rows = [
        {"method": method, "seed": seed, "step": step, "samples": 10 * step, "seconds": step}
        | {"recall_at_1": end[seed] * step / 100}
        for method, end in ends.items()
        for seed in seeds
        for step in (0, 50, 100)
    ]
    write(folder, dataset, "03_convergence-samples", rows, seeds)


def ratios(folder, dataset, notebook, curves, baselines, seeds=(0, 1, 2), more=()):
    rows = [
        {"curve": curve, "ratio": ratio, "seed": seed, "recall_at_1": half * (ratio + 0.5)}
        for curve, half in curves.items()
        for ratio in (0.5, 1.0)
        for seed in (seeds if "dropped" not in curve else seeds[:1])
    ]
    rows += [
        {"curve": method, "seed": seed, "recall_at_1": value}
        for method, value in baselines.items()
        for seed in (*seeds, *more)
    ]
    rows.append({"curve": "published", "ratio": 0.5, "recall_at_1": 0.99})
    write(folder, dataset, f"{notebook}-ratio", rows, seeds)


def stamp_of(fig):
    return next(text.get_text() for text in fig.texts if text.get_gid() == "stamp")


@pytest.mark.parametrize("notebook", WITH_RESULTS)
def test_the_committed_results_are_drawn_side_by_side(notebook):
    fig, table, sentence = figures.published(notebook)
    saved = {path.parent.name for path in COMMITTED.glob(f"*-full/{notebook}.provenance.json")}
    assert table.index[0] == "kanji" and ("omniglot" in table.index) == ("omniglot-full" in saved)
    for dataset in table.index:
        made = COMMITTED / f"{dataset}-full" / f"{notebook}.provenance.json"
        seeds = json.loads(made.read_text())["parameters"]["seeds"]
        assert f"{dataset}, tier full, seeds {seeds[0]}–{seeds[-1]}" in stamp_of(fig)
        assert re.search(rf"\bon {dataset}\b", sentence, re.I)
    fig.canvas.draw()
    assert fig.get_figwidth() <= 12 and sentence.endswith(".")
    boxes = [ax.get_tightbbox() for ax in fig.axes]
    assert len(boxes) == (1 if notebook == "08_claims" else len(table))
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(box.x0 >= 0 and box.x1 <= fig.bbox.x1 + 1 for box in boxes)


def test_the_committed_numbers_are_those_of_the_ledger():
    _, speed, _ = figures.published("03_convergence")
    _, best, _ = figures.published("04_retrieval_benchmark")
    for dataset in speed.index:
        saved = json.loads((COMMITTED / f"{dataset}-full/claims.json").read_text())
        effects = {claim["id"]: claim["effect"] for claim in saved["claims"]}
        for letter, own in (("a", "Proxy-NCA, free norms"), ("b", "Proxy-NCA")):
            ratio = speed.loc[dataset, f"the baseline's / those of {own}"]
            lead = best.loc[dataset, f"{own}, points more"].replace("−", "-")
            assert ratio.startswith(f"{effects['C1' + letter]:.2f} ")
            assert lead.startswith(f"{effects['C2' + letter]:.1f} ")


def test_kanji_comes_first_then_the_alphabet(tmp_path):
    for dataset in ("omniglot", "kanji", "cars196-half"):
        finals(tmp_path, dataset, proxy_nca=0.9, npairs=0.8)
    (tmp_path / "sop-full").mkdir()  # a folder without the file
    finals(tmp_path / "sop-full", "no", proxy_nca=0.1, npairs=0.8)  # and one further down
    fig, table, sentence = figures.published("04_retrieval_benchmark", tmp_path)
    assert list(table.index) == ["kanji", "cars196-half", "omniglot"]
    assert [ax.get_title() for ax in fig.axes] == list(table.index)
    assert "on all 3 data sets" in sentence


def test_benchmark_says_who_is_better(tmp_path):
    def sentence():
        return figures.published("04_retrieval_benchmark", tmp_path)[2]

    few = "too few seeds to tell"
    ends = {"proxy_nca": 0.9, "npairs": 0.8, "nca": 0.7, "proxy_triplet": 0.95}
    finals(tmp_path, "a", noise=0, seeds=(0, 1, 2), **ends)
    won = "90.0 % on a, 10.0 points above N-pairs"
    assert sentence() == f"Proxy-NCA beats the best baseline in Recall@1 on a ({won})."
    finals(tmp_path, "b", noise=0, seeds=(0, 1, 2), proxy_nca=0.5, npairs=0.4, nca=0.7)
    lost = "50.0 % on b, 20.0 points below NCA"
    assert sentence().endswith(f" in Recall@1 on a only ({won}; {lost}).")
    finals(tmp_path, "b", noise=0, seeds=(0, 1, 2), proxy_nca=0.5, proxy_nca_free=0.8, nca=0.7)
    free = "Proxy-NCA (free norms) on b (80.0 % on b, 10.0 points above NCA)"
    assert sentence().endswith(f" in Recall@1 on a only ({won}; {lost}); {free}.")
    finals(tmp_path, "b", noise=0, seeds=(0, 1, 2), proxy_nca=0.5, npairs=0.4, nca=0.7)
    finals(tmp_path, "a", proxy_nca=0.804, npairs=0.8)
    assert sentence().endswith(
        f" on no data set (80.4 % on a, 0.1 points below N-pairs, {few}; {lost})."
    )


def test_convergence_says_when_and_in_how_many_seeds(tmp_path):
    def sentence():
        return figures.published("03_convergence", tmp_path)[2]

    three = (0, 1, 2)
    ends = {"proxy_nca": (0.8,) * 3, "npairs": (0.4,) * 3, "nca": (0.1,) * 3}
    histories(tmp_path, "a", three, **ends)
    start = (
        "the best baseline (N-pairs) reaches 95% of its best Recall@1 (38.0 %) after 950 training "
    )
    start += "samples on average, Proxy-NCA"
    assert sentence() == f"On a, {start} 2.0 times as fast."
    histories(tmp_path, "b", proxy_nca=(0.8, 0.3), npairs=(0.4, 0.4))
    histories(tmp_path, "c", proxy_nca=(0.3, 0.3), npairs=(0.4, 0.4))
    even = {"proxy_nca": (0.4,) * 3, "npairs": (0.4,) * 3}
    histories(tmp_path, "d", three, **even, proxy_nca_free=(0.8,) * 3)
    assert sentence() == (
        f"On a, {start} 2.0 times as fast; on b, {start} in 1 of 2 seeds; on c, {start} in none of "
        f"2 seeds; on d, {start} 1.0 times as fast, no clear difference, with free norms 2.0 "
        "times as fast."
    )
    fig, table, _ = figures.published("03_convergence", tmp_path)
    assert list(table["samples, Proxy-NCA"]) == ["475", "738", "1,000", "950"]
    assert len(fig.axes) == 4
    assert [38, 38] in [list(line.get_ydata()) for line in fig.axes[1].lines]  # the target


def test_nobody_above_the_start_is_a_draw(tmp_path):
    histories(tmp_path, "a", (0, 1, 2), proxy_nca=(0.0,) * 3, npairs=(0.0,) * 3)
    assert "1.0 times as fast, no clear" in figures.published("03_convergence", tmp_path)[2]


def test_static_ratio_leaves_curves_without_all_seeds_out_of_the_sentence(tmp_path):
    curves = {"Proxy-NCA, by the letter": 0.5, "Proxy-NCA, positive proxy dropped": 0.1}
    ratios(tmp_path, "a", "05_proxy_ratio_static", curves, {"npairs": 0.4, "nca": 0.3})
    fig, table, sentence = figures.published("05_proxy_ratio_static", tmp_path)
    assert sentence == (
        "At half a proxy per label, Proxy-NCA (by the letter) reaches the best baseline's Recall@1 "
        "on a (50.0 % on a, 10.0 points above N-pairs)."
    )
    assert not any("dropped" in column for column in table)
    assert [text.get_text() for text in fig.legends[0].get_texts()] == list(curves)
    assert max(fig.axes[0].get_ylim()) < 90  # the patent's own values are not among ours


def test_a_sweep_of_fewer_seeds_is_compared_with_the_mean_of_the_baseline(tmp_path):
    curves = {"Proxy-NCA, by the letter": 0.5, "Proxy-NCA, positive proxy dropped": 0.1}
    ratios(tmp_path, "a", "05_proxy_ratio_static", curves, {"npairs": 0.4}, more=(3, 4))
    _, table, sentence = figures.published("05_proxy_ratio_static", tmp_path)
    assert "50.0 % on a, 10.0 points above N-pairs" in sentence and "dropped" not in sentence
    assert table.loc["a", "Proxy-NCA, by the letter, points more"].startswith("10.0")


def test_dynamic_ratio_speaks_of_every_rule_and_gives_it_one_look(tmp_path):
    rules = {"dynamic, stabilised": 0.5, "dynamic, the patent's rule": 0.2}
    other = dict(reversed(rules.items()))
    ratios(tmp_path, "a", "06_proxy_ratio_dynamic", rules, {"npairs": 0.4})
    ratios(tmp_path, "b", "06_proxy_ratio_dynamic", other, {"nca": 0.6})
    fig, _, sentence = figures.published("06_proxy_ratio_dynamic", tmp_path)
    assert sentence == (
        "At half a proxy per label, dynamic assignment (stabilised) reaches the best baseline's "
        "Recall@1 on a only (50.0 % on a, 10.0 points above N-pairs; 50.0 % on b, 10.0 points "
        "below NCA); dynamic assignment (the patent's rule) on no data set (20.0 % on a, 20.0 "
        "points below N-pairs; 20.0 % on b, 40.0 points below NCA)."
    )
    colors = [
        {line.get_color() for line in ax.lines if list(line.get_ydata()) == [50, 75]}
        for ax in fig.axes
    ]
    assert len(colors[0]) == 1 and colors[0] == colors[1]


@pytest.mark.parametrize("notebook", NOTEBOOKS[:4])
def test_methods_that_the_registry_lacks_are_left_out_and_named(notebook, tmp_path):
    if notebook == "03_convergence":
        histories(tmp_path, "a", proxy_nca=(0.8, 0.8), old=(0.9, 0.9), npairs=(0.4, 0.4))
    elif notebook == "04_retrieval_benchmark":
        finals(tmp_path, "a", proxy_nca=0.8, old=0.9, npairs=0.4)
    else:
        ratios(tmp_path, "a", notebook, {"x, y": 0.5}, {"old": 0.9, "npairs": 0.4})
    fig, table, _ = figures.published(notebook, tmp_path)
    seeds = "0–2" if "ratio" in notebook else "0, 1"
    assert stamp_of(fig) == f"a, tier full, seeds {seeds} (without old)"
    assert table.loc["a", "best baseline"] == "N-pairs"


def test_switches_are_compared_with_what_they_change(tmp_path):
    levels = {"patent": (None, 0.1), "positive, alone": ("patent", 0.11), "scale": ("patent", 0.3)}
    for dataset, sign in (("a", 1), ("b", -1)):
        rows = [
            {"setting": name, "changes": before, "seed": seed}
            | {"recall_at_1": 0.5 + sign * (level + seed * (name == "scale") / 100)}
            for name, (before, level) in levels.items()
            for seed in (0, 1, 2)
        ]
        write(tmp_path, dataset, "09_just_softmax-switches", rows, (0, 1, 2))
    fig, table, sentence = figures.published("09_just_softmax", tmp_path)
    assert sentence == (
        "On a, “scale” changes Recall@1 most, by +21.00 points (18.52 to 23.48), “positive, "
        "alone” +1.00 points (1.00 to 1.00); on b, “scale” changes Recall@1 most, by −21.00 points "
        "(−23.48 to −18.52), “positive, alone” −1.00 points (−1.00 to −1.00)."
    )
    assert list(table.columns) == list(levels) and table.loc["a", "patent"].startswith("60.0")
    assert [text.get_text() for text in fig.axes[0].get_yticklabels()] == list(levels)[1:]
    assert not any(text.get_text() for text in fig.axes[1].get_yticklabels())
    assert stamp_of(fig) == "a, tier full, seeds 0–2; b, tier full, seeds 0–2"
    fig.canvas.draw()
    boxes = [ax.get_tightbbox() for ax in fig.axes]
    assert not boxes[0].overlaps(boxes[1])


def save_claims(folder, dataset, verdicts):
    found = {REPRODUCED: Interval(2.0, 1.5, 2.5), NOT_REPRODUCED: Interval(-0.0011, -1, 0.5)}
    some = [
        asdict(record.conclude(Finding("seen", verdict, found.get(verdict, NO_EFFECT))))
        for record, verdict in zip(CLAIMS.values(), verdicts, strict=False)
    ]
    empty = dict.fromkeys(("effect", "low", "high"))
    some = [claim | empty if math.isnan(claim["effect"]) else claim for claim in some]
    source = {"parameters": {"tier": "full", "seeds": [3]}}
    (folder / f"{dataset}-full").mkdir()
    content = json.dumps({"claims": some, "provenance": source})
    (folder / f"{dataset}-full" / "claims.json").write_text(content)


def test_claims_are_counted_and_have_a_column_for_each_data_set(tmp_path):
    save_claims(tmp_path, "a", [REPRODUCED] * 2 + [NOT_REPRODUCED])
    save_claims(tmp_path, "b", [NOT_TESTED] * 2)
    fig, table, sentence = figures.published("08_claims", tmp_path)
    assert sentence == (
        "On a, 3 claims are judged: 2 reproduced and 1 not reproduced; on b, 2 claims are judged: "
        "2 not tested."
    )
    assert table.loc["a"].tolist() == [2, 0, 1, 0]
    assert stamp_of(fig) == "a, tier full, seed 3; b, tier full, seed 3"
    places = {text.get_text(): text.get_position() for text in fig.axes[0].texts}
    assert places["a"][0] < places["b"][0] == places["– not tested"][0]
    assert (
        places["✗ not reproduced"][0] == places["a"][0] == places["0.00 points (−1.00 to 0.50)"][0]
    )


def test_no_word_of_the_ledger_of_many_data_sets_covers_another():
    claims = full_tier._read(COMMITTED / "kanji-full" / "claims.json")[0]
    for count in (2, 3, 4):
        fig = figures.ledger({f"data set {i}": claims for i in range(count)})
        fig.canvas.draw()
        (ax,) = fig.axes
        boxes = [text.get_window_extent() for text in ax.texts if text.get_text()]
        assert fig.get_figwidth() <= 12
        assert all(ax.bbox.x0 <= box.x0 and box.x1 <= ax.bbox.x1 for box in boxes)
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_without_results_there_is_a_message_to_show(notebook, tmp_path):
    fig, table, sentence = figures.published(notebook, tmp_path / "nowhere")
    assert fig is None and table.empty
    assert str(tmp_path / "nowhere") in sentence and "checkout" in sentence


def test_other_notebooks_have_none():
    with pytest.raises(ValueError, match="'07_x': expected one of 03_convergence, 04_"):
        figures.published("07_x")

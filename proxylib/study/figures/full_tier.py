"""The committed results of the full tier, those of all data sets beside one another."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from proxylib.datasets.paths import PROJECT
from proxylib.study.claims import BASELINES, Claim
from proxylib.study.claims.claim import FIXED, PATENTED
from proxylib.study.claims.speed import SHARE
from proxylib.study.claims.statistics import Interval, interval, show_interval, times_to
from proxylib.study.figures.curves import draw_curves, draw_ratios
from proxylib.study.figures.rows import ladder, method_points
from proxylib.study.figures.saving import stamp
from proxylib.study.figures.style import method_label, name_at_right
from proxylib.study.figures.verdicts import VERDICTS, ledger
from proxylib.study.methods import METHODS

Shown = tuple[Figure, list[dict], str]  # a picture, a row for each data set, and what they say
OWN = {FIXED.method: "Proxy-NCA", PATENTED.method: "with free norms"}  # in a sentence


def published(notebook: str, folder: Path | None = None) -> tuple[Figure | None, pd.DataFrame, str]:
    """The full tier's results as committed, for a notebook to show before its own short runs.

    Where there are none, the figure is None, the table empty, and the sentence says so: a notebook
    can show whatever it gets. Methods that the registry lacks are left out and named below.

    Args:
        notebook: name without ending, of 03 to 06, 08 or 09.
        folder: has the folders DATASET-full; by default the checkout's `figures`.

    Returns:
        Figure with a panel (08: a column) for each data set; a table with a row for each; what
        they say, in one sentence.

    Raises:
        ValueError: another notebook.

    Example:
        >>> fig, table, sentence = published("04_retrieval_benchmark")
    """
    if notebook not in _NOTEBOOKS:
        raise ValueError(f"{notebook!r}: expected one of {', '.join(_NOTEBOOKS)}")
    name, show = _NOTEBOOKS[notebook]
    folder = PROJECT / "figures" if folder is None else folder
    files = {file.parent.name.removesuffix("-full"): file for file in folder.glob(f"*-full/{name}")}
    results, notes = {}, []
    for dataset, file in sorted(files.items(), key=lambda item: (item[0] != "kanji", item[0])):
        results[dataset], made, unknown = _read(file)
        without = f" (without {', '.join(unknown)})" if unknown else ""
        notes.append(f"{dataset}, tier {made['tier']}, {_span(made['seeds'])}{without}")
    if not results:
        advice = "They are in the project's checkout; a run in tier full makes them."
        return None, pd.DataFrame(), f"There are no results of the full tier in {folder}. {advice}"
    fig, rows, sentence = show(results)
    stamp(fig, "; ".join(notes))
    table = pd.DataFrame(rows, pd.Index(results, name="data set")).fillna("")
    return fig, table, f"{sentence[0].upper()}{sentence[1:]}."


def _read(file: Path) -> tuple[pd.DataFrame | list[Claim], dict, list[str]]:
    """A result, the parameters that it was made with, and the methods that the registry lacks."""
    source = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
    if "claims" in source:
        rows = [[row.get(field.name, "") for field in fields(Claim)] for row in source["claims"]]
        claims = [Claim(*(math.nan if value is None else value for value in row)) for row in rows]
        return claims, source["provenance"]["parameters"], []
    table = pd.read_csv(file)
    if "changes" in table:  # in 09 all are Proxy-NCA
        return table, source["parameters"], []
    if "curve" in table:  # in 05 and 06 a row without a ratio is of the method it names
        table = table[table["seed"].notna()]  # without the patent's own values
        table = table.assign(method=table["curve"].where(table["ratio"].isna(), "proxy_nca"))
    known = table["method"].isin(METHODS)
    return table[known], source["parameters"], sorted(table["method"][~known].unique())


def _panels(names: Sequence[str], height: float, draw: Callable[[plt.Axes, str], None]) -> Figure:
    """A panel for each data set, two in a row."""
    n_rows, n_columns = math.ceil(len(names) / 2), min(len(names), 2)
    fig = plt.figure(figsize=(3.6 + 4 * n_columns, height * n_rows), layout="constrained")
    axes = fig.subplots(n_rows, n_columns, squeeze=False).flatten()
    for ax in axes[len(names) :]:
        ax.remove()
    for ax, name in zip(axes, names, strict=False):
        draw(ax, name)
        ax.set_title(name, weight="bold")
    return fig


def _convergence(results: Mapping[str, pd.DataFrame]) -> Shown:
    """As claim C1 counts: the time to 95 % of the best baseline's best, at most the budget."""
    rows, clauses, targets = [], [], {}
    for dataset, runs in results.items():
        best = runs.groupby(["method", "seed"])["recall_at_1"].max().unstack("method")
        rival = best[best.columns.intersection(BASELINES)].mean().idxmax()
        wanted = SHARE * best[rival]
        label, level = method_label(rival), f"{100 * wanted.mean():.1f}"
        judged = [name for name in OWN if name in best]
        raced = runs[runs["method"].isin([*judged, rival])]
        times = times_to(raced, wanted, ["samples"])
        times = times.pivot(index="seed", columns="method", values="samples")
        theirs, targets[dataset] = times[rival], wanted.mean()
        rows.append({"best baseline": label, f"{SHARE:.0%} of its best Recall@1 (%)": level})
        rows[-1]["samples, the baseline"] = f"{theirs.mean():,.0f}"
        found = []
        for name in judged:
            there = np.isfinite(times[name])
            own = times[name].where(there, raced["samples"].max())
            ratio = interval((theirs / own).fillna(1))  # 0 / 0: nothing gets above the common start
            who, seeds = method_label(name), f"{there.sum() or 'none'} of {len(there)}"
            rows[-1][f"samples, {who}"] = f"{own.mean():,.0f}"
            rows[-1][f"seeds in which {who} gets there"] = seeds
            rows[-1][f"the baseline's / those of {who}"] = ratio.show("", "")
            fast = f"{ratio.mean:.1f} times as fast{_doubt(ratio, 1)}"
            found.append(f"{OWN[name]} {fast if there.all() else f'in {seeds} seeds'}")
        clauses.append(
            f"on {dataset}, the best baseline ({label}) reaches {SHARE:.0%} of its best Recall@1 "
            f"({level} %) after {theirs.mean():,.0f} training samples on average, "
            + ", ".join(found)
        )

    def draw(ax: plt.Axes, dataset: str) -> None:
        name_at_right(ax, draw_curves(ax, results[dataset], target=targets[dataset]))
        ax.locator_params(axis="x", nbins=4)

    return _panels([*results], 4.6, draw), rows, "; ".join(clauses)


def _benchmark(results: Mapping[str, pd.DataFrame]) -> Shown:
    def draw(ax: plt.Axes, dataset: str) -> None:
        method_points(results[dataset], "recall_at_1", "Recall@1 (%)", scale=100, ax=ax)

    own = {name: table[table["method"].isin(OWN)] for name, table in results.items()}
    own = {n: table.assign(curve=table["method"].map(method_label)) for n, table in own.items()}
    rows, said = _against_best_baseline(
        own, results, "beats the best baseline in Recall@1", paired=True
    )
    return _panels([*results], 4.6, draw), rows, said


def _ratios(results: Mapping[str, pd.DataFrame]) -> Shown:
    swept = {name: table[table["ratio"].notna()] for name, table in results.items()}
    curves = list(pd.concat(swept.values())["curve"].unique())

    def draw(ax: plt.Axes, dataset: str) -> None:
        table = results[dataset]
        draw_ratios(ax, swept[dataset], table[table["ratio"].isna()], names=curves)
        handles = ax.get_legend_handles_labels()
        ax.get_legend().remove()
        if not ax.figure.legends:
            look = {"frameon": False, "handlelength": 2.8}
            look["ncols"] = len(curves) if len(curves) < 4 else 2
            ax.figure.legend(*handles, loc="outside upper center", **look)

    half = {name: table[table["ratio"] == 0.5] for name, table in swept.items()}
    does = "reaches the best baseline's Recall@1"
    rows, said = _against_best_baseline(half, results, does, paired=False)
    return _panels([*results], 4.8, draw), rows, f"at half a proxy per label, {said}"


def _claims(results: Mapping[str, Sequence[Claim]]) -> Shown:
    verdicts = {name: [claim.verdict for claim in claims] for name, claims in results.items()}
    rows = [{v: found.count(v) for v in VERDICTS} for found in verdicts.values()]
    clauses = [
        f"on {name}, {len(found)} claims are judged: "
        + _joined([f"{n} {verdict}" for verdict, n in row.items() if n])
        for (name, found), row in zip(verdicts.items(), rows, strict=True)
    ]
    return ledger(results), rows, "; ".join(clauses)


def _switches(results: Mapping[str, pd.DataFrame]) -> Shown:
    rows, clauses = [], []
    for dataset, table in results.items():
        wide = 100 * table.pivot(index="seed", columns="setting", values="recall_at_1")
        pairs = table.dropna(subset="changes").drop_duplicates("setting")
        before = dict(zip(pairs["setting"], pairs["changes"], strict=True))
        gaps = {name: interval(wide[name] - wide[other]) for name, other in before.items()}
        rows.append({name: show_interval(wide[name]) for name in table["setting"].unique()})
        most = max(gaps, key=lambda name: abs(gaps[name].mean))
        told = [f"“{name}” {gaps[name].show()}" for name in gaps if "positive" in name]
        clauses.append(f"on {dataset}, “{most}” changes Recall@1 most, by {gaps[most].show()}")
        clauses[-1] += "".join(f", {text}" for text in told)

    def draw(ax: plt.Axes, dataset: str) -> None:
        ladder(results[dataset], ax)
        if ax.get_subplotspec().colspan.start:  # its neighbour has the names
            ax.set_yticklabels([])

    return _panels([*results], 4.2, draw), rows, "; ".join(clauses)


def _against_best_baseline(
    own: Mapping[str, pd.DataFrame],
    results: Mapping[str, pd.DataFrame],
    does: str,
    paired: bool,
) -> tuple[list[dict], str]:
    """The final Recall@1 of each curve, compared with the best baseline.

    Paired, seed by seed; else with the baseline's mean, as claims C5 and C6 do. Curves with fewer
    seeds than the baseline (or, if not paired, than the fullest curve) are left out.
    """
    rows, found, reached = [], {}, {}
    for dataset, table in results.items():
        table = table[table["method"].isin(BASELINES)]
        wide = 100 * table.pivot(index="seed", columns="method", values="recall_at_1")
        rival = wide.mean().idxmax()
        label = method_label(rival)
        rows.append({"best baseline": label, "its Recall@1 (%)": show_interval(wide[rival])})
        theirs = wide[rival] if paired else wide[rival].mean()
        most = len(wide) if paired else own[dataset].groupby("curve").size().max()
        for curve, runs in own[dataset].groupby("curve", sort=False):
            values = 100 * runs.set_index("seed")["recall_at_1"]
            if len(values) < most:
                continue
            gap = interval(values - theirs)
            rows[-1][f"{curve} (%)"] = show_interval(values)
            rows[-1][f"{curve}, points more"] = show_interval(values - theirs)
            side = "above" if gap.mean >= 0 else "below"
            text = f"{values.mean():.1f} % on {dataset}, {abs(gap.mean):.1f} points {side} {label}"
            found.setdefault(curve, []).append(text + _doubt(gap))
            reached.setdefault(curve, {})[dataset] = gap.mean >= 0
    clauses, does = [], f"{does} "
    for curve, where in reached.items():
        kind, _, how = curve.partition(", ")
        subject = kind.replace("dynamic", "dynamic assignment") + f" ({how})" * bool(how)
        clauses.append(f"{subject} {does}on {_where(where)} ({'; '.join(found[curve])})")
        does = ""  # said once
    return rows, "; ".join(clauses)


def _doubt(found: Interval, equal: float = 0) -> str:
    if found.is_unknown:
        return ", too few seeds to tell"
    return ", no clear difference" if found.low <= equal <= found.high else ""


def _where(reached: Mapping[str, bool]) -> str:
    """The data sets of which it is true, in words."""
    names = [name for name, is_true in reached.items() if is_true]
    if len(names) == len(reached) > 1:
        return "both data sets" if len(names) == 2 else f"all {len(names)} data sets"
    return _joined(names) + " only" * (len(reached) > 1) if names else "no data set"


def _joined(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _span(seeds: Sequence[int]) -> str:
    """`[0, 1, 2]` → `seeds 0–2`."""
    if len(seeds) > 2 and list(seeds) == list(range(seeds[0], seeds[-1] + 1)):
        return f"seeds {seeds[0]}–{seeds[-1]}"
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"


_NOTEBOOKS: dict[str, tuple[str, Callable[[Mapping], Shown]]] = {
    "03_convergence": ("03_convergence-samples.csv", _convergence),
    "04_retrieval_benchmark": ("04_retrieval_benchmark-recall.csv", _benchmark),
    "05_proxy_ratio_static": ("05_proxy_ratio_static-ratio.csv", _ratios),
    "06_proxy_ratio_dynamic": ("06_proxy_ratio_dynamic-ratio.csv", _ratios),
    "08_claims": ("claims.json", _claims),
    "09_just_softmax": ("09_just_softmax-switches.csv", _switches),
}

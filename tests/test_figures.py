import importlib.metadata
import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

import proxylib
from proxylib.datasets import Dataset
from proxylib.study import figures
from proxylib.study.bound_search import tight_example
from proxylib.study.claims.statistics import interval
from proxylib.study.figures import saving
from proxylib.study.figures.style import spread
from proxylib.study.methods import BASELINES, METHODS, SUCCESSORS


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def dataset(channels=1):
    images = torch.randint(0, 255, (6, channels, 8, 8), dtype=torch.uint8)
    return Dataset("made", images, torch.tensor([0, 0, 1, 1, 2, 2]), ("a", "b", "c"))


def test_save_writes_picture_data_and_provenance(tmp_path):
    fig, ax = plt.subplots()
    ax.plot([0, 1])
    table = pd.DataFrame({"step": [0, 10], "recall_at_1": [1 / 3, 2 / 3]})
    out = tmp_path / "new" / "folder"
    figures.save(fig, "00_x-curve", table, out, figures.provenance(tier="fast", steps=10))
    assert (out / "00_x-curve.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "00_x-curve.csv").read_text() == "step,recall_at_1\n0,0.333333\n10,0.666667\n"
    source = json.loads((out / "00_x-curve.json").read_text())
    assert source["parameters"] == {"tier": "fast", "steps": 10}
    assert {"torch", "numpy", "proxylib"} <= set(source["versions"])
    assert source["data"] == "00_x-curve.csv"


def test_a_package_that_is_not_installed_is_named_as_such(monkeypatch):
    others = [
        d for d in importlib.metadata.distributions() if d.name not in ("kanjivg", "proxylib")
    ]
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: others)
    versions = figures.provenance()["versions"]
    assert versions["kanjivg"] == "not installed"
    assert versions["torch"] == importlib.metadata.version("torch")
    assert versions["proxylib"] == proxylib.__version__


def test_metrics_are_flat_finite_numbers(tmp_path):
    figures.save_metrics("00_x", {"nmi": 0.5}, tmp_path, {})
    assert json.loads((tmp_path / "00_x.metrics.json").read_text()) == {"nmi": 0.5}
    with pytest.raises(ValueError, match="metric nmi is nan"):
        figures.save_metrics("00_x", {"nmi": float("nan")}, tmp_path, {})


@pytest.mark.parametrize("channels", [1, 3])
def test_gallery_marks_right_and_wrong(channels):
    data = dataset(channels)
    neighbors, distances = torch.tensor([[1, 2], [5, 0]]), torch.tensor([[0.1, 0.2], [0.3, 0.4]])
    queries = torch.tensor([0, 3])
    fig, table = figures.gallery(
        data.images[queries], data.labels[queries], data, neighbors, distances
    )
    assert table["right"].tolist() == [True, False, False, False]
    assert table["class"].tolist() == ["a", "b", "c", "a"]
    marks = [ax.get_xlabel() for ax in fig.axes if ax.get_xlabel()]
    assert marks == ["✓ 0.10", "✗ 0.20", "✗ 0.30", "✗ 0.40"]
    solid, dashed = (fig.axes[i].spines["top"] for i in (1, 2))
    assert solid.get_edgecolor() != dashed.get_edgecolor()
    assert (solid.get_linestyle(), dashed.get_linestyle()) == ("-", (0, (3, 1.5)))


def test_gallery_of_an_unknown_query_judges_nothing():
    data = dataset()
    fig, table = figures.gallery(
        data.images[:1], None, data, torch.tensor([[1]]), torch.tensor([[0.5]])
    )
    assert "right" not in table
    assert fig.axes[1].get_xlabel() == "0.50"


def test_image_grid_takes_rows_of_different_length():
    images = dataset().images
    fig = figures.image_grid([images[:3], images[:1]], ["x", "y"])
    assert [ax.get_visible() for ax in fig.axes] == [True, True, True, True, False, False]


def drawn(ax, width):
    """The y values (%) of the lines so wide; seaborn's legend leaves empty lines, too."""
    lines = [line for line in ax.lines if line.get_linewidth() == width]
    return [list(line.get_ydata()) for line in lines if len(line.get_ydata())]


def outside(ax):
    """Whether the legend is beside the axes, so that it hides no data."""
    ax.figure.canvas.draw()
    return not ax.bbox.overlaps(ax.get_legend().get_window_extent())


def test_a_figure_is_shown_once_with_words_beside_it(monkeypatch):
    shown = []
    monkeypatch.setattr(saving, "display", lambda fig, metadata: shown.append((fig, metadata)))
    fig, _ = plt.subplots()
    figures.show(fig, "A line that rises.")
    assert shown == [(fig, {"image/png": {"alt": "A line that rises."}})]
    assert fig.number not in plt.get_fignums(), "the end of the cell would show it again"


def test_convergence_shows_every_seed():
    rows = [
        {"step": step, "seed": seed, "recall_at_1": 0.1 * step * (1 + seed)}
        for seed in (0, 1, 2)
        for step in (0, 1)
    ]
    (ax,) = figures.convergence(pd.DataFrame(rows), label="X").axes
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["seed 0", "seed 1", "seed 2", "X, mean"]
    assert drawn(ax, 1) == [[0, pytest.approx(10 * (1 + seed))] for seed in (0, 1, 2)]
    assert drawn(ax, 2.5) == [[0, pytest.approx(20)]]
    assert ax.get_ylabel() == "Recall@1 (%)"
    assert outside(ax)


def test_title():
    assert figures.title("recall_at_8") == "Recall@8" and figures.title("nmi") == "NMI"


def test_circle_draws_the_errors_at_their_true_length():
    _, ax = plt.subplots()
    figures.circle(ax, tight_example(0.4))
    errors = [line.get_xydata() for line in ax.lines if line.get_linestyle() == ":"]
    assert [round(float(((a - b) ** 2).sum()), 9) for a, b in errors] == [0.4, 0.4]


def test_stamp_stands_below_the_axes():
    fig, ax = plt.subplots()
    figures.stamp(fig, "kanji, tier fast, seeds 0, 1")
    (note,) = fig.texts
    assert note.get_text() == "kanji, tier fast, seeds 0, 1"
    fig.canvas.draw()
    assert note.get_window_extent().y1 <= ax.get_tightbbox().y0


def benchmark():
    rows = [
        (method, seed, step, 32 * step, step / 80, 0.1 * i + step / 200 + 0.01 * seed)
        for i, method in enumerate(("proxy_nca", "semihard", "npairs"))
        for seed in (0, 1)
        for step in (0, 50, 100)
    ]
    return pd.DataFrame(
        rows, columns=["method", "seed", "step", "samples", "seconds", "recall_at_1"]
    )


def test_method_curves_show_seeds_means_and_names():
    fig = figures.method_curves(benchmark(), ("step", "seconds"), target=0.5, epoch=3200)
    for ax in fig.axes:
        assert len(drawn(ax, 0.8)) == 3 * 2  # methods × seeds
        assert drawn(ax, 0.8)[1] == pytest.approx([1, 26, 51])
        assert drawn(ax, 2.2)[0] == pytest.approx([0.5, 25.5, 50.5])
        assert [50, 50] in drawn(ax, 1.5)  # the target
        assert ax.get_legend() is None
    names = [text.get_text() for text in fig.axes[1].texts]  # from the lowest end up
    assert names == ["Proxy-NCA 50.5", "Triplet semi-hard 60.5", "N-pairs 70.5"]
    heights = [text.get_position()[1] for text in fig.axes[1].texts]
    assert heights == sorted(heights)
    fig.canvas.draw()
    assert fig.axes[0].child_axes[0].get_xlabel() == "epochs"
    assert fig.axes[0].child_axes[0].get_xlim()[1] == pytest.approx(100 / 3200)


def test_method_curves_average_a_column_that_differs_between_seeds():
    table = benchmark()
    table["seconds"] += 2 * table["seed"]
    (ax,) = figures.method_curves(table, ("seconds",)).axes
    mean = next(line for line in ax.lines if line.get_linewidth() == 2.2)
    assert mean.get_xdata().tolist() == pytest.approx([1, 50 / 80 + 1, 100 / 80 + 1])


def test_method_curves_over_a_setting_have_its_values_as_ticks():
    table = benchmark().assign(distortion=lambda t: t["step"] / 100 + 0.5)
    (ax,) = figures.method_curves(table, ("distortion",), by="distortion").axes
    assert ax.get_xticks().tolist() == [0.5, 1.0, 1.5]
    assert ax.get_xlim()[1] == 1.5  # the names' lines go on where the curves end


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_names_of_curves_that_end_together_stay_beside_the_axes(end):
    rows = [
        {"method": method, "seed": 0, "step": step, "recall_at_1": end if step else 0.5}
        for method in ("proxy_nca", *BASELINES)
        for step in (0, 100)
    ]
    (ax,) = figures.method_curves(pd.DataFrame(rows), ("step",)).axes
    low, high = ax.get_ylim()
    heights = [text.get_position()[1] for text in ax.texts]
    assert low <= min(heights) and max(heights) <= high + 1e-9
    assert len(heights) == 1 + len(BASELINES)


def test_method_points_leave_out_the_mean_of_a_method_that_never_got_there():
    table = benchmark().query("step == 100").copy()
    table.loc[(table["method"] == "npairs") & (table["seed"] == 1), "recall_at_1"] = float("inf")
    fig = figures.method_points(
        table, "recall_at_1", "R@1", scale=100, levels={"raw": 5}, best_first=False
    )
    (ax,) = fig.axes
    assert [tick.get_text() for tick in ax.get_yticklabels()] == [
        "Proxy-NCA",
        "Triplet semi-hard",
        "N-pairs",
    ]
    assert {text.xy[1]: text.get_text() for text in ax.texts} == {
        "Proxy-NCA": "50.5",
        "Triplet semi-hard": "60.5",
        "N-pairs": "1 of 2 seeds get there",
        1: "raw ",
    }
    rings = [ring.get_offsets().data.tolist() for ring in ax.collections]
    assert rings[0] == [pytest.approx([50, 0]), pytest.approx([51, 0])]
    assert rings[2] == [pytest.approx([70, 2])]
    means = [
        x for line in ax.lines if line.get_marker() not in ("None", "") for x in line.get_xdata()
    ]
    assert sorted(x for x in means if np.isfinite(x)) == pytest.approx([50.5, 60.5])


def test_method_points_draw_the_interval_of_the_claims():
    values = {"proxy_nca": (0.61, 0.64, 0.7, 0.71, 0.9), "npairs": (0.2, 0.3, 0.31, 0.33, 0.5)}
    rows = [(name, seed, v) for name, vs in values.items() for seed, v in enumerate(vs)]
    table = pd.DataFrame(rows, columns=["method", "seed", "recall_at_1"])
    (ax,) = figures.method_points(table, "recall_at_1", "R@1", scale=100).axes
    bars = [line.get_xdata() for line in ax.lines if line.get_color() == "black"]
    bars = [bar for bar in map(np.unique, bars) if np.isfinite(bar).all()]
    assert bars == [pytest.approx(interval([100 * v for v in vs])[1:]) for vs in values.values()]


def test_method_points_of_methods_that_all_missed_are_rows_without_marks():
    table = benchmark().query("step == 100").assign(recall_at_1=float("inf"))
    (ax,) = figures.method_points(table, "recall_at_1", "R@1").axes
    assert [text.get_text() for text in ax.texts] == ["0 of 2 seeds get there"] * 3
    assert sorted(tick.get_text() for tick in ax.get_yticklabels()) == [
        "N-pairs",
        "Proxy-NCA",
        "Triplet semi-hard",
    ]


def test_rotation_shows_every_seed_and_the_mean():
    rows = [
        (method, seed, angle, 0.8 - angle / 300 - seed / 10)
        for method in ("proxy_nca", "npairs")
        for seed in (0, 1)
        for angle in (0, 30, 90)
    ]
    table = pd.DataFrame(rows, columns=["method", "seed", "angle", "recall_at_1"])
    ax = figures.rotation(table).axes[0]
    seeds, means = drawn(ax, 0.8), drawn(ax, 2.2)
    assert (len(seeds), len(means)) == (2 * 2, 2)
    assert seeds[1] == pytest.approx([70, 60, 40]) and means[0] == pytest.approx([75, 65, 45])
    mean = next(line for line in ax.lines if line.get_linewidth() == 2.2)
    assert mean.get_color() == figures.method_style("proxy_nca")["color"]
    assert ax.get_xticks().tolist() == [0, 30, 90]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["Proxy-NCA", "N-pairs"]
    assert outside(ax)


def test_walk_marks_every_run_and_rings_the_chosen():
    table = pd.DataFrame(
        {
            "method": ["NCA", "NCA", "N-pairs", "N-pairs"],
            "axis": ["start", "lr", "start", "lr"],
            "recall": [50.0, 60.0, 70.0, 65.0],
            "chosen": [False, True, True, False],
        }
    )
    ax = figures.walk(table).axes[0]
    (marks,) = (c.get_offsets().data.tolist() for c in ax.collections if len(c.get_offsets()))
    rings = ax.lines[0].get_xydata().tolist()
    assert marks == [[50, -0.25], [60, 0.25], [70, 0.75], [65, 1.25]]
    assert rings == [[60, 0.25], [70, 0.75]]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["NCA", "N-pairs"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first on top
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["chosen", "start", "lr"]
    assert outside(ax)


def test_walk_gives_as_many_settings_as_there_may_be_a_mark_each(recwarn):
    axes = [f"setting {i}" for i in range(14)]
    table = pd.DataFrame({"method": "NCA", "axis": axes, "recall": 50.0, "chosen": False})
    ax = figures.walk(table).axes[0]
    assert len(ax.get_legend().get_texts()) == 1 + 14
    handles = ax.get_legend().legend_handles
    looks = {(str(handle.get_marker()), str(handle.get_markerfacecolor())) for handle in handles}
    assert len(looks) == 1 + 14
    assert not recwarn


def test_ladder_shows_each_switch_against_what_it_changes():
    rows = [
        *[("first", None, seed, 0.5 + seed / 10) for seed in (0, 1, 2)],
        *[("more", "first", seed, 0.6 + seed / 10) for seed in (0, 1, 2)],
        *[("less", "more", seed, 0.4 + seed / 10) for seed in (0, 1, 2)],
    ]
    table = pd.DataFrame(rows, columns=["setting", "changes", "seed", "recall_at_1"])
    ax = figures.ladder(table).axes[0]
    assert [text.get_text() for text in ax.get_yticklabels()] == ["more", "less"]
    assert [text.get_text() for text in ax.texts] == [
        "10.0 (10.0 to 10.0)",
        "−20.0 (−20.0 to −20.0)",
    ]
    rings = [line.get_xdata() for line in ax.lines if line.get_markerfacecolor() == "none"]
    np.testing.assert_allclose(rings, [[10] * 3, [-20] * 3])
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # in the table's order, from the top
    one = figures.ladder(table[table["seed"] == 0]).axes[0]
    assert [text.get_text() for text in one.texts] == ["10.0", "−20.0"]


def test_rings_are_within_the_axes():
    rows = [(name, seed, 0.1 + seed * 0.4) for name in ("nca", "npairs") for seed in (0, 1)]
    table = pd.DataFrame(rows, columns=["method", "seed", "recall_at_1"])
    low, high = figures.method_points(table, "recall_at_1", "", scale=100).axes[0].get_xlim()
    assert low < 10 and high > 50  # two seeds have no interval that would reach so far


def test_bars_are_within_the_axes():
    values = [0.1, 0.1, 0.1, 0.1, 0.5]
    table = pd.DataFrame({"method": "nca", "seed": range(5), "recall_at_1": values})
    table = pd.concat([table, table.assign(method="npairs", recall_at_1=0.2)])
    _, low, high = interval(100 * pd.Series(values))
    limits = figures.method_points(table, "recall_at_1", "", scale=100).axes[0].get_xlim()
    assert low < 1 and limits[0] < low and limits[1] > max(high, 50)


def test_every_method_has_its_own_look():
    looks = [
        (style["color"], style["marker"])
        for name, style in ((name, figures.method_style(name)) for name in METHODS)
        if not name.startswith("dynamic")  # looks like Proxy-NCA, which it is
    ]
    assert len(set(looks)) == len(looks) == len(METHODS) - 2
    for end in ("", "_free"):
        dynamic, static = (figures.method_style(name + end) for name in ("dynamic", "proxy_nca"))
        assert dynamic["color"] == static["color"]
    assert figures.method_label("dynamic") == "Proxy-NCA, dynamic"
    lines = {name: figures.method_style(name)["linestyle"] for name in METHODS}
    dashed = {name for name, line in lines.items() if line == "--"}
    assert dashed - set(SUCCESSORS) == {*BASELINES, "softmax"}
    assert dashed & set(SUCCESSORS) == {"multi_similarity", "supcon"}


@pytest.mark.parametrize(
    "values, expected",
    [
        ([1.0, 5.0], [1, 5]),
        ([5.0, 5.0], [4, 6]),
        ([1.0, 1.0, 2.5], [-0.5, 1.5, 3.5]),  # a third that touches moves all three
    ],
)
def test_spread_keeps_a_gap_and_the_order(values, expected):
    np.testing.assert_allclose(spread(np.array(values), 2.0), expected)

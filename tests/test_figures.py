import json

import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch

from proxylib import figures
from proxylib.bounds import tight_example
from proxylib.datasets import Dataset


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
    assert (solid.get_edgecolor(), solid.get_linestyle()) != (
        dashed.get_edgecolor(),
        dashed.get_linestyle(),
    )


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


def test_convergence_shows_every_seed():
    rows = [{"step": s, "seed": k, "recall_at_1": 0.1 * s} for k in (0, 1, 2) for s in (0, 1)]
    fig = figures.convergence(pd.DataFrame(rows))
    labels = fig.axes[0].get_legend_handles_labels()[1]
    assert labels == ["seed 0", "seed 1", "seed 2", "Proxy-NCA, mean"]
    assert fig.axes[0].get_ylabel() == "Recall@1 (%)"


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
    assert len(fig.axes[0].lines) == 10  # 3 methods × (2 seeds + mean), and the target
    bold = [line for line in fig.axes[0].lines if line.get_linewidth() == 2.2]
    assert bold[0].get_ydata().tolist() == pytest.approx([0.5, 25.5, 50.5])
    names = [text.get_text() for text in fig.axes[1].texts]
    assert names == ["Proxy-NCA", "Triplet semi-hard", "N-pairs"]  # from the lowest end up
    heights = [text.xy[1] for text in fig.axes[1].texts]
    assert heights == sorted(heights)
    assert fig.axes[0].child_axes[0].get_xlabel() == "epochs"


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
    notes = [text.get_text() for text in ax.texts]
    assert notes == [
        "50.5 (50.0 to 51.0)",
        "60.5 (60.0 to 61.0)",
        "1 of 2 seeds get there",
        "raw ",
    ]

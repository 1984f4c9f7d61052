import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from proxylib.study import figures
from proxylib.study.claims.statistics import interval
from proxylib.study.methods import BASELINES


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def swept(seeds=(0, 1), curves=("static",), **columns):
    rows = [(c, r, s, r / 3 + s / 100) for c in curves for r in (0.5, 1.0, 2.0) for s in seeds]
    return pd.DataFrame(rows, columns=["curve", "ratio", "seed", "recall_at_1"]).assign(**columns)


def baselines(values=(0.3, 0.3, 0.3, 0.31, 0.5, 0.6), seeds=(0, 1)):
    rows = [(m, s, v + s / 50) for m, v in zip(BASELINES, values, strict=True) for s in seeds]
    return pd.DataFrame(rows, columns=["method", "seed", "recall_at_1"])


def test_proxy_ratio_shows_every_seed_the_means_and_every_baseline():
    fig = figures.proxy_ratio(swept(), baselines())
    (ax,) = fig.axes
    assert len(ax.collections[0].get_offsets()) == 3 * 2
    np.testing.assert_allclose(ax.lines[0].get_ydata(), 100 * (np.array([0.5, 1, 2]) / 3 + 0.005))
    assert [t.get_text() for t in ax.get_xticklabels()] == ["0.5", "1", "2"]
    assert ax.get_xscale() == "log"
    assert {text.get_text().rsplit(" ", 1)[0] for text in ax.texts} == {
        figures.method_label(name) for name in BASELINES
    }


def test_names_of_equal_baselines_do_not_cover_each_other():
    fig = figures.proxy_ratio(swept(), baselines())
    fig.canvas.draw()
    boxes = sorted((t.get_window_extent() for t in fig.axes[0].texts), key=lambda box: box.y0)
    assert all(low.y1 <= high.y0 + 1 for low, high in itertools.pairwise(boxes))


def test_bars_are_the_intervals_of_the_claims():
    table = swept(seeds=(0, 1, 2, 5, 9))
    (ax,) = figures.proxy_ratio(table, baselines()).axes
    (bars,) = ax.containers
    drawn = [segment[:, 1] for segment in bars.lines[2][0].get_segments()]
    values = [100 * rows["recall_at_1"] for _, rows in table.groupby("ratio")]
    np.testing.assert_allclose(drawn, [interval(v)[1:] for v in values])


def test_equal_seeds_have_an_interval_without_width():
    table = swept(seeds=(0, 0, 0))  # a third each: their mean and its rounded bounds must agree
    figures.proxy_ratio(table.assign(recall_at_1=1 / 3), baselines()).canvas.draw()


def test_four_curves_differ_by_colour_line_and_marker():
    fig = figures.proxy_ratio(swept(curves="abcd"), baselines())
    fig.canvas.draw()
    legend = fig.axes[0].get_legend()
    assert not fig.axes[0].bbox.overlaps(legend.get_window_extent())  # hides no data
    assert [text.get_text() for text in legend.get_texts()] == [*"abcd"]
    handles = legend.legend_handles
    looks = [(h.get_color(), h.get_marker(), str(h._dash_pattern)) for h in handles]
    assert all(len(set(look)) == 4 for look in zip(*looks, strict=True))


def test_one_seed_has_no_interval_and_no_warning(recwarn):
    fig = figures.proxy_ratio(swept(seeds=(0,)), baselines(seeds=(0,)))
    fig.canvas.draw()
    assert not fig.axes[0].patches  # no band
    assert not [w for w in recwarn if issubclass(w.category, UserWarning | RuntimeWarning)]


def test_published_values_and_proxies_in_use_have_their_own_panels():
    fig = figures.proxy_ratio(swept(in_use=0.5), baselines(), published={0.5: 60.0, 2.6: 65.0})
    labels = [ax.get_ylabel() for ax in fig.axes]
    assert labels == ["Recall@1 (%)", "proxies in use (%)", "Recall@1 (%), published"]
    assert fig.axes[2].lines[0].get_ydata().tolist() == [60.0, 65.0]
    assert len(figures.proxy_ratio(swept(), baselines(), published={1.0: 60.0}).axes) == 2


def test_switches_keeps_the_order_and_leaves_out_what_has_no_value():
    table = pd.DataFrame(
        {
            "setting": ["on", "on", "off", "static"],
            "seed": [0, 1, 0, 0],
            "recall_at_1": [0.6, 0.7, 0.1, 0.8],
            "in_use": [1.0, 1.0, 0.01, float("nan")],
        }
    )
    fig = figures.switches(table, {"recall_at_1": "Recall@1", "in_use": "proxies in use"})
    left, right = fig.axes
    assert [t.get_text() for t in left.get_yticklabels()] == ["on", "off", "static"]
    assert left.get_ylim()[0] > left.get_ylim()[1]  # the first on top
    assert {t.xy[1]: t.get_text() for t in left.texts} == {"on": "65", "off": "10", "static": "80"}
    assert {t.xy[1]: t.get_text() for t in right.texts} == {"on": "100", "off": "1"}
    assert left.collections[0].get_offsets().data.tolist() == [[60, 0], [70, 0]]
    assert left.lines[0].get_xdata().tolist() == pytest.approx([65, 10, 80])  # the means


def test_occupancy_sorts_the_proxies_and_greys_the_dead():
    points = {
        "one way": {10: np.array([0, 5, 1, 2]), 20: np.array([8, 0, 0, 0])},
        "other": {10: np.array([2, 2, 2, 2]), 20: np.array([1, 2, 4, 1])},
    }
    fig, table = figures.occupancy(points)
    axes = np.array(fig.axes).reshape(2, 2)
    assert [ax.get_title() for ax in axes[0]] == ["step 10", "step 20"]
    assert [line[0].get_ylabel() for line in axes] == ["one way", "other"]
    shares = [[ax.texts[0].get_text() for ax in line] for line in axes]
    assert shares == [["25% dead", "75% dead"], ["0% dead", "0% dead"]]
    heights = [bar.get_height() for bar in axes[0, 0].patches[:4]]
    assert heights == [5, 2, 1, 0]
    assert axes[0, 0].lines[0].get_ydata()[0] == 2  # the mean
    shown = table[(table["way"] == "other") & (table["step"] == 20)]
    assert shown["points"].tolist() == [4, 2, 1, 1] and shown["rank"].tolist() == [1, 2, 3, 4]

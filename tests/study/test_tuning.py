"""Choosing settings: an equal walk for every method."""

import pandas as pd
import pytest

from proxylib.study import tuning
from proxylib.study.methods import BENCHMARK, REFERENCES, Axis
from proxylib.study.runs import RunConfig
from proxylib.study.runs.config import describe
from proxylib.study.settings import RECIPES, SHARED, STARTS, at_batch, resolve
from proxylib.study.tuning import axes, first_settings, other_batch, tune

TINY = {"data_options": {"n_classes": 16, "n_images": 8}}


def first(recipe="study"):
    """Where the walks from both starts begin, if those from a random one have chosen nothing."""
    chosen = {"random": first_settings("random", recipe, {})}
    return chosen | {"pretrained": first_settings("pretrained", recipe, chosen)}


def test_an_axis_tries_the_nearest_other_values():
    axis = Axis(("lr",), (1, 2, 4, 8), 2)
    assert [s["lr"] for s in axis.alternatives({"lr": 2, "x": 0})] == [1, 4]
    assert [s["lr"] for s in axis.alternatives({"lr": 8})] == [4, 2]
    assert [s["lr"] for s in axis.alternatives({"lr": 3})] == [2, 4]  # not on the grid
    both = Axis(("a", "b"), (1, 2), 1)
    assert both.alternatives({"a": 1, "b": 1, "c": 5}) == [{"a": 2, "b": 2, "c": 5}]


@pytest.mark.parametrize("recipe", ["study", "photos"])
@pytest.mark.parametrize("start", STARTS)
def test_every_method_gets_as_many_tries(start, recipe):
    walks = axes(start, recipe)
    tries = {"study": (9, 6), "photos": (11, 8)}[recipe][STARTS.index(start)]
    assert {sum(axis.tries for axis in walk) for walk in walks.values()} == {tries}
    assert len({len(walk) for walk in walks.values()}) == 1
    for walk in walks.values():
        assert [axis.names for axis in walk].count(("batch_norm",)) == 1


def test_who_walks_from_where():
    """With photos there is one network to start from, so only what a random start lacks is left."""
    random = {*BENCHMARK, *REFERENCES}
    assert axes("random").keys() == axes("random", "photos").keys() == random
    assert axes("pretrained").keys() == {*BENCHMARK, "dynamic", "dynamic_free"}
    assert axes("pretrained", "photos").keys() == {"dynamic", "dynamic_free"}


def test_photos_have_axes_of_their_own():
    names = [axis.names[0] for axis in axes("random", "photos")["proxy_nca"]]
    assert names == [
        *("batch_size", "embedding_norm"),
        *("lr", "embedding_start", "dropout"),
        *("batch_norm", "proxy_lr"),
    ]
    names = [axis.names[0] for axis in axes("pretrained", "photos")["dynamic"]]
    assert names == ["batch_norm", "lr", "embedding_start", "dropout", "proxy_lr"]


@pytest.mark.parametrize("recipe", ["study", "photos"])
def test_every_axis_is_a_setting_of_its_method_and_has_other_values(recipe):
    starts = first(recipe)
    for start in STARTS:
        for name, walk in axes(start, recipe).items():
            everything = []
            for axis in walk:
                tried = axis.alternatives(starts[start][name])
                assert len(tried) == axis.tries
                everything += tried
                for settings in tried:  # `resolve` refuses what it does not know
                    made = {"presets": {start: {name: settings}}, "data_options": {"size": 32}}
                    config = resolve(name, start=start, recipe=recipe, **made)
                    got = describe(config) | dict(config.options)
                    assert all(got[n] == settings[n] for n in axis.names)
            assert all(everything.count(settings) == 1 for settings in everything), name


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_walk_from_a_random_start_begins_at_the_defaults(recipe):
    settings = first_settings("random", recipe, {})
    assert settings.keys() == {*BENCHMARK, *REFERENCES}
    for name, values in settings.items():
        expected = resolve(name, recipe=recipe, dataset="kanji", data_options={"size": 32})
        tuned = {"random": {name: values}}
        config = resolve(
            name, recipe=recipe, dataset="kanji", data_options={"size": 32}, presets=tuned
        )
        assert config == expected, name
        own = {n for axis in axes("random", recipe)[name] for n in axis.names}
        assert values.keys() == {*SHARED, *own}
    assert first_settings("random", "patent", {})["nca"]["per_class"] == 2


def test_a_walk_from_the_pretrained_start_begins_at_what_was_chosen():
    chosen = {"random": first_settings("random", "study", {})}
    chosen["random"]["nca"]["margin"] = "as chosen"
    chosen["random"]["proxy_nca"] = {
        **{"batch_size": 128, "lr": 0.004, "proxy_lr": 0.8, "augment": True, "batch_norm": False},
        **{"embedding_norm": 4.0, "proxy_norm": 4.0},
    }
    chosen["random"]["proxy_nca_free"] |= {"lr": 0.008, "weight_decay": 1e-4}
    settings = first_settings("pretrained", "study", chosen)
    assert list(settings)[-2:] == [n for n in axes("pretrained", "study") if "dynamic" in n]
    dynamic, free = settings.pop("dynamic"), settings.pop("dynamic_free")
    assert (free["lr"], free["weight_decay"], free["proxy_lr"]) == (0.008, 1e-4, 0.02)
    assert free["embedding_norm"] is free["proxy_norm"] is None
    assert free["assignment"] == "dynamic" and free["batch_norm"]
    assert settings == chosen["random"] and settings["nca"] is not chosen["random"]["nca"]
    assert dynamic == {
        # Proxy-NCA's, but in batches as the method has them, and what the method adds
        **{"batch_size": 32, "lr": 0.002, "embedding_norm": 4.0, "proxy_norm": 4.0},
        **{"proxy_lr": 0.02, "augment": False, "batch_norm": True},
        **{"assignment": "dynamic", "n_triplets": 64_000, "reassign_every": 25},
        "restart_dead": True,
    }


class Result:
    def __init__(self, recall):
        self.metrics = {"recall_at_1": recall}


def landscape(monkeypatch, height):
    """Runs are looked up instead of trained; `height` of a configuration, None = it diverges."""
    seen = []

    def sweep(configs, jobs, progress, keep_diverged):
        assert keep_diverged
        seen.append(configs)
        heights = [height(config) for config in configs]
        return [FloatingPointError() if h is None else Result(h) for h in heights]

    monkeypatch.setattr(tuning, "sweep", sweep)
    return seen


def test_a_walk_keeps_what_is_better(monkeypatch):
    """The walk on a made-up landscape: R@1 is highest at batch 128, norm 4 and rate 4e-3."""

    def height(config):
        recall = 0.5 + 0.1 * (config.batch_size == 128)
        recall -= 0.05 * abs(4 - dict(config.options)["proxy_norm"]) + 20 * abs(config.lr - 4e-3)
        return None if config.lr > 6e-3 else recall

    landscape(monkeypatch, height)
    table = tune({}, {"proxy_nca": first()["random"]["proxy_nca"]}, 100)
    assert len(table) == 10 and table["chosen"].sum() == 1
    columns = ["method", "round", "axis", "settings", "recall_at_1", "diverged", "chosen"]
    assert list(table) == columns
    names = ["", "batch_size", *["embedding_norm"] * 2, *["lr"] * 2, "augment", "batch_norm"]
    assert table["axis"].tolist() == [*names, *["proxy_lr"] * 2]
    assert table["round"].tolist() == [0] + [1] * 9
    [best] = table[table["chosen"]]["settings"]
    assert (best["batch_size"], best["proxy_norm"], best["lr"]) == (128, 4.0, 4e-3)
    assert best["embedding_norm"] == 4.0 and best["augment"] is True
    assert table.loc[table["chosen"], "recall_at_1"].item() == table["recall_at_1"].max()
    assert table["chosen"].tolist().index(True) == 5  # of equals the first
    assert not table["diverged"].any()


def test_the_second_pass_begins_where_the_first_ended(monkeypatch):
    """R@1 grows with the learning rate, once there is batch norm: the first pass sees it late."""

    def height(config):
        return 0.1 + 0.1 * config.batch_norm + (20 * config.lr if config.batch_norm else 0)

    landscape(monkeypatch, height)
    start = first()["random"]["semihard"]
    once = tune({}, {"semihard": start}, 100, n_axes=5)
    twice = tune({}, {"semihard": start}, 100, n_axes=5, passes=2)
    assert len(once) == 8 and twice[:8].drop(columns="chosen").equals(once.drop(columns="chosen"))
    assert twice["round"].tolist() == [0] + [1] * 7 + [2] * 7
    assert twice["axis"].tolist()[8:] == once["axis"].tolist()[1:]
    [end], [again] = (table[table["chosen"]]["settings"] for table in (once, twice))
    assert end == start | {"batch_norm": True}
    second = twice[twice["round"] == 2]["settings"].tolist()
    assert second[0] == at_batch(end, 128) == again | {"lr": 2e-3}  # the first try of the pass
    assert again["lr"] == 4e-3
    tried = [settings["lr"] for settings in twice["settings"][twice["axis"] == "lr"]]
    assert tried == [5e-4, 2e-3, 1e-3, 4e-3]


def test_rates_go_with_the_batch_size_and_what_diverges_counts_as_nothing(monkeypatch):
    def height(config):
        if config.lr > 3e-3:
            return None
        return 0.2 + 0.1 * (config.batch_size == 128)

    seen = landscape(monkeypatch, height)
    start = first()["random"]["nca"]
    table = tune({"seed": 5}, {"nca": start}, 300)
    tried = table["settings"].tolist()
    assert tried[0] == start and tried[1] == at_batch(start, 128)
    assert (tried[1]["lr"], tried[1]["proxy_lr"]) == (2e-3, 0.2)
    rates = [settings["lr"] for settings in tried]
    of_axis = [rate for rate, axis in zip(rates, table["axis"], strict=True) if axis == "lr"]
    assert of_axis == [1e-3, 4e-3]  # the neighbours of the rate that goes with 128
    assert table["diverged"].tolist() == [rate == 4e-3 for rate in rates]
    assert table.loc[table["diverged"], "recall_at_1"].tolist() == [0.0]
    assert table["chosen"].tolist().index(True) == 1
    for config in (config for stage in seen for config in stage):
        assert config.steps * config.batch_size == 300 * 32
        assert config.eval_every == 0 and config.seed == 5 and config.init == "random"


def test_a_walk_at_the_other_batch_size_stays_there(monkeypatch):
    """Claim C10 compares two batch sizes, each with settings of its own."""
    seen = landscape(monkeypatch, lambda config: 0.5 + 10 * config.lr)
    start = other_batch(first()["random"]["proxy_nca"])
    assert start == at_batch(first()["random"]["proxy_nca"], 128)
    assert other_batch(start) == first()["random"]["proxy_nca"]
    table = tune({}, {"proxy_nca": start}, 300, same_batch=True)
    assert {config.batch_size for stage in seen for config in stage} == {128}
    walks = sum(axis.tries for axis in axes("random")["proxy_nca"])
    assert len(table) == walks and "batch_size" not in {*table["axis"]}  # one try fewer, the start
    assert table.loc[table["chosen"], "settings"].item()["lr"] > start["lr"]


def test_if_all_diverge_the_start_stays(monkeypatch):
    landscape(monkeypatch, lambda config: None)
    table = tune({}, {"lifted": first()["random"]["lifted"]}, 100)
    assert table["diverged"].all() and (table["recall_at_1"] == 0).all()
    assert table["chosen"].tolist() == [True] + [False] * 9


def test_all_methods_walk_side_by_side_from_either_start(monkeypatch):
    for start in STARTS:
        seen = landscape(monkeypatch, lambda config: 0.5)
        starts = {name: first()[start][name] for name in axes(start)}
        table = tune(TINY, starts, 4, start, n_axes=2)
        n, tries = len(starts), sum(axis.tries for axis in axes(start)["nca"][:2])
        assert len(table) == n * (1 + tries) and len(seen) == 3
        assert table["method"].tolist()[:n] == list(starts)
        assert {config.init for stage in seen for config in stage} == {start}
        assert table["chosen"].tolist() == [True] * n + [False] * n * tries  # no better, not kept
        for config, name in zip(seen[0], starts, strict=True):
            assert config.method == name


def test_a_recipe_is_walked_with_its_network(monkeypatch):
    seen = landscape(monkeypatch, lambda config: 0.5)
    base = {"recipe": "today", "data_options": {"size": 32, "n_classes": 300, "n_images": 4}}
    tune(base, {"proxy_nca": first("today")["random"]["proxy_nca"]}, 100, n_axes=1)
    [[config], [other]] = seen
    assert (config.backbone, config.init, config.batch_size) == ("resnet50", "pretrained", 128)
    assert (other.batch_size, other.lr) == (32, config.lr / 2)


def test_what_the_last_pass_gained():
    rows = [("a", 0, 0.2), ("b", 0, 0.5), ("a", 1, 0.4), ("b", 1, 0.3), ("a", 2, 0.45), ("b", 2, 0)]
    walk = pd.DataFrame(rows, columns=["method", "round", "recall_at_1"])
    assert tuning.last_gain(walk).to_dict() == pytest.approx({"a": 0.05, "b": 0.0})
    assert tuning.last_gain(walk[walk["round"] < 2]).to_dict() == pytest.approx({"a": 0.2, "b": 0})


def test_tune_for_real(home):
    names = ("proxy_nca", "semihard")
    starts = {name: at_batch(first()["random"][name], 8) for name in names}
    base = TINY | {"dim": 8, "split": "validation"}
    table = tune(base, starts, budget=2, n_axes=1, jobs=1, progress=False)
    assert list(table["method"]) == ["proxy_nca", "semihard", "proxy_nca", "semihard"]
    assert table.groupby("method")["chosen"].sum().eq(1).all()
    assert table["recall_at_1"].between(0, 1).all() and not table["diverged"].any()
    assert RunConfig(**base | {"method": "nca"}).data()[0].n_classes == 4

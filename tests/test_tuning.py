from dataclasses import replace

import pytest

from proxylib import tuning
from proxylib.config import RunConfig
from proxylib.experiments import NORMS, Study, presets_file, read_presets, write_presets
from proxylib.methods import METHODS
from proxylib.runs import run
from proxylib.tuning import AXES, Axis, expand, pretrained_settings, registry_settings, tune

TINY = {"data_options": {"n_classes": 16, "n_images": 8}}


def test_an_axis_tries_the_nearest_other_values():
    axis = Axis(("lr",), (1, 2, 4, 8), 2)
    assert [s["lr"] for s in axis.alternatives({"lr": 2, "x": 0})] == [1, 4]
    assert [s["lr"] for s in axis.alternatives({"lr": 8})] == [4, 2]
    assert [s["lr"] for s in axis.alternatives({"lr": 3})] == [2, 4]  # not on the grid
    both = Axis(("a", "b"), (1, 2), 1)
    assert both.alternatives({"a": 1, "b": 1, "c": 5}) == [{"a": 2, "b": 2, "c": 5}]


@pytest.mark.parametrize("init", AXES)
def test_every_method_gets_as_many_tries(init):
    assert AXES[init].keys() == {*METHODS, *({"dynamic"} if init == "pretrained" else ())}
    assert len({sum(axis.tries for axis in walk) for walk in AXES[init].values()}) == 1


def test_every_axis_is_a_setting_of_its_method_and_has_other_values():
    random = {name: registry_settings(name) for name in METHODS}
    starts = {"random": random, "pretrained": pretrained_settings(random)}
    for init, walks in AXES.items():
        for name, walk in walks.items():
            for axis in walk:
                tried = axis.alternatives(starts[init][name])
                assert len(tried) == axis.tries
                for settings in tried:
                    RunConfig(**expand(name, settings, 10))  # refuses what it does not know
            everything = [t for axis in walk for t in axis.alternatives(starts[init][name])]
            assert all(everything.count(settings) == 1 for settings in everything), name


def test_batches_of_128_see_as_many_samples_at_twice_the_rate():
    settings = registry_settings("proxy_nca")
    a = RunConfig(**expand("proxy_nca", settings, 3000))
    b = RunConfig(**expand("proxy_nca", settings | {"batch_size": 128}, 3000))
    assert a.steps * a.batch_size == b.steps * b.batch_size == 96_000
    assert (b.lr, b.proxy_lr) == (2 * a.lr, 2 * a.proxy_lr)
    assert expand("proxy_nca", settings | {"batch_size": 128}, 1)["steps"] == 1


def test_the_registry_is_where_a_walk_starts():
    for name, method in METHODS.items():
        config = RunConfig(**expand(name, registry_settings(name), 3000))
        assert config == RunConfig(method=name), method


def test_a_walk_keeps_what_is_better(monkeypatch):
    """The walk on a made-up landscape: R@1 is highest at batch 128, norm 4 and rate 2e-3."""

    class Result:
        def __init__(self, config):
            options = dict(config.options)
            recall = 0.5 + 0.1 * (config.batch_size == 128) - 0.05 * abs(4 - options["proxy_norm"])
            recall -= 20 * abs(config.lr - 4e-3)  # 2e-3 in the unit of batches of 32
            self.metrics = {"recall_at_1": recall}

    def sweep(configs, jobs, progress, keep_diverged):
        return [FloatingPointError() if c.lr > 6e-3 else Result(c) for c in configs]

    monkeypatch.setattr(tuning, "sweep", sweep)
    table = tune(RunConfig(), {"proxy_nca": registry_settings("proxy_nca")}, 100)
    assert len(table) == 9 and table["chosen"].sum() == 1
    [best] = table[table["chosen"]]["settings"]
    assert (best["batch_size"], best["proxy_norm"], best["lr"]) == (128, 4.0, 2e-3)
    assert table.loc[table["chosen"], "recall_at_1"].item() == table["recall_at_1"].max()
    assert (table.loc[table["diverged"], "recall_at_1"] == 0).all()


def test_tune_for_real(home, tmp_path):
    base = replace(RunConfig(**TINY), dim=8)
    names = ("proxy_nca", "semihard")
    starts = {name: registry_settings(name) | {"batch_size": 8} for name in names}
    table = tune(base, starts, steps=2, n_axes=1, jobs=1, progress=False)
    assert list(table["method"]) == ["proxy_nca", "semihard", *["proxy_nca"] * 1, "semihard"]
    assert table.groupby("method")["chosen"].sum().eq(1).all()


# presets


def presets():
    random = {name: registry_settings(name) for name in METHODS}
    return {"random": random, "pretrained": pretrained_settings(random)}


def test_presets_are_written_and_read(tmp_path):
    path = tmp_path / "deep" / "presets.yaml"
    write_presets(path, presets(), "By hand.")
    assert read_presets(path) == presets()
    assert path.read_text().startswith("# By hand.\n")


def test_the_committed_presets_make_runs():
    study = Study(
        dataset="kanji", presets=read_presets(presets_file("kanji")), steps=9, seeds=(1, 2)
    )
    for init, names in AXES.items():
        for name in names:
            assert [run.seed for run in study.runs(name, init)] == [1, 2]
    assert len(study.benchmark()) == 2 * len(METHODS)
    assert study.static([1])[0] == study.runs("proxy_nca")[0]
    assert {dict(run.options)["ratio"] for run in study.dynamic([0.5, 2])} == {0.5, 2.0}
    assert study.bounds().keys() == NORMS.keys()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "under 'random' expected settings of proxy_nca"),
        ("random: {proxy_nca: {}}", "missing or unknown: contrastive"),
    ],
)
def test_bad_presets_are_refused(tmp_path, content, message):
    path = tmp_path / "presets.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_presets(path)


def test_presets_are_looked_for_where_the_tuning_leaves_them(home, tmp_path):
    assert presets_file("folder").parent.name == "kanji-full"
    mine = home / "figures" / "folder-full" / "presets.yaml"
    write_presets(mine, presets(), "Mine.")
    assert presets_file("folder") == mine
    with pytest.raises(FileNotFoundError, match=r"presets='x\.yaml': no such file; A1_tuning"):
        presets_file("folder", "x.yaml")


def test_a_small_data_set_gets_smaller_batches(home, image_tree):
    """Three training classes of five images: every method still runs."""
    study = Study(
        dataset="folder", data_root=str(image_tree), presets=presets(), steps=2, seeds=(0,)
    )
    sizes = {name: study.runs(name, batch_size=128)[0].batch_size for name in METHODS}
    assert sizes["proxy_nca"] == 14 and sizes["npairs"] == 6 and sizes["semihard"] == 12
    for config in study.benchmark():
        assert run(config).history["loss"].notna().sum() > 0
    big = Study(dataset="kanji", presets=presets(), steps=2, seeds=(0,))
    assert {config.batch_size for config in big.benchmark()} == {32}


def test_a_recipe_brings_its_network_and_settings_that_fit(home, larger_tree):
    file = presets_file("cub200")
    assert file == presets_file("kanji", recipe="today") and file.name == "presets-backbone.yaml"
    assert presets_file("folder").parent.name == "kanji-full"
    presets = read_presets(file)
    study = Study(
        dataset="folder",
        data_root=str(larger_tree),
        presets=presets,
        steps=8,
        seeds=(0,),
        recipe="patent",
    )
    for runs in (study.runs("semihard"), study.dynamic([0.5])):
        [run] = runs
        assert (run.backbone, run.init, run.crop) == ("googlenet", "pretrained", 227)
        assert dict(run.data_options) == {"size": 256} and not run.augment
    assert run.batch_norm and dict(run.options)["assignment"] == "dynamic"
    assert Study(dataset="cub200", presets=presets, steps=1, seeds=(0,)).recipe == "patent"
    small = Study(dataset="cub200", presets=presets, steps=1, seeds=(0,), recipe="study")
    assert dict(small.data_options) == {"size": 32}
    with pytest.raises(ValueError, match="recipe='best'"):
        replace(study, recipe="best")

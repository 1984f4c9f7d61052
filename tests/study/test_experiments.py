"""The study's experiments: which runs answer which question."""

import dataclasses
import math
import warnings

import pytest
import torch

from proxylib.datasets import Dataset
from proxylib.study.experiments import NORMS, PATENT_RULE, Study, milliseconds_a_step
from proxylib.study.methods import BASELINES, BENCHMARK, METHODS, REFERENCES
from proxylib.study.presets import OTHER_BATCH, find_presets, read_presets, write_presets
from proxylib.study.runs import RunConfig, run
from proxylib.study.settings import RECIPES

SMALL = {"dataset": "folder", "steps": 8, "seeds": (0,)}


def kanji(**changes):
    return Study(**{"dataset": "kanji", "steps": 9, "seeds": (1, 2)} | changes)


def test_the_committed_presets_make_runs():
    study = kanji()
    assert study.recipe == "study" and study.presets_file == find_presets("kanji")
    assert study.settings == read_presets(study.presets_file)
    for start in ("random", "pretrained"):
        for name, values in study.settings[start].items():
            found = study.runs(name, start)
            assert [run.seed for run in found] == [1, 2]
            assert {(run.method, run.init) for run in found} == {(name, start)}
            assert {run.lr for run in found} == {values["lr"]}
    assert study.runs("lifted", dim=8)[0].dim == 8


@pytest.mark.parametrize("start", ["random", "pretrained"])
def test_the_benchmark_is_every_method_but_dynamic_with_as_many_samples(start):
    runs = kanji(steps=120).benchmark(start)
    assert [run.method for run in runs] == [name for name in BENCHMARK for _ in (1, 2)]
    assert {run.init for run in runs} == {start}
    assert {run.steps * run.batch_size for run in runs} == {120 * 32}
    assert len({run.batch_size for run in runs}) == 2  # some were tuned to larger batches


@pytest.fixture
def photographs(monkeypatch):
    """Data of any name that fills any batch, in place of photographs that are not there."""
    labels = torch.arange(100).repeat_interleave(4)
    data = Dataset("photos", torch.zeros(400, 1, 1, 1), labels, tuple(map(str, range(100))))
    monkeypatch.setattr(RunConfig, "data", lambda config: (data, data))


@pytest.mark.filterwarnings("ignore:.*tuned")
@pytest.mark.parametrize("dataset", ["cars196-half", "grocery", "cub200"])
def test_references_are_compared_where_a_pretrained_network_is_trained(photographs, dataset):
    study = kanji(dataset=dataset)
    names = [name for name in (*BENCHMARK, *REFERENCES) for _ in (1, 2)]
    assert [run.method for run in study.benchmark()] == names
    assert {run.init for run in study.benchmark()} == {"pretrained"}
    small = kanji(dataset=dataset, recipe="study").benchmark()
    assert {run.method for run in small} == {*BENCHMARK}


@pytest.mark.filterwarnings("ignore:.*tuned")
def test_some_methods_are_compared_with_proxy_nca_in_the_usual_order(photographs):
    some = kanji(dataset="grocery", seeds=(1,)).benchmark(only=["softmax", "semihard"])
    assert [run.method for run in some] == ["proxy_nca", "semihard", "softmax"]
    with pytest.raises(ValueError, match="softmax, dynamic: not compared by recipe 'study'; expe"):
        kanji().benchmark(only=["softmax", "npairs", "dynamic"])
    with pytest.raises(ValueError, match="proxy_triplet: no baseline; expected one or more of"):
        kanji().benchmark(only=["proxy_triplet"])


def test_the_settings_are_named():
    assert kanji().presets_name == "presets.yaml"
    assert kanji(recipe="today").presets_name == "defaults"


def test_experiments_on_the_number_of_proxies():
    study = kanji()
    assert study.static([1]) == study.runs("proxy_nca")
    assert [dict(run.options)["ratio"] for run in study.static([0.5, 2])] == [0.5, 0.5, 2.0, 2.0]
    dynamic = study.dynamic([0.5, 2])
    assert [dict(run.options)["ratio"] for run in dynamic] == [0.5, 0.5, 2.0, 2.0]
    for found in dynamic:
        options = dict(found.options)
        assert (options["assignment"], options["n_triplets"]) == ("dynamic", 64_000)
        assert found.init == "pretrained" and found.batch_norm and options["restart_dead"]
    for found in study.dynamic([1], **PATENT_RULE):
        assert not found.batch_norm and not dict(found.options)["restart_dead"]
        assert dict(found.options)["assignment"] == "dynamic"


@pytest.mark.filterwarnings("ignore:.*not tuned")
def test_sweeps_are_made_with_free_norms_too():
    study = kanji()
    assert study.static([1], "free") == study.runs("proxy_nca_free")
    for config in (*study.static([0.5], "free"), *study.dynamic([0.5], "free")):
        options = dict(config.options)
        assert options["proxy_norm"] is options["embedding_norm"] is None
        assert options["ratio"] == 0.5
    assert {config.method for config in study.dynamic([1], "free")} == {"dynamic_free"}
    with pytest.raises(KeyError):
        study.static([1], "both")


@pytest.mark.filterwarnings("ignore:.*tuned")
def test_dynamic_runs_on_photographs_are_evaluated_at_both_ends_only(photographs):
    photos = kanji(dataset="grocery", steps=400)
    assert {run.eval_every for run in photos.dynamic([0.5])} == {0}
    assert {run.eval_every for run in photos.dynamic([0.5], eval_every=50)} == {50}
    assert {run.eval_every for run in photos.runs("proxy_nca")} == {50}
    assert {run.eval_every for run in kanji(steps=400).dynamic([0.5])} == {50}


def test_baselines_start_exactly_as_dynamic_assignment_does():
    study = kanji()
    for batch_norm in (True, False):
        runs = study.baselines(batch_norm)
        assert [run.method for run in runs] == [name for name in BASELINES for _ in (1, 2)]
        assert {(run.init, run.batch_norm) for run in runs} == {("pretrained", batch_norm)}
    assert set(study.runs("npairs", "pretrained")) & set(study.baselines(True))


def test_milliseconds_a_step_are_those_of_the_committed_measurement():
    runs = [kanji().runs(name)[0] for name in ("npairs", "proxy_nca")]
    found = milliseconds_a_step([*runs, dataclasses.replace(runs[1], batch_size=99)])
    assert found.keys() == {"npairs", "proxy_nca"} and all(1 < ms < 200 for ms in found.values())
    assert milliseconds_a_step([dataclasses.replace(runs[1], batch_size=99)]) == {}
    assert milliseconds_a_step([dataclasses.replace(runs[1], dataset="grocery")]) == {}


def test_bounds_are_of_the_registry_and_recorded(tmp_path):
    tuned = {"batch_size": 32, "lr": 0.5, "proxy_lr": 0.25, "augment": False, "batch_norm": True}
    write_presets(tmp_path / "mine.yaml", {"random": {"proxy_nca": tuned}}, "Mine: not taken.")
    study = kanji(steps=80, presets=str(tmp_path / "mine.yaml"))
    found = study.bounds()
    assert found.keys() == NORMS.keys() == {"fixed", "free"}
    for norms, runs in found.items():
        expected = RunConfig(steps=80, eval_every=10, record_bounds=True)
        norm = 3.0 if norms == "fixed" else None
        assert dict(expected.options)["proxy_norm"] == 3.0
        for config, seed in zip(runs, (1, 2), strict=True):
            options = dict(config.options)
            assert options["proxy_norm"] == options["embedding_norm"] == norm
            plain = dataclasses.replace(config, options=(), seed=0)
            assert plain == expected and config.seed == seed


def test_a_study_says_at_once_what_is_unknown(home, image_tree):
    with pytest.raises(
        ValueError, match="recipe='best': expected one of study, patent, photos, today"
    ):
        kanji(recipe="best")
    with pytest.raises(ValueError, match="unknown dataset 'mnist'"):
        kanji(dataset="mnist")
    with pytest.raises(FileNotFoundError, match="data_root='' is no folder"):
        kanji(dataset="folder")
    study = Study(**SMALL, data_root=str(image_tree), presets="nowhere.yaml")
    with pytest.raises(FileNotFoundError, match=r"presets='nowhere\.yaml': no such file"):
        study.benchmark()
    with pytest.raises(ValueError, match="unknown method 'svm'"):
        kanji().runs("svm")


def test_presets_may_be_ones_own(home, tmp_path):
    shared = {"batch_size": 32, "lr": 0.5, "proxy_lr": 0.25, "augment": False, "batch_norm": True}
    mine = tmp_path / "mine.yaml"
    content = {"random": dict.fromkeys(BENCHMARK, shared), "pretrained": {}}
    write_presets(mine, content, "Mine.")
    study = kanji(presets=str(mine))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        [config, _] = study.runs("npairs")
    assert (config.lr, config.proxy_lr, config.batch_norm) == (0.5, 0.25, True)
    with pytest.warns(UserWarning, match=r"mine\.yaml: dynamic \(pretrained\) is not tuned: def"):
        [config, _] = study.runs("dynamic", "pretrained")
    assert (config.lr, config.proxy_lr) == (METHODS["dynamic"].lr, METHODS["dynamic"].proxy_lr)


def test_each_batch_size_has_settings_of_its_own_where_they_were_tuned(home, tmp_path):
    shared = {"batch_size": 32, "lr": 0.5, "proxy_lr": 0.25, "augment": False, "batch_norm": True}
    other = shared | {"batch_size": 128, "lr": 0.125, "batch_norm": False}
    mine, plenty = tmp_path / "mine.yaml", (("n_images", 4),)
    for content, rates in (
        ({"random": {"proxy_nca": shared}, OTHER_BATCH: {"proxy_nca": other}}, (0.5, 0.125)),
        ({"random": {"proxy_nca": other}, OTHER_BATCH: {"proxy_nca": shared}}, (0.5, 0.125)),
        ({"random": {"proxy_nca": shared}}, (0.5, 1.0)),  # scaled by √4
    ):
        write_presets(mine, content, "Mine.")
        study = kanji(presets=str(mine), data_options=plenty, steps=8)
        small, large = study.by_batch()
        assert len(small) == len(large) == len(study.seeds)
        assert [run.batch_size for run in (*small, *large)] == [32, 32, 128, 128]
        assert (small[0].lr, large[0].lr) == rates
        assert (small[0].steps, large[0].steps) == (8, 2)
        assert large[0].batch_norm is (OTHER_BATCH not in content)
        assert study.runs("proxy_nca")[0] in (small[0], large[0])


def test_batch_sizes_without_presets_take_the_registrys_rates(home):
    with pytest.warns(UserWarning, match="nothing was tuned"):
        [small, _], [large, _] = kanji(recipe="today").by_batch()
    assert large.lr == RECIPES["today"]["lr"] == 2 * small.lr


def test_data_options_reach_every_run():
    study = kanji(data_options=(("n_classes", 20), ("n_images", 4)))
    expected = (("n_classes", 20), ("n_images", 4))
    groups = [study.benchmark(), study.static([1]), study.dynamic([1]), *study.bounds().values()]
    assert {run.data_options for runs in groups for run in runs} == {expected}


@pytest.mark.filterwarnings("ignore:.*not tuned")
def test_a_small_data_set_gets_smaller_batches(home, image_tree):
    """Three training classes of five images: every method still runs."""
    study = Study(dataset="folder", data_root=str(image_tree), steps=2, seeds=(0,))
    sizes = {name: study.runs(name, batch_size=128)[0].batch_size for name in BENCHMARK}
    assert sizes["proxy_nca"] == 14 and sizes["npairs"] == 6 and sizes["semihard"] == 15
    for config in study.benchmark():
        assert run(config).history["loss"].notna().sum() > 0
    bounds = study.bounds()["fixed"][0]
    assert bounds.batch_size == 14 and bounds.lr == pytest.approx(1e-3 * math.sqrt(14 / 32))


def test_a_recipe_brings_its_network_and_settings_that_fit(home, larger_tree):
    study = Study(**SMALL, data_root=str(larger_tree), recipe="patent")
    assert study.presets_file is None
    with pytest.warns(UserWarning, match="nothing was tuned for this recipe"):
        [semihard] = study.runs("semihard")
    [dynamic] = study.dynamic([0.5])
    for config in (semihard, dynamic):
        assert (config.backbone, config.init, config.crop) == ("googlenet", "pretrained", 227)
        assert dict(config.data_options) == {"size": 256} and not config.augment
    assert semihard.batch_size == 12 and dict(semihard.options)["per_class"] == 2  # six classes
    assert dynamic.batch_norm and dict(dynamic.options)["assignment"] == "dynamic"


def test_photographs_are_trained_on_as_in_the_patent(photographs):
    for name in ("cub200", "cars196", "sop"):
        study = kanji(dataset=name)
        assert study.recipe == "patent" and study.config().data_options == ()
        assert study.config("nca").batch_size == 128 and study.config().batch_size == 32
        small = kanji(dataset=name, recipe="study")
        assert dict(small.config().data_options) == {"size": 32}
        assert small.config().backbone == "convnet"
        assert small.presets_file == find_presets("kanji") and study.presets_file is None


def test_a_study_can_be_varied_but_not_changed():
    study = kanji()
    assert dataclasses.replace(study, seeds=(7,)).runs("nca")[0].seed == 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        study.steps = 3

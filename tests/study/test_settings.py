"""From names to a run: what wins over what, learning rates and batches."""

import inspect
import math

import pytest
import torch

from proxylib.datasets import READERS, Dataset, kanji
from proxylib.study.methods import BASELINES, METHODS, SUCCESSORS
from proxylib.study.runs import RunConfig, backbones, run
from proxylib.study.settings import (
    RECIPES,
    SHARED,
    at_batch,
    default_recipe,
    image_size,
    recipe_settings,
    resolve,
)


def presets(start="random", **methods):
    """Settings of some methods: all that every method has, and what is given."""
    shared = {name: getattr(METHODS["proxy_nca"], name) for name in SHARED}
    return {start: {name: shared | values for name, values in methods.items()}}


@pytest.fixture
def plenty(monkeypatch):
    """Data that fills any batch, instead of drawing kanji in 256×256 pixels."""
    labels = torch.arange(100).repeat_interleave(4)
    data = Dataset("plenty", torch.zeros(400, 1, 1, 1), labels, tuple(map(str, range(100))))
    monkeypatch.setattr(RunConfig, "data", lambda config: (data, data))


# a learning rate belongs to the batch size beside it


def test_at_batch_brings_both_rates_along():
    settings = {"batch_size": 32, "lr": 1e-3, "proxy_lr": 0.1, "augment": True, "margin": 2.0}
    large = at_batch(settings, 128)
    assert large == settings | {"batch_size": 128, "lr": 2e-3, "proxy_lr": 0.2}
    assert at_batch(large, 32) == settings and at_batch(settings, 32) == settings
    small = at_batch(settings, 18)
    assert (small["lr"], small["proxy_lr"]) == pytest.approx((0.75e-3, 0.075))
    assert settings["batch_size"] == 32


def test_the_registry_is_what_a_name_means():
    for method in METHODS:
        assert resolve(method) == RunConfig(method=method), method
        start = resolve(method, start="pretrained")
        assert start == RunConfig(method=method, init="pretrained"), method


def test_the_later_wins_registry_recipe_presets_changes(plenty):
    changes = {"lr": 0.4, "ratio": 0.25}
    tuned = presets(proxy_nca={"lr": 0.3, "ratio": 0.5, "dim": 16})
    runs = [
        resolve("proxy_nca"),
        resolve("proxy_nca", recipe="patent"),
        resolve("proxy_nca", recipe="patent", presets=tuned),
        resolve("proxy_nca", recipe="patent", presets=tuned, **changes),
    ]
    assert [run.lr for run in runs] == [1e-3, 1e-4, 0.3, 0.4]
    assert [dict(run.options)["ratio"] for run in runs] == [1.0, 1.0, 0.5, 0.25]
    assert [run.optimizer for run in runs] == ["Adam", "RMSprop", "RMSprop", "RMSprop"]
    assert [run.dim for run in runs] == [64, 64, 16, 16]
    assert [run.init for run in runs] == ["random", "pretrained", "pretrained", "pretrained"]


def test_presets_are_those_of_the_start_and_the_method():
    tuned = presets(nca={"lr": 0.3}) | presets("pretrained", nca={"lr": 0.4})
    assert resolve("nca", presets=tuned).lr == 0.3
    assert resolve("nca", presets=tuned, start="pretrained").lr == 0.4
    assert resolve("lifted", presets=tuned) == resolve("lifted")  # not tuned: its defaults
    assert resolve("nca", presets={}) == resolve("nca")


def test_a_rate_in_a_preset_is_that_of_the_run():
    tuned = presets(nca={"batch_size": 128, "lr": 0.3, "proxy_lr": 0.7, "per_class": 2})
    run = resolve("nca", presets=tuned)
    assert (run.batch_size, run.lr, run.proxy_lr) == (128, 0.3, 0.7)
    again = resolve("nca", presets=tuned, batch_size=128)
    assert again == run
    smaller = resolve("nca", presets=tuned, batch_size=32)
    assert (smaller.batch_size, smaller.lr, smaller.proxy_lr) == (32, 0.15, 0.35)
    given = resolve("nca", presets=tuned, batch_size=32, lr=0.9)
    assert (given.lr, given.proxy_lr) == (0.9, 0.35)


def test_changes_are_fields_or_options():
    run = resolve("nca", seed=4, steps=7, per_class=2, split="validation", dim=8)
    assert (run.seed, run.steps, run.split, run.dim) == (4, 7, "validation", 8)
    assert dict(run.options)["per_class"] == 2


@pytest.mark.parametrize(
    ("method", "changes", "error", "message"),
    [
        ("svm", {}, ValueError, "unknown method 'svm', expected one of proxy_nca, "),
        ("nca", {"stepz": 3}, ValueError, "nca has no option stepz; it has"),
        ("nca", {"ratio": 3}, ValueError, "nca has no option ratio"),
        ("nca", {"steps": "3"}, TypeError, "steps='3'"),
        ("nca", {"recipe": "best"}, ValueError, "recipe='best': expected one of study, patent, p"),
        ("nca", {"start": "imagenet"}, ValueError, "init='imagenet': expected one of random, pre"),
        ("nca", {"presets": presets(nca={"l2": 1.0})}, ValueError, "nca has no option l2"),
        ("nca", {"dataset": "mnist"}, ValueError, "unknown dataset 'mnist'"),
        ("nca", {"batch_size": 0}, ValueError, "batch_size=0: expected 1 or more"),
        ("nca", {"batch_size": -8}, ValueError, "batch_size=-8: expected 1 or more"),
        ("nca", {"batch_size": "many"}, TypeError, "batch_size='many'"),
        ("nca", {"batch_size": 3}, ValueError, "batch_size=3: expected 4 or more"),
        ("nca", {"seed": 2**63}, ValueError, "seed=9223372036854775808: expected less than 2⁶³"),
        ("nca", {"clip_grad": math.inf}, ValueError, "clip_grad=inf: expected a finite number"),
    ],
)
def test_what_is_unknown_is_refused(method, changes, error, message):
    with pytest.raises(error, match=message):
        resolve(method, **changes)


# the budget


@pytest.mark.parametrize("batch_size", [8, 32, 48, 128])
def test_a_budget_is_the_same_number_of_samples_for_every_batch(batch_size):
    run = resolve("proxy_nca", batch_size=batch_size, budget=3000)
    assert run.steps * run.batch_size == 96_000
    assert resolve("proxy_nca", batch_size=batch_size, steps=77).steps == 77


def test_a_budget_is_never_nothing():
    assert resolve("proxy_nca", batch_size=128, budget=1).steps == 1


def test_some_twenty_evaluations_and_fewer_in_a_short_run():
    for budget, batch_size, evaluations in (
        (3000, 32, 20),
        (3000, 128, 20),
        (1000, 32, 20),
        (500, 32, 10),
        (120, 32, 2),
        (40, 32, 1),
        (2, 128, 1),
    ):
        run = resolve("proxy_nca", batch_size=batch_size, budget=budget)
        assert run.steps // run.eval_every == evaluations, (budget, batch_size)
    assert resolve("proxy_nca", budget=3000, eval_every=7).eval_every == 7
    assert resolve("proxy_nca", budget=3000, eval_every=0).eval_every == 0
    assert resolve("proxy_nca", steps=3000).eval_every == RunConfig().eval_every


# small data sets


def test_a_small_data_set_gets_smaller_batches_and_rates(home, image_tree):
    """Three training classes of five images."""
    data = {"dataset": "folder", "data_root": str(image_tree)}
    sizes = {name: resolve(name, **data, batch_size=128).batch_size for name in METHODS}
    assert sizes == {
        **{name: 14 for name, method in METHODS.items() if method.has_proxies},
        **{"softmax": 14, "npairs": 6},
        **dict.fromkeys(("struct_clust", "lifted", "semihard", "nca", "contrastive"), 12),
        **{name: 14 if METHODS[name].has_proxies else 12 for name in SUCCESSORS},
    }
    assert resolve("nca", **data, per_class=5).batch_size == 15
    assert resolve("nca", **data, per_class=2).batch_size == 6
    assert resolve("nca", **data, per_class=2, batch_size=5).batch_size == 4
    run = resolve("proxy_nca", **data)
    scale = math.sqrt(14 / 32)
    assert (run.lr, run.proxy_lr) == pytest.approx((1e-3 * scale, 0.1 * scale))
    tuned = presets(proxy_nca={"batch_size": 128, "lr": 0.4, "proxy_lr": 0.8})
    run = resolve("proxy_nca", **data, presets=tuned, budget=70)
    scale = math.sqrt(14 / 128)
    assert (run.lr, run.proxy_lr) == pytest.approx((0.4 * scale, 0.8 * scale))
    assert run.steps == 160  # 70 × 32 samples
    assert resolve("proxy_nca", **data, batch_size=8).batch_size == 8


def test_every_method_runs_on_a_small_data_set(home, image_tree):
    for name in METHODS.keys() - set(SUCCESSORS):
        changes = {"budget": 2} | ({"n_triplets": 50} if name.startswith("dynamic") else {})
        config = resolve(name, dataset="folder", data_root=str(image_tree), **changes)
        assert run(config).history["loss"].notna().sum() > 0, name


# recipes


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("method", ["proxy_nca", "dynamic", "semihard", "npairs"])
def test_recipes_are_runs(plenty, name, method):
    config = resolve(method, recipe=name)
    proxies = METHODS[method].has_proxies
    if name == "study":
        assert config == RunConfig(method=method) and config.data_options == ()
    else:
        assert config.backbone in backbones.names() and config.init == "pretrained"
        size = 128 if name == "photos" else 256
        assert dict(config.data_options) == {"size": size} and not config.augment
    if name == "photos":
        assert (config.backbone, config.frozen) == ("tf_efficientnet_lite0", "blocks.4")
        assert config.freeze_batch_norm and config.embedding_start == "pca"
    if name == "patent":
        assert (config.backbone, config.crop, config.dim) == ("googlenet", 227, 64)
        assert (config.optimizer, config.lr, config.proxy_lr) == ("RMSprop", 1e-4, 1e-2)
        assert config.batch_size == (32 if proxies else 128)
    if name == "today":
        assert (config.backbone, config.crop, config.dim) == ("resnet50", 224, 512)
        assert (config.optimizer, config.lr, config.batch_size) == ("AdamW", 1e-4, 128)
        assert (config.schedule, config.weight_decay, config.clip_grad) == ("cosine", 1e-4, 10.0)
        assert config.flip and config.freeze_batch_norm


def test_tuple_methods_of_the_patent_take_64_classes_of_2():
    """As the patent's section on implementation has it; no other method needs such batches."""
    for name, method in METHODS.items():
        settings = recipe_settings("patent", name)
        if name not in BASELINES:
            assert "batch_size" not in settings and "per_class" not in settings
        else:
            assert settings["batch_size"] == 128
            assert settings.get("per_class", 2) == 2
            assert ("per_class" in settings) == ("per_class" in method.options)
        assert "per_class" not in recipe_settings("today", name)
    assert "batch_size" not in RECIPES["patent"]  # the table itself is left alone


def test_recipes_by_data_set():
    names = ("kanji", "omniglot", "folder", "cub200", "cars196", "sop")
    assert [default_recipe(name) for name in names] == ["study"] * 3 + ["patent"] * 3
    assert default_recipe("grocery") == default_recipe("cars196-half") == "photos"
    with pytest.raises(
        ValueError, match="recipe='best': expected one of study, patent, photos, today"
    ):
        recipe_settings("best", "proxy_nca")


def test_images_have_the_size_that_the_network_takes(plenty):
    """Without an option a data set has its own."""
    for name, reader in {**READERS, "kanji": kanji}.items():
        own = {"size": inspect.signature(reader.load).parameters["size"].default}
        for recipe, size in {"study": 32, "photos": 128, "patent": 256, "today": 256}.items():
            assert own | image_size(recipe, name) == {"size": size}, (recipe, name)
    assert image_size("photos", "cars196-half") == {}
    assert image_size("study", "kanji") == image_size("patent", "sop") == {}
    assert image_size("patent", "kanji") == image_size("today", "folder") == {"size": 256}
    assert image_size("study", "cub200") == {"size": 32}
    assert image_size("photos", "cub200") == image_size("photos", "folder") == {"size": 128}
    given = resolve("nca", recipe="patent", data_options={"size": 300, "n_images": 3})
    assert dict(given.data_options) == {"size": 300, "n_images": 3}

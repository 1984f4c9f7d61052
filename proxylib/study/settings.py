"""From names to a run: registry, recipe, tuned presets and budget meet in `resolve`."""

from collections.abc import Mapping
from dataclasses import fields, replace

from proxylib.study.methods import BASELINES, METHODS
from proxylib.study.runs.config import RunConfig

BATCH = 32  # samples in a unit of the budget
STARTS = ("random", "pretrained")
RATES = ("lr", "proxy_lr")
SHARED = ("batch_size", *RATES, "augment", "batch_norm")  # settings that every method has
Presets = Mapping[str, Mapping[str, Mapping[str, object]]]  # start → method → settings

# The recipe for a data set where none is asked for; "study" for all others.
USUAL = {**dict.fromkeys(("cub200", "cars196", "sop"), "patent"), "cars196-half": "photos"}
USUAL |= {"grocery": "photos"}
SIZES = {**dict.fromkeys(("cub200", "cars196", "sop"), 256), "cars196-half": 128}  # defaults
# How a network is trained: fields of `RunConfig` and options. Photographs come in 256×256 pixels,
# for `photos` in 128×128; the crops are what the network sees. The learning rates are ours and were
# not tuned.
RECIPES: dict[str, dict[str, object]] = {
    "study": {},  # the study's own small network
    "patent": {  # paper section 5: GoogLeNet with batch norm, from ILSVRC, and RMSprop
        "backbone": "googlenet",
        "init": "pretrained",
        "crop": 227,
        "optimizer": "RMSprop",
        "lr": 1e-4,
        "proxy_lr": 1e-2,
        "augment": False,
    },
    "photos": {  # for two cores: only the last third of a small ILSVRC network is trained
        "backbone": "tf_efficientnet_lite0",
        "init": "pretrained",
        "frozen": "blocks.4",  # stem and blocks 0 to 10
        "freeze_batch_norm": True,
        "embedding_start": "pca",
        "flip": True,
        "lr": 1e-4,
        "proxy_lr": 2e-2,
        "augment": False,
    },
    "today": {  # what would be a sensible start now
        "backbone": "resnet50",
        "init": "pretrained",
        "freeze_batch_norm": True,
        "crop": 224,
        "flip": True,
        "dim": 512,
        "batch_size": 128,
        "optimizer": "AdamW",
        "lr": 1e-4,
        "proxy_lr": 1e-2,
        "weight_decay": 1e-4,
        "schedule": "cosine",
        "clip_grad": 10.0,
        "augment": False,
    },
}


def default_recipe(dataset: str) -> str:
    """`"patent"` for the patent's own data sets, `"photos"` for the small ones of photographs.

    All others, a user's `folder` too, take `"study"`.
    """
    return USUAL.get(dataset, "study")


def recipe_settings(recipe: str, method: str) -> dict[str, object]:
    """What a recipe sets for a method; with `"patent"` tuple methods take 64 classes × 2 points.

    Raises:
        ValueError: an unknown recipe.
    """
    if recipe not in RECIPES:
        raise ValueError(f"recipe={recipe!r}: expected one of {', '.join(RECIPES)}")
    settings = dict(RECIPES[recipe])
    if recipe == "patent" and method in BASELINES:
        settings["batch_size"] = 128
        settings |= {"per_class": 2} if "per_class" in METHODS[method].options else {}
    return settings


def image_size(recipe: str, dataset: str) -> dict[str, object]:
    """Option of a data set for images as large as the recipe's network takes, in pixels."""
    size = {"study": 32, "photos": 128}.get(recipe, 256)
    return {} if size == SIZES.get(dataset, 32) else {"size": size}


def resolve(
    method: str,
    *,
    dataset: str = "kanji",
    data_root: str = "",
    data_options: Mapping[str, object] | tuple = (),
    recipe: str = "",
    start: str = "random",
    presets: Presets | None = None,
    budget: int | None = None,
    **changes: object,
) -> RunConfig:
    """The run of a method, from names.

    The later wins: the registry's entry, the recipe, the presets, `changes`. A learning rate is
    meant for the batch size that stands beside it. Where only the batch size changes, or the data
    has too few images for it, both rates are multiplied by √(new size / old size). A
    `per_class` that was tuned on larger classes becomes the size of the smallest class.

    Args:
        method: a name in `METHODS`.
        dataset, data_root, data_options: see `RunConfig`.
        recipe: a name in `RECIPES`; empty = `default_recipe(dataset)`.
        start: `"random"` or `"pretrained"`; recipes but `"study"` have one start of their own.
        presets: from `read_presets`; None = nothing tuned.
        budget: samples to train on, in units of 32, with some 20 evaluations in between; None =
            `steps` counts.
        changes: fields of `RunConfig` or options of the method.

    Raises:
        ValueError, TypeError: an unknown name or value, see `RunConfig`.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}, expected one of {', '.join(METHODS)}")
    entry, recipe = METHODS[method], recipe or default_recipe(dataset)
    settings = {name: getattr(entry, name) for name in SHARED} | recipe_settings(recipe, method)
    settings |= (presets or {}).get(start, {}).get(method, {})
    settings.setdefault("init", start)
    if type(size := changes.get("batch_size")) is int and size > 0:  # else it is refused below
        settings = at_batch(settings, size)
    settings |= changes
    data = image_size(recipe, dataset) | dict(data_options)
    where = {"dataset": dataset, "data_root": data_root, "data_options": data}
    config = configure(method, settings, **where)
    if "per_class" in (options := dict(config.options)) and "per_class" not in changes:
        fewest = int(config.data()[0].labels.bincount().min())
        settings["per_class"] = max(2, min(options["per_class"], fewest))
        config = configure(method, settings, **where)
    fitting = at_batch(settings, _fitting_batch(config))
    fitted = {name: fitting[name] for name in ("batch_size", *RATES)}
    if budget is not None:
        fitted["steps"] = steps = max(1, round(budget * BATCH / fitting["batch_size"]))
        if "eval_every" not in changes:  # fewer in a short run, for evaluations cost time too
            fitted["eval_every"] = max(1, steps // max(1, min(20, budget // 50)))
    return replace(config, **fitted)


def configure(method: str, settings: Mapping[str, object], **more: object) -> RunConfig:
    """A run from settings: fields of `RunConfig`, and options of the method."""
    names = {field.name for field in fields(RunConfig)}
    options = {name: value for name, value in settings.items() if name not in names}
    own = {name: value for name, value in settings.items() if name in names}
    return RunConfig(method=method, options=options, **own, **more)


def at_batch(settings: Mapping[str, object], batch_size: int) -> dict[str, object]:
    """The settings with another batch size, and learning rates that suit it."""
    scale = (batch_size / settings["batch_size"]) ** 0.5
    return {**settings, "batch_size": batch_size} | {n: settings[n] * scale for n in RATES}


def _fitting_batch(config: RunConfig) -> int:
    """The largest batch, up to the configured one, that the training classes can fill."""
    train, _ = config.data()
    objective, options = METHODS[config.method].objective, dict(config.options)
    group = options.get("per_class", getattr(objective, "per_class", 1))
    most = len(train) if group == 1 else train.n_classes * group
    size, group = min(config.batch_size, most), max(2, group)  # dynamic assignment takes pairs
    if size < group:
        raise ValueError(f"batch_size={config.batch_size}: expected {group} or more")
    return size - size % group

"""Choosing settings: for every method the same number of runs, on classes never tested on."""

from collections.abc import Mapping
from dataclasses import fields

import pandas as pd

from proxylib.study.methods import METHODS, Axis
from proxylib.study.runs import RunConfig, sweep
from proxylib.study.settings import (
    SHARED,
    Presets,
    at_batch,
    default_recipe,
    recipe_settings,
    resolve,
)

_BATCH = Axis(("batch_size",), (32, 128), 1)
_LR = Axis(("lr",), (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2))
_AUGMENT = Axis(("augment",), (False, True), 1)
_BATCH_NORM = Axis(("batch_norm",), (False, True), 1)
# With `photos`, rates for a trained network, where its embedding starts, and what regularises it.
_PHOTOS = (
    Axis(("lr",), (1.25e-5, 2.5e-5, 5e-5, 1e-4, 2e-4, 4e-4, 8e-4)),
    Axis(("embedding_start",), ("pca", "random"), 1),
    Axis(("dropout",), (0.0, 0.2, 0.5)),
)


def axes(start: str, recipe: str = "study") -> dict[str, tuple[Axis, ...]]:
    """Method → its axes in the order they are walked; as many tries for each method."""
    shared = _PHOTOS if recipe == "photos" else (_LR, _AUGMENT)
    return {
        name: (_BATCH, method.axes[0], *shared, _BATCH_NORM, method.axes[1])
        if start == "random"
        else (_BATCH_NORM, *shared, method.axes[0])
        for name, method in METHODS.items()
        if start in method.starts
        # A recipe with one start of its own: all have walked from it, but for these.
        and (start == "random" or recipe == "study" or "random" not in method.starts)
    }


def first_settings(start: str, recipe: str, chosen: Presets) -> dict[str, dict[str, object]]:
    """Where the walks begin: at the defaults, or at what a random start has chosen.

    Start and recipe are names as in `resolve`; `chosen` is what the walks from a random start have
    chosen, for those from a pre-trained one.
    """
    if start == "random":
        return {name: _defaults(name, recipe) for name in axes("random", recipe)}
    settings = {name: dict(values) for name, values in chosen["random"].items()}
    for name in axes("pretrained", recipe):
        if name in settings:
            continue
        method = METHODS[name]  # begins as the one it varies
        free = "_free" * (method.options["proxy_norm"] is None)
        begin = at_batch(chosen["random"][f"proxy_nca{free}"], method.batch_size)
        own = {n: getattr(method, n) for n in ("proxy_lr", "augment", "batch_norm")}
        settings[name] = {**begin, **method.defaults, **own}
    return settings


def other_batch(settings: Mapping[str, object]) -> dict[str, object]:
    """The settings at the other one of the two batch sizes that are walked, see `at_batch`."""
    return at_batch(settings, next(n for n in _BATCH.values if n != settings["batch_size"]))


def _defaults(name: str, recipe: str) -> dict[str, object]:
    """The default of whatever has an axis, as registry and recipe give it."""
    method = METHODS[name]
    known = {n: getattr(method, n) for n in SHARED} | method.options
    known = {field.name: field.default for field in fields(RunConfig)} | known
    known |= recipe_settings(recipe, name)
    walked = {n for axis in axes("random", recipe)[name] for n in axis.names}
    return {n: known[n] for n in (*SHARED, *sorted(walked - {*SHARED}))}


def tune(
    base: Mapping[str, object],
    starts: Mapping[str, Mapping[str, object]],
    budget: int,
    start: str = "random",
    n_axes: int | None = None,
    passes: int = 1,
    same_batch: bool = False,
    jobs: int = -1,
    progress: bool = True,
) -> pd.DataFrame:
    """Walk each method's axes, one after the other, keeping a value where it is better.

    All methods walk side by side, `passes` times over their axes. The criterion is Recall@1 at
    the end of the run; a run that diverges counts as 0.

    Args:
        base: arguments of `resolve` for all runs: data, split, recipe, seed.
        starts: method → the settings that its walk begins with.
        budget: of each run, in batches of 32.
        start: `"random"` or `"pretrained"`, see `axes`.
        n_axes: walk only so many axes of each method; None = all.
        passes: how many times the axes are walked; each pass begins where the last one ended.
        same_batch: leave the batch size as it is.

    Returns:
        One row per run: `method`, `round` (from 1; 0 for the start), `axis` (empty for the start),
        `settings` (a dict), `recall_at_1`, `diverged`, and `chosen`, true for the best of each
        method.
    """
    walked = axes(start, base.get("recipe") or default_recipe(base.get("dataset", "kanji")))
    if same_batch:
        walked = {n: tuple(a for a in walk if a is not _BATCH) for n, walk in walked.items()}
    now = {name: dict(settings) for name, settings in starts.items()}
    best: dict[str, float] = {}
    rows, winner = [], {}
    fixed = {**base, "start": start, "budget": budget, "eval_every": 0}
    stages = max(len(walked[name][:n_axes]) for name in now)
    for stage in range(-1, passes * stages):
        trials = []
        for name, settings in now.items():
            if stage < 0:
                trials.append((name, "", settings))
                continue
            axis = walked[name][stage % stages]
            for new in axis.alternatives(settings):
                if axis is _BATCH:
                    new = at_batch(settings, new["batch_size"])
                trials.append((name, axis.names[0], new))
        configs = [resolve(n, **fixed, presets={start: {n: new}}) for n, _, new in trials]
        results = sweep(configs, jobs, progress, keep_diverged=True)
        for (name, axis, new), result in zip(trials, results, strict=True):
            diverged = isinstance(result, FloatingPointError)
            recall = 0.0 if diverged else result.metrics["recall_at_1"]
            if recall > best.get(name, -1.0):
                best[name], now[name], winner[name] = recall, new, len(rows)
            rows.append((name, stage // stages + 1, axis, new, recall, diverged))
    columns = ["method", "round", "axis", "settings", "recall_at_1", "diverged"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(chosen=table.index.isin(winner.values()))


def last_gain(walk: pd.DataFrame) -> pd.Series:
    """Method → how much Recall@1 (a fraction) its last pass gained over the best run before.

    Args:
        walk: from `tune`.
    """
    earlier = walk["round"] < walk["round"].max()
    best = walk.groupby(["method", earlier], sort=False)["recall_at_1"].max().unstack()
    return (best[False] - best[True]).clip(lower=0)

"""Choosing settings: for every method the same number of runs, on classes never tested on."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd

from proxylib.config import RunConfig
from proxylib.datasets import Dataset
from proxylib.methods import METHODS
from proxylib.runs import sweep

BATCH_SIZE = 32  # the unit of a budget and of a learning rate
LR = (2.5e-4, 5e-4, 1e-3, 2e-3, 4e-3, 8e-3)
PROXY_LR = (0.005, 0.02, 0.05, 0.1, 0.2, 0.4)
NORM = (1.0, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True)
class Axis:
    """One setting and the values that it may take; the neighbours of the present one are tried.

    Attributes:
        names: what is set: fields of `RunConfig`, or options of the method. Several names take
            the same value.
        values: in order.
        tries: values tried, those nearest to the present one in the order.
    """

    names: tuple[str, ...]
    values: tuple
    tries: int

    def alternatives(self, settings: Mapping[str, object]) -> list[dict[str, object]]:
        """`settings` with each of the nearest other values; of two as near, the smaller first."""
        now = settings[self.names[0]]
        order = sorted({*self.values, now})
        at = order.index(now)
        others = sorted((v for v in order if v != now), key=lambda v: abs(order.index(v) - at))
        return [{**settings, **dict.fromkeys(self.names, v)} for v in others[: self.tries]]


_BATCH = Axis(("batch_size",), (32, 128), 1)
_LR = Axis(("lr",), LR, 2)
_PROXY_LR = Axis(("proxy_lr",), PROXY_LR, 2)
_AUGMENT = Axis(("augment",), (False, True), 1)
_BATCH_NORM = Axis(("batch_norm",), (False, True), 1)
_NORMS = Axis(("embedding_norm", "proxy_norm"), NORM, 2)
_NORM = Axis(("embedding_norm",), NORM, 2)


def _option(name: str, *values) -> Axis:
    return Axis((name,), values, 2)


_OWN = {
    "proxy_nca": (_NORMS, _PROXY_LR),
    "proxy_triplet": (_option("margin", 0.1, 0.3, 1.0, 2.0), _PROXY_LR),
    "npairs": (_option("l2", 0.005, 0.02, 0.05), _option("l2", 0.002, 0.02, 0.1)),
    "struct_clust": (_option("gamma", 0.1, 0.3, 1.0, 3.0, 10.0), _NORM),
    "lifted": (_option("margin", 0.25, 0.5, 1.0, 2.0, 4.0), _option("per_class", 2, 4, 8)),
    "semihard": (_option("margin", 0.1, 0.2, 0.5, 1.0), _option("per_class", 2, 4, 8)),
    "nca": (_NORM, _option("per_class", 2, 4, 8)),
    "contrastive": (_option("margin", 0.35, 0.7, 1.0, 1.4), _option("per_class", 2, 4, 8)),
}
# From which start → method → its axes in the order they are walked; as many tries for each method.
AXES = {
    "random": {name: (_BATCH, own[0], _LR, _AUGMENT, own[1]) for name, own in _OWN.items()},
    "pretrained": {
        name: (_BATCH_NORM, _LR, _AUGMENT, own[0])
        for name, own in {**_OWN, "dynamic": (_PROXY_LR,)}.items()
    },
}
# What makes dynamic assignment work (notebook 06 shows what each of these buys).
DYNAMIC = {
    "assignment": "dynamic",
    "n_triplets": 64_000,
    "reassign_every": 25,
    "restart_dead": True,
}
_FIELDS = ("batch_size", "lr", "proxy_lr", "augment", "batch_norm")


def method_of(name: str) -> str:
    """The registry's name of a name in `AXES`: `"dynamic"` is Proxy-NCA."""
    return "proxy_nca" if name == "dynamic" else name


def fit_batch(name: str, settings: Mapping[str, object], train: Dataset) -> dict[str, object]:
    """The settings, the batch no larger than the training classes can fill (small data sets).

    Args:
        name: of the method, in `AXES`.
        settings: see `expand`.
        train: the training classes.
    """
    default = 2 if name == "npairs" else METHODS[method_of(name)].options.get("per_class", 1)
    group = settings.get("per_class", default)
    most = len(train) if group == 1 else train.n_classes * group
    batch_size = min(settings["batch_size"], most)
    batch_size -= batch_size % (group if group > 1 else 2)  # dynamic assignment takes pairs
    return {**settings, "batch_size": batch_size}


def expand(name: str, settings: Mapping[str, object], steps: int) -> dict[str, object]:
    """Arguments of `RunConfig` from a method's settings and a budget.

    Args:
        name: of the method, in `AXES`.
        settings: `batch_size`, `lr`, `proxy_lr`, `augment`, `batch_norm`, and options of the
            method. The learning rates are those of batches of 32; for others they are multiplied
            by √(batch size / 32).
        steps: budget in batches of 32, 1 or more: every method sees as many samples.
    """
    fields = {name: settings[name] for name in _FIELDS}
    scale = (fields["batch_size"] / BATCH_SIZE) ** 0.5
    return fields | {
        "method": method_of(name),
        "options": {name: value for name, value in settings.items() if name not in _FIELDS},
        "steps": max(1, round(steps * BATCH_SIZE / fields["batch_size"])),
        "lr": fields["lr"] * scale,
        "proxy_lr": fields["proxy_lr"] * scale,
    }


def registry_settings(name: str) -> dict[str, object]:
    """Where a walk from a random start begins: the registry's value of whatever has an axis."""
    method = METHODS[method_of(name)]
    settings = {n: getattr(method, n) for n in ("batch_size", "lr", "proxy_lr", "augment")}
    settings["batch_norm"] = False
    names = {n for axis in AXES["random"][method_of(name)] for n in axis.names}
    return settings | {n: method.options[n] for n in sorted(names & method.options.keys())}


def pretrained_settings(random: Mapping[str, Mapping]) -> dict[str, dict[str, object]]:
    """Where the walks from a pre-trained start begin: at what was chosen for a random start."""
    settings = {name: dict(values) for name, values in random.items()}
    settings["dynamic"] = {
        **random["proxy_nca"],
        **DYNAMIC,
        "batch_size": 32,
        "batch_norm": True,
        "augment": False,
        "proxy_lr": 0.02,
    }
    return settings


def tune(
    base: RunConfig,
    starts: Mapping[str, Mapping[str, object]],
    steps: int,
    walk: str = "random",
    n_axes: int | None = None,
    jobs: int = -1,
    progress: bool = True,
) -> pd.DataFrame:
    """Walk each method's axes, one after the other, keeping a value where it is better.

    All methods walk side by side. The criterion is Recall@1 at the end of the run; a run that
    diverges counts as 0.

    Args:
        base: data, split, network, its start (`init`) and seed of all runs.
        starts: name in `AXES[walk]` → the settings that its walk begins with.
        steps: budget of each run in batches of 32.
        walk: `"random"` or `"pretrained"`, see `AXES`.
        n_axes: walk only so many axes of each method; None = all.

    Returns:
        One row per run: `method`, `axis` (empty for the start), `settings` (a dict),
        `recall_at_1`, `diverged`, and `chosen`, true for the best of each method.
    """
    axes, (train, _) = AXES[walk], base.data()
    now = {name: dict(settings) for name, settings in starts.items()}
    best: dict[str, float] = {}
    rows = []
    for stage in range(-1, max(len(axes[name][:n_axes]) for name in now)):
        trials = []
        for name, settings in now.items():
            if stage < 0:
                trials.append((name, "", settings))
            else:
                axis = axes[name][stage]
                trials += [(name, axis.names[0], new) for new in axis.alternatives(settings)]
        configs = [
            replace(base, **expand(name, fit_batch(name, new, train), steps), eval_every=0)
            for name, _, new in trials
        ]
        for trial, result in zip(
            trials, sweep(configs, jobs, progress, keep_diverged=True), strict=True
        ):
            name, _, new = trial
            diverged = isinstance(result, FloatingPointError)
            recall = 0.0 if diverged else result.metrics["recall_at_1"]
            rows.append((*trial, recall, diverged, new))
            if recall > best.get(name, -1.0):
                best[name], now[name] = recall, new
    table = pd.DataFrame(
        [row[:5] for row in rows],
        columns=["method", "axis", "settings", "recall_at_1", "diverged"],
    )
    return table.assign(chosen=[row[5] is now[row[0]] for row in rows])

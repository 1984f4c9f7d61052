"""The study's experiments: which runs answer which question."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from proxylib import datasets
from proxylib.datasets.paths import PROJECT
from proxylib.study.methods import BASELINES, BENCHMARK, METHODS, REFERENCES
from proxylib.study.presets import OTHER_BATCH, find_presets, read_presets
from proxylib.study.runs import RunConfig
from proxylib.study.runs.execution import starting_network
from proxylib.study.runs.trunk import behind_trunk, features
from proxylib.study.settings import BATCH, Presets, default_recipe, resolve

NORMS = {"fixed": {}, "free": {"embedding_norm": None, "proxy_norm": None}}
PATENT_RULE = {"restart_dead": False, "batch_norm": False}  # dynamic assignment, nothing added


@dataclass(frozen=True, kw_only=True)
class Study:
    """What the experiments on one data set share: the data, the seeds, the budget, the settings.

    Attributes:
        dataset, data_root, data_options: see `RunConfig`.
        seeds: one run of everything for each.
        steps, batch_size: the budget of a run, so many batches of so many samples; a method with
            larger batches takes fewer steps.
        recipe: a name in `settings.RECIPES`; if empty, what suits the data set.
        presets: file of settings; if empty, those that were tuned, see `presets.find_presets`.
    """

    dataset: str
    steps: int
    seeds: tuple[int, ...]
    batch_size: int = BATCH
    data_root: str = ""
    data_options: tuple[tuple[str, object], ...] = ()
    recipe: str = ""
    presets: str = ""

    def __post_init__(self):
        object.__setattr__(self, "recipe", self.recipe or default_recipe(self.dataset))
        if self.steps < 1 or self.batch_size < 1 or not self.seeds:
            raise ValueError(
                f"steps={self.steps}, batch_size={self.batch_size}, seeds={self.seeds}: expected "
                "1 or more of each"
            )
        self.config()  # an unknown name is told now

    @property
    def budget(self) -> int:
        """Samples of a run in units of 32."""
        return max(1, self.steps * self.batch_size // BATCH)

    @cached_property
    def presets_file(self) -> Path | None:
        """Where the settings are from; None if nothing was tuned."""
        return find_presets(self.dataset, self.presets, self.recipe)

    @property
    def presets_name(self) -> str:
        """The name of that file, for the provenance."""
        return self.presets_file.name if self.presets_file else "defaults"

    @cached_property
    def settings(self) -> Presets:
        """Tuned settings by start and method."""
        return read_presets(self.presets_file)

    def config(self, method: str = "proxy_nca", **changes: object) -> RunConfig:
        """A run on this data by this recipe, with the registry's settings; see `resolve`."""
        data = {name: getattr(self, name) for name in ("dataset", "data_root", "data_options")}
        return resolve(method, **data, recipe=self.recipe, **changes)

    def runs(self, method: str, start: str = "random", **changes: object) -> list[RunConfig]:
        """A method with its tuned settings, one run a seed, as many samples as the budget says.

        The arguments are those of `resolve`. If the method was not tuned there is a notice, and its
        settings are the defaults.
        """
        tunable = method in METHODS and start in METHODS[method].starts
        if self.settings and tunable and method not in self.settings[start]:
            file = self.presets_file
            warnings.warn(f"{file}: {method} ({start}) is not tuned: defaults", stacklevel=2)
        tuned = {"start": start, "presets": self.settings, "budget": self.budget}
        with datasets.unchanged():
            return [self.config(method, **tuned, seed=seed, **changes) for seed in self.seeds]

    def benchmark(self, start: str = "random", only: Sequence[str] = ()) -> list[RunConfig]:
        """Every method, every seed, as many samples: FIG. 1, FIG. 4, Tables 1 and 2.

        Where a pre-trained network is trained, the references are there, too.

        Args:
            start: see `resolve`.
            only: these methods beside Proxy-NCA, at least one baseline; all if empty.

        Raises:
            ValueError: a method that is not compared here, or no baseline.
        """
        names = BENCHMARK if self.recipe == "study" else (*BENCHMARK, *REFERENCES)
        if unknown := [name for name in only if name not in names]:
            raise ValueError(
                f"{', '.join(unknown)}: not compared by recipe {self.recipe!r}; expected some of "
                f"{', '.join(names)}"
            )
        if only and not {*only} & {*BASELINES}:
            raise ValueError(
                f"{', '.join(only)}: no baseline; expected one or more of {', '.join(BASELINES)}"
            )
        chosen = [name for name in names if not only or name in (*only, "proxy_nca")]
        return [run for name in chosen for run in self.runs(name, start)]

    def baselines(self, batch_norm: bool) -> list[RunConfig]:
        """The baselines from the very start of `dynamic`, with or without batch norm."""
        return [
            run
            for name in BASELINES
            for run in self.runs(name, "pretrained", batch_norm=batch_norm)
        ]

    def by_batch(self) -> list[list[RunConfig]]:
        """Proxy-NCA with batches of 32 and of 128, each with settings of its own (claim C10).

        At a size for which nothing was tuned, the learning rates are scaled, see `resolve`.
        """
        tuned = [self.settings.get(n, {}).get("proxy_nca") for n in ("random", OTHER_BATCH)]
        own = {settings["batch_size"]: settings for settings in tuned if settings}
        runs = []
        for size in (32, 128):
            found = {"random": {"proxy_nca": own[size]}} if size in own else self.settings
            given = {"presets": found, "budget": self.budget, "batch_size": size}
            runs.append([self.config(**given, seed=seed) for seed in self.seeds])
        return runs

    def static(self, ratios: Iterable[float], norms: str = "fixed") -> list[RunConfig]:
        """Proxy-NCA with so many proxies per label, assigned by label or at random (FIG. 6)."""
        name = {"fixed": "proxy_nca", "free": "proxy_nca_free"}[norms]
        return [run for ratio in ratios for run in self.runs(name, ratio=float(ratio))]

    def dynamic(
        self, ratios: Iterable[float], norms: str = "fixed", **changes: object
    ) -> list[RunConfig]:
        """Method 1000 from triplets without labels, from the pre-trained start (FIG. 7).

        By any recipe but `"study"` they are evaluated before and after training only: nothing in
        between is read, and to evaluate photographs takes long.
        """
        name = {"fixed": "dynamic", "free": "dynamic_free"}[norms]
        if self.recipe != "study":
            changes = {"eval_every": 0} | changes
        return [
            run
            for ratio in ratios
            for run in self.runs(name, "pretrained", ratio=float(ratio), **changes)
        ]

    def bounds(self) -> dict[str, list[RunConfig]]:
        """Proxy-NCA with the bounds recorded, with fixed and with free norms (notebook 02).

        With the registry's settings: the bounds are about the loss, however well it does.
        """
        recorded = {"steps": self.budget, "eval_every": max(1, self.budget // 8)}
        return {
            norms: [
                self.config(**options, **recorded, record_bounds=True, seed=seed)
                for seed in self.seeds
            ]
            for norms, options in NORMS.items()
        }


def milliseconds_a_step(configs: Iterable[RunConfig]) -> dict[str, float]:
    """Method → what a step takes, measured alone on an idle machine (`A2_speed`, full tier).

    From the project's committed results for the data set of the runs; without those that were not
    measured at the batch size of the runs.
    """
    configs = list(configs)
    file = PROJECT / "figures" / f"{configs[0].dataset}-full" / "A2_speed-steps.csv"
    if not file.is_file():
        return {}
    measured = pd.read_csv(file).set_index(["method", "batch"])["ms a step"]
    runs = {(config.method, config.batch_size) for config in configs}
    return {method: measured[method, size] for method, size in runs & {*measured.index}}


def pretrained_features(config: RunConfig) -> Tensor:
    """The features (N, F) of the evaluation classes that a pre-trained network brings along.

    Of unit length, from the network that the run starts with, just before its embedding layer.
    """
    _, test = config.data()
    model, images = behind_trunk(config, starting_network(config, test.images), test)
    return functional.normalize(features(model, replace(test, images=images)))


def raw_pixels(images, side: int = 32) -> Tensor:
    """The pixels themselves as an embedding (N, C·side²) float32: what learning has to beat.

    Larger images are shrunk to `side`, smaller ones stay as they are.
    """
    if images.shape[3] <= side:
        return images[:].flatten(1).float()
    parts = (functional.adaptive_avg_pool2d(part.float(), side) for part in images.split(256))
    return torch.cat([part.flatten(1) for part in parts])

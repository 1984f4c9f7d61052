"""A run: a pure function of its configuration. Cached on disk, swept in parallel."""

import math
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import get_args

import joblib
import numpy as np
import pandas as pd
import sklearn
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor
from tqdm import tqdm

from proxylib import datasets
from proxylib.bounds import bound_statistics
from proxylib.caching import cached, code_fingerprint, is_cached
from proxylib.datasets import Dataset
from proxylib.evaluation import embed, nmi, recall_at_k
from proxylib.methods import METHODS, build_objective, complete_options
from proxylib.models import ConvNet
from proxylib.objectives import ProxyLoss
from proxylib.training import pretrained_model, train

# The code that decides a result; what data it gets is hashed by content.
RESULT_CODE = ("losses.py", "proxies.py", "samplers.py", "objectives.py", "baselines.py")
RESULT_CODE += ("struct_clust.py", "methods.py", "models.py", "training.py", "evaluation.py")
RESULT_CODE += ("bounds/triplets.py", "bounds/inequalities.py", "bounds/dataset.py", "runs.py")
SPLITS = ("test", "validation")
INITS = ("random", "pretrained")
BOUND_ANCHORS = 400  # anchors that a recording of the bounds samples while training


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run's result. Hashable; unknown names are errors.

    Attributes:
        dataset, data_root: see `datasets.load`.
        data_options: further options of the data set, e.g. `{"distortion": 1.5}`.
        split: `"test"`: train on the training half, test on the unseen half; `"validation"`:
            both parts are cut from the training half, for choosing settings.
        method: a name in `methods.METHODS`.
        options: what shall differ from `METHODS[method].options`, e.g. `{"ratio": 0.5}`; all
            others are filled in.
        init: `"random"`, or `"pretrained"` on other scripts (`training.pretrained_model`).
        seed: of initialisation, batch order and augmentation (the data set does not change).
        steps, batch_size: training batches, and embedded points in each; 0 steps = the
            untrained network. batch_size None = the method's.
        eval_every: steps between evaluations; 0 = only before and after training.
        dim: width of the embedding.
        batch_norm: of the embedding, see `ConvNet`.
        optimizer: name of a class of `torch.optim`.
        lr, proxy_lr: learning rates of the network and of the proxies; None = the method's.
        augment: random affine changes of the training images; None = as the method does best.
        record_bounds: add `bounds.bound_statistics` of the training classes to the history, from
            400 anchors while training, exact after it. For proxy methods only.

    Raises:
        TypeError: an unknown name, or a value of the wrong type.
        ValueError: a value out of its range.
    """

    dataset: str = "kanji"
    data_root: str = ""
    data_options: tuple[tuple[str, object], ...] = ()
    split: str = "test"
    method: str = "proxy_nca"
    options: tuple[tuple[str, object], ...] = ()
    init: str = "random"
    seed: int = 0
    steps: int = 3000
    batch_size: int | None = None
    eval_every: int = 250
    dim: int = 64
    batch_norm: bool = False
    optimizer: str = "Adam"
    lr: float | None = None
    proxy_lr: float | None = None
    augment: bool | None = None
    record_bounds: bool = False

    def __post_init__(self):
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        for name, expected in (("split", SPLITS), ("init", INITS)):
            if getattr(self, name) not in expected:
                expected = ", ".join(expected)
                raise ValueError(f"{name}={getattr(self, name)!r}: expected one of {expected}")
        options = complete_options(self.method, dict(self.options))
        method = METHODS[self.method]
        for name in ("batch_size", "lr", "proxy_lr", "augment"):
            if getattr(self, name) is None:
                put(name, getattr(method, name))
        put("options", tuple(sorted(options.items())))
        put("data_options", tuple(sorted(dict(self.data_options).items())))
        for field in fields(self):
            value, kinds = getattr(self, field.name), get_args(field.type) or (field.type,)
            if float in kinds and type(value) is int:
                value = float(value)  # 1 and 1.0 are one configuration
                put(field.name, value)
            if "options" not in field.name and type(value) not in kinds:
                raise TypeError(f"{field.name}={value!r}: expected {field.type}")
        for name in ("lr", "proxy_lr"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name}={getattr(self, name)}: expected a positive number")
        lowest = {"seed": 0, "steps": 0, "batch_size": 1, "eval_every": 0, "dim": 1}
        for name, low in lowest.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name}={getattr(self, name)}: expected {low} or more")
        optimizer = getattr(torch.optim, self.optimizer, None)
        if not (isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)):
            raise ValueError(f"optimizer={self.optimizer!r}: torch.optim has no such optimizer")
        if self.record_bounds and "proxy_norm" not in method.options:
            raise ValueError(f"record_bounds: {self.method} has no proxies")

    def data(self) -> tuple[Dataset, Dataset]:
        """(training classes, classes to evaluate on), disjoint."""
        dataset = datasets.load(self.dataset, self.data_root or None, **dict(self.data_options))
        train_half, test_half = datasets.zero_shot_split(dataset)
        if self.split == "validation":
            return datasets.validation_split(train_half)
        return train_half, test_half


@dataclass(frozen=True, eq=False)
class RunResult:
    """What a run leaves behind.

    Attributes:
        config: its configuration.
        history: one row per evaluation, see `training.train`; `nmi` is given at both ends.
        embeddings: (N, D) float32 of the evaluation classes after training, of unit length if
            the method's evaluation normalises (`METHODS[method].normalize`).
        weights: state of the trained network, see `model`.
        proxies: (P, D) float32, as trained (not rescaled); empty for a method without.
        assignment: (N,) int64 over the training points at the end; empty for a method without.
    """

    config: RunConfig
    history: pd.DataFrame
    embeddings: np.ndarray
    weights: dict[str, np.ndarray]
    proxies: np.ndarray
    assignment: np.ndarray

    @property
    def metrics(self) -> dict[str, float]:
        """`recall_at_1`, … and `nmi` after training, as fractions."""
        row = self.history.iloc[-1]
        return {name: row[name] for name in self.history.columns if name[:3] in ("rec", "nmi")}

    def model(self) -> torch.nn.Module:
        """The trained network, in evaluation mode."""
        model = _network(self.config, self.config.data()[0])
        model.load_state_dict({name: torch.from_numpy(w) for name, w in self.weights.items()})
        return model.eval()


def run(config: RunConfig) -> RunResult:
    """The run's result, from the cache if its like was finished before.

    A finished run is found again only under the same configuration, the same images, the same
    result-determining code and the same versions of torch, numpy and scikit-learn.
    """
    return cached(_run, *_arguments(config))


def sweep(configs: Iterable[RunConfig], jobs: int = -1, progress: bool = True) -> list[RunResult]:
    """The results of many runs, in the order given; finished ones come from the cache.

    Every run uses one thread, so a result does not depend on how many run beside it. A run that
    fails stops the sweep; the finished ones stay in the cache.

    Args:
        jobs: runs at once; −1 = one per core.
        progress: show a bar with an estimate of the time left.
    """
    arguments = [_arguments(config) for config in configs]
    results: list[RunResult | None] = [None] * len(arguments)
    todo = []
    with tqdm(total=len(arguments), disable=not progress, unit="run", desc="runs") as bar:
        for i, args in enumerate(arguments):
            if is_cached(_run, *args):
                results[i] = cached(_run, *args)
                bar.update()
            else:
                todo.append(i)
        parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
        for i, result in parallel(joblib.delayed(_numbered)(i, *arguments[i]) for i in todo):
            results[i] = result
            bar.update()
    return results


def history(results: Iterable[RunResult], **columns: Iterable) -> pd.DataFrame:
    """All histories as one tidy table, with the seed and further columns (one value a run)."""
    results = list(results)
    tables = [
        result.history.assign(
            seed=result.config.seed, **{name: list(values)[i] for name, values in columns.items()}
        )
        for i, result in enumerate(results)
    ]
    return pd.concat(tables, ignore_index=True)


def _arguments(config: RunConfig) -> tuple[RunConfig, str]:
    parts = [part.fingerprint() for part in config.data()]
    versions = [torch.__version__, np.__version__, sklearn.__version__]
    return config, " ".join([code_fingerprint(*RESULT_CODE), *parts, *versions])


def _numbered(i: int, *args) -> tuple[int, RunResult]:
    return i, cached(_run, *args)


def _network(config: RunConfig, train_set: Dataset) -> torch.nn.Module:
    channels, size = train_set.images.shape[1:3]
    if config.init == "pretrained":
        return pretrained_model(channels, size, config.dim, config.batch_norm)
    network = ConvNet(channels, size, config.dim, batch_norm=config.batch_norm)
    return network.normalize_like(train_set.images)


def _run(config: RunConfig, fingerprint: str) -> RunResult:
    """Method 900 with the study's network and evaluation. The fingerprint only keys the cache."""
    train_set, test_set = config.data()
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        generator = torch.Generator().manual_seed(config.seed)
        model = _network(config, train_set)
        objective = build_objective(
            config.method, train_set.labels, config.dim, generator, **dict(config.options)
        )
        groups = [{"params": list(model.parameters()), "lr": config.lr}]
        if learned := list(objective.parameters()):
            groups.append({"params": learned, "lr": config.proxy_lr})
        optimizer = getattr(torch.optim, config.optimizer)(groups)
        normalize = METHODS[config.method].normalize

        def evaluate(step: int) -> dict[str, float]:
            embeddings = embed(model, test_set.images, normalize)
            metrics = recall_at_k(embeddings, test_set.labels)
            if step in (0, config.steps):
                metrics["nmi"] = nmi(embeddings, test_set.labels)
            if config.record_bounds:
                metrics |= _bounds(config, step, embed(model, train_set.images), objective)
            return metrics

        table = train(
            model,
            objective,
            train_set,
            optimizer,
            steps=config.steps,
            batch_size=config.batch_size,
            generator=generator,
            augment=config.augment,
            evaluate=evaluate,
            eval_every=config.eval_every,
        )
        has_proxies = isinstance(objective, ProxyLoss)
        return RunResult(
            config,
            table,
            embed(model, test_set.images, normalize).numpy(),
            {name: tensor.numpy() for name, tensor in model.state_dict().items()},
            objective.proxies.detach().numpy() if has_proxies else np.empty((0, config.dim)),
            objective.assignment.numpy() if has_proxies else np.empty(0, np.int64),
        )


def _bounds(
    config: RunConfig, step: int, embeddings: Tensor, objective: ProxyLoss
) -> dict[str, float]:
    options = dict(config.options)
    return bound_statistics(
        embeddings,
        objective.labels,
        objective.proxies.detach(),
        objective.assignment,
        margin=options["margin"],
        embedding_norm=options["embedding_norm"],
        proxy_norm=options["proxy_norm"],
        max_anchors=None if step == config.steps else BOUND_ANCHORS,
    )


@contextmanager
def _one_thread():
    """One thread, as in a worker: only then do runs repeat bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)


def describe(config: RunConfig) -> dict:
    """The configuration as plain values, for JSON."""
    options = {name: dict(getattr(config, name)) for name in ("data_options", "options")}
    return {**asdict(config), **options}

"""A run: a pure function of its configuration. Cached on disk, swept in parallel."""

import math
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields

import joblib
import numpy as np
import pandas as pd
import sklearn
import torch
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from proxylib import datasets
from proxylib.caching import cached, code_fingerprint, is_cached
from proxylib.datasets import Dataset
from proxylib.evaluation import embed, nmi, recall_at_k
from proxylib.models import ConvNet
from proxylib.objectives import ProxyNCA
from proxylib.training import train

# The code that decides a result; what data it gets is hashed by content.
RESULT_CODE = ("losses.py", "proxies.py", "objectives.py", "models.py", "training.py")
RESULT_CODE += ("evaluation.py", "runs.py")
SPLITS = ("test", "validation")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run's result. Hashable; unknown names are errors.

    Attributes:
        dataset, data_root: see `datasets.load`.
        data_options: further options of the data set, e.g. `{"distortion": 1.5}`.
        split: `"test"`: train on the training half, test on the unseen half; `"validation"`:
            both parts are cut from the training half, for choosing settings.
        seed: of initialisation, batch order and augmentation (the data set does not change).
        steps, batch_size: training batches, and anchors in each; 0 steps = the untrained network.
        eval_every: steps between evaluations; 0 = only before and after training.
        dim: width of the embedding.
        optimizer: name of a class of `torch.optim`.
        lr, proxy_lr: learning rates of the network and of the proxies.
        embedding_norm, proxy_norm, include_positive: see `ProxyNCA`.
        augment: random affine changes of the training images.

    Raises:
        TypeError: an unknown name, or a value of the wrong type.
        ValueError: a value out of its range.
    """

    dataset: str = "kanji"
    data_root: str = ""
    data_options: tuple[tuple[str, object], ...] = ()
    split: str = "test"
    seed: int = 0
    steps: int = 3000
    batch_size: int = 32
    eval_every: int = 250
    dim: int = 64
    optimizer: str = "Adam"
    lr: float = 1e-3
    proxy_lr: float = 0.1
    embedding_norm: float | None = 3.0
    proxy_norm: float | None = 3.0
    include_positive: bool = False
    augment: bool = True

    def __post_init__(self):
        options = self.data_options
        options = tuple(sorted(options.items() if isinstance(options, dict) else options))
        object.__setattr__(self, "data_options", options)
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is float or field.type == float | None:
                good = isinstance(value, int | float) and not isinstance(value, bool)
                good = good or (value is None and field.type is not float)
            elif field.name == "data_options":
                good = True
            else:
                good = type(value) is field.type
            if not good:
                raise TypeError(f"{field.name}={value!r}: expected {field.type}")
        for name in ("lr", "proxy_lr", "embedding_norm", "proxy_norm"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, float(value))  # 1 and 1.0 are one configuration
                if not (math.isfinite(value) and value > 0):
                    raise ValueError(f"{name}={value}: expected a positive number")
        for name, low in (("seed", 0), ("steps", 0), ("batch_size", 1), ("eval_every", 0)):
            if getattr(self, name) < low:
                raise ValueError(f"{name}={getattr(self, name)}: expected {low} or more")
        if self.dim < 1:
            raise ValueError(f"dim={self.dim}: expected 1 or more")
        if self.split not in SPLITS:
            raise ValueError(f"split={self.split!r}: expected one of {', '.join(SPLITS)}")
        optimizer = getattr(torch.optim, self.optimizer, None)
        if not (isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)):
            raise ValueError(f"optimizer={self.optimizer!r}: torch.optim has no such optimizer")

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
        embeddings: (N, D) float32, unit length, of the evaluation classes after training.
        weights: state of the trained network, see `model`.
        proxies: (P, D) float32, as trained (not rescaled).
    """

    config: RunConfig
    history: pd.DataFrame
    embeddings: np.ndarray
    weights: dict[str, np.ndarray]
    proxies: np.ndarray

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
    return ConvNet(channels, size, config.dim).normalize_like(train_set.images)


def _run(config: RunConfig, fingerprint: str) -> RunResult:
    """Method 900 with the study's network and evaluation. The fingerprint only keys the cache."""
    train_set, test_set = config.data()
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        generator = torch.Generator().manual_seed(config.seed)
        model = _network(config, train_set)
        objective = ProxyNCA(
            train_set.labels,
            config.dim,
            generator,
            config.embedding_norm,
            config.proxy_norm,
            config.include_positive,
        )
        optimizer = getattr(torch.optim, config.optimizer)(
            [
                {"params": model.parameters(), "lr": config.lr},
                {"params": objective.parameters(), "lr": config.proxy_lr},
            ]
        )

        def evaluate(step: int) -> dict[str, float]:
            embeddings = embed(model, test_set.images)
            metrics = recall_at_k(embeddings, test_set.labels)
            if step in (0, config.steps):
                metrics["nmi"] = nmi(embeddings, test_set.labels)
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
        return RunResult(
            config,
            table,
            embed(model, test_set.images).numpy(),
            {name: tensor.numpy() for name, tensor in model.state_dict().items()},
            objective.proxies.detach().numpy(),
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
    return {**asdict(config), "data_options": dict(config.data_options)}

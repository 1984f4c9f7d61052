"""Runs found again on disk, and sweeps of many in parallel."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version

import joblib
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from proxylib import datasets
from proxylib.datasets.caching import cached, is_cached
from proxylib.datasets.code import code_of
from proxylib.study import peers
from proxylib.study.methods import METHODS, SUCCESSORS
from proxylib.study.runs import backbones, pretraining, records, timm_weights
from proxylib.study.runs.config import RunConfig
from proxylib.study.runs.execution import Machine, RunResult, execute

DASK = "PROXYLIB_DASK"


def run(config: RunConfig) -> RunResult:
    """Load the cached result of an identical run, else train.

    Identical are runs with the same configuration, the same images, the same code as far as
    this run's method reaches, and the same versions of torch, numpy and scikit-learn.
    """
    return cached(train_run, config, fingerprint(config))


def train_run(config: RunConfig, key: str) -> RunResult:
    """The run, from its configuration and fingerprint; what `run` and `sweep` keep."""
    check_fingerprint(config, key, train_run)
    return execute(config)


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """A run of which only its history is known (records.py), and no network.

    Attributes:
        config, history, n_proxies: as in `RunResult`.
    """

    config: RunConfig
    history: pd.DataFrame
    n_proxies: int
    metrics = RunResult.metrics

    @classmethod
    def rebuild(cls, config: RunConfig, record: dict) -> "RecordedRun":
        return cls(config, pd.DataFrame(record["history"]), record["n_proxies"])

    def __getattr__(self, name: str):
        raise AttributeError(
            f"{name}: of this run only its history was recorded; sweep(…, whole=True) trains it"
        )


train_run.rebuild = RecordedRun.rebuild


def sweep(
    configs: Iterable[RunConfig],
    jobs: int = -1,
    progress: bool = True,
    keep_diverged: bool = False,
    work: Callable = train_run,
    arguments: Sequence[tuple] | None = None,
    whole: bool = False,
) -> list:
    """The results of many runs, in the order given; finished ones come from the cache.

    Those that the cache lacks but the project has recorded (records.py) come as `RecordedRun`.

    Every run uses one thread, so a result does not depend on how many run beside it. A run that
    fails stops the sweep; the finished ones stay in the cache.

    Args:
        jobs: runs at once; −1 = one per core. On a cluster (the environment variable
            `PROXYLIB_DASK` holds its scheduler's address) −1 = all its workers; they need this
            package, the data and, to share finished runs, the same `PROXYLIB_HOME`.
        progress: show a bar with an estimate of the time left.
        keep_diverged: go on past a run whose loss is no longer finite; its place in the list
            holds the error.
        work: what is done for each, given the configuration and its fingerprint, which it hands to
            `check_fingerprint`; the default returns a `RunResult`. Its attribute `rebuild` makes a
            result of the configuration and what was recorded of it.
        arguments: what `work` gets beside the two, a tuple for each configuration.
        whole: train what is only recorded, for its network or its embeddings are needed.
    """
    configs = list(configs)
    more = [()] * len(configs) if arguments is None else arguments
    with datasets.unchanged():
        given = [(c, fingerprint(c, work), *own) for c, own in zip(configs, more, strict=True)]
    results: list = [None] * len(given)
    todo = []
    with tqdm(total=len(given), disable=not progress, unit="run", desc="runs") as bar:
        for i, args in enumerate(given):
            if is_cached(work, *args):
                results[i] = cached(work, *args)
                bar.update()
            elif not whole and (record := records.find(work.__name__, *args)):
                results[i] = work.rebuild(args[0], record)
                bar.update()
            else:
                todo.append(i)
        if any(Machine.default(configs[i]).device == "cuda" for i in todo):
            jobs = 1  # a run fills the GPU
        with _backend():
            parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
            tasks = (joblib.delayed(_numbered)(work, i, *given[i]) for i in todo)
            for i, result in parallel(tasks):
                if isinstance(result, FloatingPointError) and not keep_diverged:
                    raise result
                results[i] = result
                bar.update()
    return results


@contextmanager
def _backend() -> Iterator[None]:
    """joblib's own processes, or those of the cluster whose scheduler `DASK` names."""
    if not (address := os.environ.get(DASK)):
        with joblib.parallel_config(backend="loky", initializer=_end_with, initargs=(os.getpid(),)):
            yield
        return
    try:
        from distributed import Client
    except ImportError as error:
        raise ImportError(
            f"{DASK}={address}: needs dask's package `distributed`: pip install 'proxylib[dask]'"
        ) from error
    with (
        Client(address, timeout="10s", set_as_default=False) as client,
        joblib.parallel_config(backend="dask", client=client),
    ):
        yield


def history(results: Iterable[RunResult], **columns: Iterable) -> pd.DataFrame:
    """All histories as one tidy table, with the seed and further columns (one value a run)."""
    results = list(results)
    columns = {name: list(values) for name, values in columns.items()}
    tables = [
        result.history.assign(
            seed=result.config.seed, **{name: values[i] for name, values in columns.items()}
        )
        for i, result in enumerate(results)
    ]
    return pd.concat(tables, ignore_index=True)


def fingerprint(config: RunConfig, work: Callable = train_run) -> str:
    """Hash of what, beside the configuration, decides a result: data, code, versions.

    Args:
        work: what is done with the configuration, see `sweep`; its code counts as well.
    """
    root = execute if work is train_run else work  # how a run is kept doesn't change it
    method = METHODS[config.method]
    # What the registry says and the configuration does not.
    fixed = {"normalize": method.normalize, **getattr(method.objective, "keywords", {})}
    parts = [code_of(root, *method.code()), *(f"{k}={v}" for k, v in fixed.items())]
    parts += [part.fingerprint() for part in config.data()]
    parts += [torch.__version__, np.__version__, version("scikit-learn")]
    if config.method in SUCCESSORS:
        parts.append(peers.version())
    if config.backbone != "convnet":
        parts.append(version("torchvision"))
        if config.backbone != backbones.GOOGLENET:
            parts.append(version("timm"))
            if config.init == "pretrained":
                parts.append(timm_weights.weights_hash(config.backbone))
    elif config.init == "pretrained":
        parts.append(pretraining.key(config.data()[0].images.shape[2]))
    parts += [d for d in [Machine.default(config).device] if d != "cpu"]
    return " ".join(parts)


def _numbered(work: Callable, i: int, *args) -> tuple[int, object]:
    try:
        return i, cached(work, *args)
    except FloatingPointError as error:
        return i, error


def _end_with(parent: int) -> None:
    """End this process soon after its parent, which may be killed any time: else it would stay."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def check_fingerprint(config: RunConfig, key: str, work: Callable) -> None:
    """Refuse to compute under a fingerprint that is not the one of this process; see `sweep`.

    Raises:
        RuntimeError: this process has loaded other code, data or versions than its caller.
    """
    if (here := fingerprint(config, work)) != key:
        raise RuntimeError(
            f"the run's fingerprint is {here} in this process and {key} in the one that asked for "
            "it: code, data or versions have changed in between; restart the kernel"
        )

"""Runs found again on disk, and sweeps of many in parallel."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version

import joblib
import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

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
    return cached(_run, *_arguments(config))


def _run(config: RunConfig, key: str) -> RunResult:
    check_fingerprint(config, key)
    return execute(config)


@dataclass(frozen=True, eq=False)
class RecordedRun:
    """A run of which only its history is at hand; whatever else is asked for is trained then.

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
        if name not in RunResult.__annotations__ and name != "model":
            raise AttributeError(name)
        return getattr(run(self.config), name)


_run.rebuild = RecordedRun.rebuild


def sweep(
    configs: Iterable[RunConfig],
    jobs: int = -1,
    progress: bool = True,
    keep_diverged: bool = False,
    work: Callable = _run,
) -> list:
    """The results of many runs, in the order given; finished ones come from the cache.

    Those that the cache lacks but somebody has recorded (records.py) come as `RecordedRun`.

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
    """
    arguments = [_arguments(config) for config in configs]
    results: list = [None] * len(arguments)
    todo = []
    with tqdm(total=len(arguments), disable=not progress, unit="run", desc="runs") as bar:
        for i, args in enumerate(arguments):
            if is_cached(work, *args):
                results[i] = cached(work, *args)
                bar.update()
            elif record := records.find(work.__name__, *args):
                results[i] = work.rebuild(args[0], record)
                bar.update()
            else:
                todo.append(i)
        if any(Machine.default(arguments[i][0]).device == "cuda" for i in todo):
            jobs = 1  # a run fills the GPU
        with _backend():
            parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
            tasks = (joblib.delayed(_numbered)(work, i, *arguments[i]) for i in todo)
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


def fingerprint(config: RunConfig) -> str:
    """Hash of what, beside the configuration, decides a run's result: data, code, versions."""
    method = METHODS[config.method]
    # What the registry says and the configuration does not.
    fixed = {"normalize": method.normalize, **getattr(method.objective, "keywords", {})}
    parts = [code_of(execute, *method.code()), *(f"{k}={v}" for k, v in fixed.items())]
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


def _arguments(config: RunConfig) -> tuple[RunConfig, str]:
    return config, fingerprint(config)


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


def check_fingerprint(config: RunConfig, key: str) -> None:
    """Refuse to compute under a fingerprint that is not the one of this process.

    Raises:
        RuntimeError: this process has loaded other code, data or versions than its caller.
    """
    if (here := fingerprint(config)) != key:
        raise RuntimeError(
            f"the run's fingerprint is {here} in this process and {key} in the one that asked for "
            "it: code, data or versions have changed in between; restart the kernel"
        )

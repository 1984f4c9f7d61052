"""Runs found again on disk, and sweeps of many in parallel."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import joblib
import numpy as np
import pandas as pd
import sklearn
import torch
from tqdm import tqdm

from proxylib.caching import cached, code_fingerprint, is_cached
from proxylib.config import RunConfig, describe
from proxylib.execution import Machine, RunResult, execute

__all__ = ["RunConfig", "RunResult", "describe", "fingerprint", "history", "run", "sweep"]

DASK = "PROXYLIB_DASK"
# The code that decides a result; what data it gets is hashed by content.
RESULT_CODE = ("losses.py", "proxies.py", "samplers.py", "objectives.py", "baselines.py")
RESULT_CODE += ("struct_clust.py", "methods.py", "models.py", "backbones.py", "augmentation.py")
RESULT_CODE += ("loading.py", "training.py", "pretraining.py", "evaluation.py")
RESULT_CODE += ("bounds/triplets.py", "bounds/inequalities.py", "bounds/dataset.py", "execution.py")


def run(config: RunConfig) -> RunResult:
    """The run's result, from the cache if its like was finished before.

    A finished run is found again only under the same configuration, the same images, the same
    result-determining code and the same versions of torch, numpy and scikit-learn.
    """
    return cached(_run, *_arguments(config))


def sweep(
    configs: Iterable[RunConfig],
    jobs: int = -1,
    progress: bool = True,
    keep_diverged: bool = False,
) -> list[RunResult | FloatingPointError]:
    """The results of many runs, in the order given; finished ones come from the cache.

    Every run uses one thread, so a result does not depend on how many run beside it. A run that
    fails stops the sweep; the finished ones stay in the cache.

    Args:
        jobs: runs at once; −1 = one per core. On a cluster (the environment variable
            `PROXYLIB_DASK` holds its scheduler's address) −1 = all its workers; they need this
            package, the data and, to share finished runs, the same `PROXYLIB_HOME`.
        progress: show a bar with an estimate of the time left.
        keep_diverged: go on past a run whose loss is no longer finite; its place in the list
            holds the error.
    """
    arguments = [_arguments(config) for config in configs]
    results: list[RunResult | FloatingPointError | None] = [None] * len(arguments)
    todo = []
    with tqdm(total=len(arguments), disable=not progress, unit="run", desc="runs") as bar:
        for i, args in enumerate(arguments):
            if is_cached(_run, *args):
                results[i] = cached(_run, *args)
                bar.update()
            else:
                todo.append(i)
        if any(Machine.default(arguments[i][0]).device == "cuda" for i in todo):
            jobs = 1  # a run fills the GPU
        with _backend():
            parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
            for i, result in parallel(joblib.delayed(_numbered)(i, *arguments[i]) for i in todo):
                if isinstance(result, FloatingPointError) and not keep_diverged:
                    raise result
                results[i] = result
                bar.update()
    return results


@contextmanager
def _backend() -> Iterator[None]:
    """joblib's own processes, or those of the cluster whose scheduler `DASK` names."""
    if not (address := os.environ.get(DASK)):
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
    tables = [
        result.history.assign(
            seed=result.config.seed, **{name: list(values)[i] for name, values in columns.items()}
        )
        for i, result in enumerate(results)
    ]
    return pd.concat(tables, ignore_index=True)


def fingerprint(config: RunConfig) -> str:
    """Hash of what, beside the configuration, decides a run's result: data, code, versions."""
    parts = [part.fingerprint() for part in config.data()]
    versions = [torch.__version__, np.__version__, sklearn.__version__]
    device = [d for d in [Machine.default(config).device] if d != "cpu"]
    return " ".join([code_fingerprint(*RESULT_CODE), *parts, *versions, *device])


def _arguments(config: RunConfig) -> tuple[RunConfig, str]:
    return config, fingerprint(config)


def _numbered(i: int, *args) -> tuple[int, RunResult | FloatingPointError]:
    try:
        return i, cached(_run, *args)
    except FloatingPointError as error:
        return i, error


def _run(config: RunConfig, fingerprint: str) -> RunResult:
    """The fingerprint only keys the cache."""
    return execute(config)

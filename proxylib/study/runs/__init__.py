"""Runs: from a configuration to a result that is found again on disk."""

from proxylib.study.runs.cache import DASK, fingerprint, history, run, sweep
from proxylib.study.runs.config import RunConfig, describe
from proxylib.study.runs.execution import RunResult

__all__ = ["DASK", "RunConfig", "RunResult", "describe", "fingerprint", "history", "run", "sweep"]

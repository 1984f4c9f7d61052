"""Results on disk (joblib), found again only under the same arguments and the same code."""

from collections.abc import Callable

from joblib import Memory

from proxylib.datasets import paths


def cached(function: Callable, *args):
    """`function(*args)`, read from `data/cache` if it was computed before.

    One of `args` should be the fingerprint of the code that computes the result (see code.py):
    then a result of older code is not taken for one of the present code. joblib writes each
    result to a temporary file and renames it, so that a crash leaves nothing half-written. If a
    result on disk is damaged, joblib logs a warning and computes it again.
    """
    return Memory(paths.cache(), verbose=0).cache(function)(*args)


def is_cached(function: Callable, *args) -> bool:
    """True if the result is on disk."""
    return Memory(paths.cache(), verbose=0).cache(function).check_call_in_cache(*args)

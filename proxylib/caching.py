"""Results on disk (joblib), found again only under the same arguments and the same code."""

import ast
import functools
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path

from joblib import Memory

from proxylib import paths

logging.getLogger("joblib").setLevel(logging.ERROR)


def cached(function: Callable, *args):
    """`function(*args)`, read from `data/cache` if it was computed before.

    The caller makes the code's fingerprint one of `args`, so that old results are never taken
    for new ones. joblib writes each result to a temporary file and renames it: a crash leaves
    nothing half-written, and a damaged result is computed again.
    """
    return Memory(paths.cache(), verbose=0).cache(function)(*args)


def is_cached(function: Callable, *args) -> bool:
    """Whether `cached(function, *args)` would only read."""
    return Memory(paths.cache(), verbose=0).cache(function).check_call_in_cache(*args)


@functools.cache
def code_fingerprint(*files: str) -> str:
    """Hash of what the given source files (relative to the package) do.

    Comments, layout and docstrings do not count: better words must not cost hours of runs.
    """
    digest = hashlib.sha256()
    for name in files:
        file = Path(__file__).parent / name
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list) and body and _is_docstring(body[0]):
                del body[0]
        digest.update(f"{name}\n{ast.dump(tree)}\n".encode())
    return digest.hexdigest()[:16]


def _is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )

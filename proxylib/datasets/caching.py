"""Results on disk (joblib), found again only under the same arguments and the same code."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import joblib
from joblib._store_backends import FileSystemStoreBackend
from joblib.func_inspect import get_func_name

from proxylib.datasets import paths


class HashedFiles(FileSystemStoreBackend):
    """joblib's files, each with its SHA-256 beside it: damaged and foreign ones do not count.

    The hash finds accidents. Whoever can write in the cache can write both files, and the result
    is a pickle, which runs what it says: the cache is for trusted users only.
    """

    def dump_item(self, call_id, *args, **options) -> None:
        super().dump_item(call_id, *args, **options)
        result, hashed = self._files(call_id)
        if result.exists():  # else the disk is full, of which joblib has warned
            self._concurrency_safe_write(
                _sha256(result), str(hashed), lambda text, to: Path(to).write_text(text)
            )

    def contains_item(self, call_id) -> bool:
        result, hashed = self._files(call_id)
        try:
            return hashed.read_text() == _sha256(result)
        except (OSError, UnicodeDecodeError):
            return False

    def _files(self, call_id) -> tuple[Path, Path]:
        folder = Path(self.location, *call_id)
        return folder / "output.pkl", folder / "output.sha256"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


joblib.register_store_backend("hashed", HashedFiles)


def cached(
    function: Callable, *args, unhashed: Mapping[str, object] | None = None, mapped: bool = False
):
    """`function(*args, **unhashed)`, read from `data/cache` if it was computed before.

    One of `args` should be the fingerprint of the code that computes the result (see code.py):
    then a result of older code is not taken for one of the present code. joblib writes each
    result to a temporary file and renames it, so that a crash leaves nothing half-written. A
    result on disk that is damaged is computed again.

    Args:
        unhashed: arguments that the result is not looked up by; `args` must stand for them.
        mapped: numpy arrays of the result stay on disk and are mapped into memory.
    """
    unhashed = unhashed or {}
    memory = _memory("c" if mapped else None)  # copy on write: torch wants arrays to be writable
    return memory.cache(function, ignore=list(unhashed))(*args, **unhashed)


def is_cached(function: Callable, *args) -> bool:
    """True if the result is on disk, whole."""
    return _memory().cache(function).check_call_in_cache(*args)


def finished(function: Callable) -> Iterator[tuple[dict[str, str], Callable[[], object]]]:
    """Of all that is on disk of a function: its arguments, as text, and what loads the result."""
    backend = _memory().store_backend
    folder = Path(*get_func_name(function)[0], function.__name__)
    for file in sorted(Path(backend.location, folder).glob("*/metadata.json")):
        call_id = (str(folder), file.parent.name)
        if backend.contains_item(call_id):
            arguments = json.loads(file.read_text(encoding="utf-8"))["input_args"]
            yield arguments, partial(backend.load_item, call_id)


def _memory(mmap_mode: str | None = None) -> joblib.Memory:
    return joblib.Memory(paths.cache(), backend="hashed", verbose=0, mmap_mode=mmap_mode)

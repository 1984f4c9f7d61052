"""Data sets: images plus one integer label per image, and their zero-shot splits."""

import contextlib
import functools
import hashlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path

from torch import Tensor

from proxylib.datasets import (
    cars196,
    cars196_half,
    cub200,
    folder,
    grocery,
    kanji,
    omniglot,
    paths,
    sop,
)
from proxylib.datasets.base import Dataset, validation_split, zero_shot_split
from proxylib.datasets.files import ImageFiles, read_file

__all__ = ["FETCH", "NAMES", "Dataset", "ImageFiles", "load", "read_file", "read_like"]
__all__ += ["unchanged", "validation_split", "zero_shot_split"]

READERS = {"omniglot": omniglot, "folder": folder, "cub200": cub200, "cars196": cars196, "sop": sop}
READERS |= {"grocery": grocery, "cars196-half": cars196_half}
NAMES = ("kanji", *READERS)
# those that `proxylib fetch` can download, or unpack
FETCH = {name: reader.fetch for name, reader in READERS.items() if reader is not folder}
# within `unchanged`: folder → `_state`
_SEEN: ContextVar[dict[Path, str]] = ContextVar("seen")


def load(name: str, data_root: str | Path | None = None, **options) -> Dataset:
    """The data set of that name.

    The last four are kept in memory and returned again, as long as no file of theirs changes (see
    `unchanged`).

    Args:
        name: `"kanji"` (built in, drawn at first use), `"omniglot"`, `"grocery"`, `"cub200"`,
            `"cars196"`, `"cars196-half"` or `"sop"` (to be fetched once) or `"folder"` (your own
            images).
        data_root: the folder that holds the images. `"folder"` needs it, `"kanji"` has none, and
            all others look in `data/NAME` without it.
        options: see `load` in the module of that name.

    Raises:
        ValueError: an unknown name, or a data set that can't be used; says which and why.
        FileNotFoundError: no folder at `data_root`, or a data set that has not been fetched.
        TypeError: an option that the data set doesn't have.
    """
    if name not in NAMES:
        raise ValueError(f"unknown dataset {name!r}, expected one of {', '.join(NAMES)}")
    if name == "kanji":
        if data_root:
            raise ValueError(f"kanji is built in and reads no data_root, got {str(data_root)!r}")
        return _load(name, None, "", **options)
    if not data_root and name == "folder":
        return folder.load("")  # says what is expected
    root = paths.expanded(data_root or paths.data() / name)
    seen = _SEEN.get({})
    if root not in seen:
        seen[root] = _state(root)
    return _load(name, root, seen[root], **options)


@contextlib.contextmanager
def unchanged() -> Iterator[None]:
    """Within it `load` looks once whether a folder's files have changed, not at every call."""
    before = _SEEN.set({})
    try:
        yield
    finally:
        _SEEN.reset(before)


@functools.lru_cache(maxsize=4)
def _load(name: str, root: Path | None, state: str, **options) -> Dataset:
    return READERS[name].load(root, **options) if root else kanji.load(**options)


def _state(root: Path) -> str:
    """Hash that changes with any file below the folder; does not read them."""
    digest = hashlib.sha256()
    for inner, _, names in folder.walk(root, []):
        digest.update(os.fsencode(inner) + b"\0")
        for name in names:
            try:
                stat = os.stat(os.path.join(inner, name))
            except OSError:  # a link to nowhere; whoever reads it will tell
                continue
            found = stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino
            digest.update(os.fsencode(name) + f"\0{found}".encode())
    return digest.hexdigest()


def read_like(dataset: Dataset, path: str | Path) -> Tensor:
    """An image file, brought to a square as the data set does it with its own files.

    The whole picture is taken, for the boxes of a data set belong to its own files.
    """
    channels, size = dataset.images.shape[1:3]
    return read_file(path, size, channels, isinstance(dataset.images, ImageFiles))

"""Data sets: images plus one integer label per image, and their zero-shot splits."""

import functools
from pathlib import Path

from proxylib.datasets import folder, kanji, omniglot
from proxylib.datasets.base import Dataset, validation_split, zero_shot_split

__all__ = ["FETCH", "NAMES", "Dataset", "load", "validation_split", "zero_shot_split"]

NAMES = ("kanji", "omniglot", "folder")
FETCH = {"omniglot": omniglot.fetch}  # those that `proxylib fetch` can download


@functools.lru_cache(maxsize=4)
def load(name: str, data_root: str | Path | None = None, **options) -> Dataset:
    """The data set of that name.

    Args:
        name: `"kanji"` (built in, drawn at first use), `"omniglot"` (to be fetched once) or
            `"folder"` (your own images).
        data_root: where the images are; not for `"kanji"`, and `"omniglot"` has a default.
        options: see `load` in `proxylib.datasets.kanji`, `.omniglot` and `.folder`.

    Raises:
        ValueError: an unknown name, or a data set that can't be used; says which and why.
        FileNotFoundError: no folder at `data_root`, or a data set that has not been fetched.
    """
    if name == "kanji":
        if data_root:
            raise ValueError(f"kanji is built in and reads no data_root, got {str(data_root)!r}")
        return kanji.load(**options)
    if name == "omniglot":
        return omniglot.load(data_root or "", **options)
    if name == "folder":
        return folder.load(data_root or "", **options)
    raise ValueError(f"unknown dataset {name!r}, expected one of {', '.join(NAMES)}")

"""Data sets: images plus one integer label per image, and their zero-shot splits."""

import functools
from pathlib import Path

import torch
from torch import Tensor

from proxylib.datasets import cars196, cub200, folder, kanji, omniglot, sop
from proxylib.datasets.base import Dataset, validation_split, zero_shot_split
from proxylib.datasets.files import ImageFiles, read_photo

__all__ = ["FETCH", "NAMES", "Dataset", "ImageFiles", "load", "read_file", "read_like"]
__all__ += ["validation_split", "zero_shot_split"]

READERS = {"omniglot": omniglot, "folder": folder, "cub200": cub200, "cars196": cars196, "sop": sop}
NAMES = ("kanji", *READERS)
# those that `proxylib fetch` can download, or unpack
FETCH = {name: reader.fetch for name, reader in READERS.items() if reader is not folder}


@functools.lru_cache(maxsize=4)
def load(name: str, data_root: str | Path | None = None, **options) -> Dataset:
    """The data set of that name.

    Args:
        name: `"kanji"` (built in, drawn at first use), `"omniglot"`, `"cub200"`, `"cars196"` or
            `"sop"` (to be fetched once) or `"folder"` (your own images).
        data_root: where the images are; not for `"kanji"`, optional but for `"folder"`.
        options: see `load` in the module of that name.

    Raises:
        ValueError: an unknown name, or a data set that can't be used; says which and why.
        FileNotFoundError: no folder at `data_root`, or a data set that has not been fetched.
    """
    if name == "kanji":
        if data_root:
            raise ValueError(f"kanji is built in and reads no data_root, got {str(data_root)!r}")
        return kanji.load(**options)
    if name not in READERS:
        raise ValueError(f"unknown dataset {name!r}, expected one of {', '.join(NAMES)}")
    return READERS[name].load(data_root or "", **options)


def read_file(path: str | Path, size: int, channels: int, squeezed: bool) -> Tensor:
    """An image file as (channels, size, size) uint8.

    Args:
        squeezed: bring the whole picture to a square, as the patent's data sets do (RGB only);
            else fill the square and cut what is over, as all others do.

    Raises:
        ValueError: it can't be read; names the path.
    """
    if squeezed:
        return read_photo(path, size)
    return torch.tensor(folder.read_image(path, size, channels))


def read_like(dataset: Dataset, path: str | Path) -> Tensor:
    """An image file as the data set reads its own, see `read_file`."""
    channels, size = dataset.images.shape[1:3]
    return read_file(path, size, channels, isinstance(dataset.images, ImageFiles))

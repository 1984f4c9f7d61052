"""Real handwriting: 242 characters of eight alphabets, each drawn once by each of 20 people.

The two "small background" sets of Omniglot (Lake, Salakhutdinov and Tenenbaum, Science 2015),
each character once: two alphabets are in both.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from proxylib.datasets import folder, paths
from proxylib.datasets.base import Dataset
from proxylib.datasets.fetch import download, install

CREDIT = "Omniglot: Lake, Salakhutdinov and Tenenbaum, Science 2015, MIT licence"
URL = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
HASHES = {
    "images_background_small1.zip": (
        "sha256:f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4"
    ),
    "images_background_small2.zip": (
        "sha256:3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f"
    ),
}
N_CLASSES, N_IMAGES = 242, 20


def fetch(say: Callable[[str], None] = print, progress: bool = False) -> Path:
    """Download and unpack to `data/omniglot/ALPHABET/characterNN/*.png`; see `fetch.install`."""
    return install(
        "omniglot",
        lambda: [download(URL + name, known, progress) for name, known in HASHES.items()],
        load,
        say,
        progress,
        strip=1,
    )


def load(data_root: str | Path = "", size: int = 32) -> Dataset:
    """The same as `folder.load`, checked to be whole: 242 classes of 20 images.

    Args:
        data_root: a tree ALPHABET/characterNN/*.png; default `data/omniglot`.
        size: side in pixels to which every image is brought.

    Raises:
        FileNotFoundError: no such folder; says how to get it.
        ValueError: unreadable images, or another number of classes or images; says which.
    """
    root = Path(data_root).expanduser() if data_root else paths.data() / "omniglot"
    if not root.is_dir():
        raise FileNotFoundError(
            f"omniglot: no folder {root.absolute()}: run `proxylib fetch omniglot`, or say in "
            "data_root where your copy is"
        )
    dataset = folder.load(root, size)
    counts = torch.bincount(dataset.labels).tolist()
    named = zip(dataset.class_names, counts, strict=True)
    odd = [f"{name} ({count})" for name, count in named if count != N_IMAGES]
    if dataset.n_classes != N_CLASSES or odd:
        raise ValueError(
            f"omniglot: expected {N_CLASSES} characters × {N_IMAGES} images in {root}, found "
            f"{dataset.n_classes} characters, {len(dataset)} images"
            + (f"; not {N_IMAGES}: {', '.join(odd[:10])}{' …' * (len(odd) > 10)}" if odd else "")
            + ". Move the folder away and run `proxylib fetch omniglot`"
        )
    return dataclasses.replace(dataset, name="omniglot", credit=CREDIT)

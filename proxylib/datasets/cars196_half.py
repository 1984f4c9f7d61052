"""The training half of Cars196, cut to the cars: what most people can still get of the data set.

All 196 models are in it, with 24 to 68 photographs each, 8,144 in all. The first 98 models train
and the others test, as with the whole set (paper section 5).
"""

from collections.abc import Callable
from pathlib import Path

from proxylib.datasets import cars196, folder
from proxylib.datasets.base import Dataset
from proxylib.datasets.fetch import install as unpack
from proxylib.datasets.paths import downloads
from proxylib.datasets.photos import Annotations, begin, build, present

ARCHIVE = "cars196-half.tar"
N_CLASSES, N_TRAIN, N_IMAGES = 196, 98, 8_144
ADVICE = (
    f"{cars196.WHERE}cars_train/*.jpg with devkit/cars_meta.mat "
    "and devkit/cars_train_annos.mat; or one folder per model, whose names in order are the "
    "official order, with the photographs already cut to the cars"
)


def fetch(say: Callable[[str], None] = print, progress: bool = False) -> Path:
    """Unpack `cars196-half.tar`, one folder per model, from `data/downloads`.

    Nothing is downloaded, for the links are dead. See `fetch.install`.
    """

    def archives() -> list[Path]:
        if not (file := downloads() / ARCHIVE).is_file():
            raise OSError(f"cars196-half: no file {file}\n{ADVICE}")
        return [file]

    def verify(root: Path) -> list[Path]:
        return present(_read(root))

    return unpack("cars196-half", archives, verify, say, progress, strip=1)


def load(data_root: str | Path = "", size: int = 128) -> Dataset:
    """The 8,144 photographs of the official training half, checked to be whole.

    Args:
        data_root: the official files, which are cut to the boxes of the devkit, or one folder per
            model with pictures that are cut already; default `data/cars196-half`.
        size: side in pixels that every image is squeezed to.

    Raises: see `datasets.load`.
    """
    return build(_read(data_root), N_IMAGES, N_TRAIN, cars196.CREDIT, size)


def _read(data_root: str | Path) -> Annotations:
    found = begin("cars196-half", data_root, "cars196-half", ADVICE)
    if any((found.root / name).is_dir() for name in ("devkit", "cars_train")):
        return cars196.read_half(found)
    tree: list[str] = []
    leaves = list(folder.leaves(found.root, tree))
    found.problems["file"] += tree
    found.class_names = [leaf.name for leaf, _ in leaves]
    found.count("folders", len(leaves), N_CLASSES)
    for label, (leaf, files) in enumerate(leaves):
        for file in files:
            found.add(leaf, file.name, label, f"{leaf.name}/{file.name}")
    found.count("images", len(found.images), N_IMAGES)
    return found

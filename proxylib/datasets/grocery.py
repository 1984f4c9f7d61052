"""Products in shops: 81 kinds of fruit, vegetables and packages, the first 40 train.

Its photographs come in an official split: what was photographed for `test.txt` is searched for,
and what was for `train.txt` is the gallery (M. Klasson, C. Zhang, H. Kjellström, WACV 2019). Many
of a kind were taken one after the other, so that a query's own neighbours in time would be too
easy to find.
"""

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch

from proxylib.datasets import paths
from proxylib.datasets.base import Dataset, check
from proxylib.datasets.fetch import download, hash_of_all, install
from proxylib.datasets.photos import Annotations, begin, build, present

CREDIT = "Grocery Store: Klasson, Zhang and Kjellström, WACV 2019, MIT licence"
COMMIT = "fc80ba90f803d79d0383df52c5a4ac5de99ff6fc"
ARCHIVE = f"GroceryStoreDataset-{COMMIT}"  # its name as a download, and its outermost folder
URL = f"https://github.com/marcusklasson/GroceryStoreDataset/archive/{COMMIT}/{ARCHIVE}.tar.gz"
# of the files below `dataset/`, see `hash_of_all`
HASH = "sha256:fe9c2e8aff5bd2824721cd7ecda8867968077870ad1568dd029bc5cb553a6f4c"
N_CLASSES, N_TRAIN, N_IMAGES = 81, 40, 5_421
SPLITS = {"train": 2_640, "val": 296, "test": 2_485}  # photographs
ADVICE = (
    "`proxylib fetch grocery` downloads 130 MB, or say in data_root where your copy is. Expected: "
    "classes.csv, train.txt, val.txt, test.txt and train/, val/, test/ with the photographs, all "
    "in the folder dataset/"
)


def fetch(say: Callable[[str], None] = print, progress: bool = False) -> Path:
    """Download and unpack to `data/grocery`; see `fetch.install`.

    GitHub packs the archive when it is asked for, so its bytes may change: the unpacked files are
    checked by their hash. An archive of the commit (.zip, .tar.gz or .tar) that lies in
    `data/downloads` under GitHub's name is taken instead.
    """

    def archives() -> list[Path]:
        names = (paths.downloads() / f"{ARCHIVE}{end}" for end in (".zip", ".tar.gz", ".tar"))
        there = next(filter(Path.is_file, names), None)
        return [there or download(URL, None, progress)]

    return install("grocery", archives, _verify, say, progress, strip=1)


def load(data_root: str | Path = "", size: int = 32) -> Dataset:
    """The photographs of 81 kinds, checked to be whole, with queries and a gallery.

    The official test photographs are the queries, and never train. The others train, or are the
    gallery. Of the 41 classes that test, the official validation photographs are left out: their
    gallery is the official training photographs alone. The iconic pictures were not taken in a
    shop, and are not used.

    Args:
        data_root: the folder `dataset` or the one it is in; default `data/grocery`.
        size: side in pixels that every image is squeezed to. (Most are square, some are 4:3.)

    Raises: see `datasets.load`.
    """
    found = _read(data_root)
    dataset = build(found, N_IMAGES, N_TRAIN, CREDIT, size)
    splits = [file.relative_to(found.root).parts[0] for file in dataset.images.files]
    queries, validation = (torch.tensor([s == name for s in splits]) for name in ("test", "val"))
    used = ~(validation & (dataset.labels >= N_TRAIN))
    return check(dataclasses.replace(dataset, queries=queries).select(used))


def _verify(root: Path) -> None:
    """Raises ValueError unless the folder holds exactly the files of the commit."""
    found = _read(root)
    present(found)
    if (came := hash_of_all(found.root)) != HASH:
        raise ValueError(
            f"grocery: the files in {found.root} have the hash {came}, expected {HASH}, that of "
            f"commit {COMMIT}. Delete the archive in {paths.downloads()}, or move "
            f"{paths.data() / 'grocery'} away, and run `proxylib fetch grocery` again"
        )


def _read(data_root: str | Path) -> Annotations:
    found = begin("grocery", data_root, "dataset", ADVICE)
    found.class_names = _class_names(found)
    for split, n_images in SPLITS.items():
        name = f"{split}.txt"
        lines = _lines(found, name)
        found.count(f"{name}, images", len(lines), n_images)
        for n, line in enumerate(lines, 1):
            path, *numbers = (text.strip() for text in line.rsplit(",", 2))
            if not (len(numbers) == 2 and all(number.isdecimal() for number in numbers)):
                found.problems["line"].append(
                    f"{name}:{n}: {line[:80]!r}, expected `path, class, coarse class`"
                )
                continue
            label = int(numbers[0])
            if label >= N_CLASSES or path.split("/")[0] != split:
                found.problems["label"].append(
                    f"{name}:{n}: class {label} for {path}, expected 0 … {N_CLASSES - 1} and a "
                    f"path in {split}/"
                )
            found.add(found.root, path, label, f"{name}:{n}")
    return found


def _class_names(found: Annotations) -> list[str]:
    """The names of the classes in the order of their numbers, from `classes.csv`."""
    _, *rows = csv.reader(_lines(found, "classes.csv") or ["no header"])
    numbers = [row[1] if len(row) > 1 else "none" for row in rows]
    for n, number in enumerate(numbers):
        if number != str(n) or n >= N_CLASSES:
            found.problems["label"].append(
                f"classes.csv:{n + 2}: class {number}, expected 0 … {N_CLASSES - 1} in order"
            )
    found.count("classes.csv, classes", len(rows), N_CLASSES)
    names = [row[0] for row in rows if row]
    return (names + ["?"] * N_CLASSES)[:N_CLASSES]


def _lines(found: Annotations, name: str) -> list[str]:
    """The lines of a text file; none, and a problem, if there is no such file."""
    file = found.root / name
    if not file.is_file():
        found.problems["file"].append(f"{file}: no such file")
        return []
    return file.read_text(encoding="utf-8", errors="replace").splitlines()

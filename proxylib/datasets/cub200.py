"""Caltech-UCSD Birds-200-2011: 200 classes, the first 100 train (paper section 5)."""

from collections.abc import Callable
from pathlib import Path

from proxylib.datasets.base import Dataset
from proxylib.datasets.fetch import download
from proxylib.datasets.photos import Annotations, begin, build, install

CREDIT = "CUB-200-2011: Wah et al. 2011; for research, see its site"
URL = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
HASH = "md5:97eceeb196236b17998738112f37df78"
N_CLASSES, N_TRAIN, N_IMAGES = 200, 100, 11_788
ADVICE = (
    "`proxylib fetch cub200` downloads 1.2 GB, or say in data_root where your copy is. Expected: "
    "images.txt, image_class_labels.txt, classes.txt and images/001.Black_footed_Albatross/*.jpg …"
)


def fetch(say: Callable[[str], None] = print, progress: bool = False) -> Path:
    """Download and unpack to `data/cub200/CUB_200_2011`; see `fetch.install`."""
    return install("cub200", lambda: [download(URL, HASH, progress)], _read, say, progress)


def load(
    data_root: str | Path = "", size: int = 256, allow_partial: bool = False, boxes: bool = False
) -> Dataset:
    """CUB-200-2011 as it unpacks, checked to be whole: 11,788 images of 200 classes.

    Args:
        data_root: the folder CUB_200_2011 or the one it is in; default `data/cub200`.
        size: side in pixels that every image is squeezed to.
        allow_partial: use the images that are there; classes with fewer than 2 are left out.
        boxes: cut every image to the bounding box in `bounding_boxes.txt` first.

    Raises: see `datasets.load`.
    """
    return build(_read(data_root, allow_partial, boxes), N_IMAGES, N_TRAIN, CREDIT, size)


def _read(data_root: str | Path, partial: bool = False, boxes: bool = False) -> Annotations:
    found = begin("cub200", data_root, "CUB_200_2011", ADVICE, partial)
    images = found.table("images.txt", "image_id path")
    labels = found.table("image_class_labels.txt", "image_id class_id")
    tables = {"images.txt": images, "image_class_labels.txt": labels}
    if boxes:
        tables["bounding_boxes.txt"] = found.table(
            "bounding_boxes.txt", "image_id x y width height", kind=float
        )
    classes = found.table("classes.txt", "class_id name")
    found.class_names = [classes.get(c, ("?",))[0] for c in range(1, N_CLASSES + 1)]
    found.count("images.txt, images", len(images), N_IMAGES)
    for c in sorted(classes.keys() ^ set(range(1, N_CLASSES + 1)) if classes else ()):
        found.problems["label"].append(
            f"classes.txt: class {c} {'has no line' if c not in classes else 'is unknown'}, "
            f"expected 1 … {N_CLASSES}"
        )
    filled = {name: rows for name, rows in tables.items() if rows}
    for i in sorted(set().union(*filled.values())):
        has, *_ = [name for name, rows in filled.items() if i in rows]
        found.problems["label"] += [
            f"{has}:{filled[has][i][-1]}: image {i} is not in {name}"
            for name, rows in filled.items()
            if i not in rows
        ]
    for i in sorted(set(images).intersection(*tables.values())):
        (path, n), (label, line), box = images[i], labels[i], None
        if boxes:
            x, y, width, height, _ = tables["bounding_boxes.txt"][i]
            box = x, y, x + width, y + height
        # A path begins with the number of its class: 017.Cardinal/…
        if path.split(".")[0] != f"{label:03}" or not 1 <= label <= N_CLASSES:
            found.problems["label"].append(
                f"image_class_labels.txt:{line}: class {label} for image {i}, {path}, expected the "
                f"number that its path begins with, 1 … {N_CLASSES}"
            )
        found.add(found.root / "images", path, label - 1, f"images.txt:{n}", box)
    return found

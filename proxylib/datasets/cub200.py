"""Caltech-UCSD Birds-200-2011: 200 classes, the first 100 train (paper section 5)."""

from collections.abc import Callable
from pathlib import Path

from proxylib.datasets.base import Dataset
from proxylib.datasets.fetch import download, install
from proxylib.datasets.photos import Annotations, build, find_root, present

CREDIT = "CUB-200-2011: Wah et al. 2011; for research, see its site"
URL = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
HASH = "md5:97eceeb196236b17998738112f37df78"
N_CLASSES, N_TRAIN, N_IMAGES = 200, 100, 11_788
ADVICE = (
    "`proxylib fetch cub200` downloads 1.2 GB, or say in data_root where your copy is. Expected: "
    "images.txt, image_class_labels.txt, classes.txt and images/001.Black_footed_Albatross/*.jpg …"
)


def fetch(say: Callable[[str], None] = print, progress: bool = False) -> Path:
    """Download and unpack to `data/cub200/CUB_200_2011`, unless it is there.

    An archive put into `data/downloads` by hand is taken instead of the network.

    Raises:
        OSError: no network, or no file with the right hash; what came is kept for the next call.
        ValueError: what is there is not the whole data set.
    """
    return install("cub200", lambda: [download(URL, HASH, progress)], _check, say, progress)


def load(
    data_root: str | Path = "", size: int = 256, decoded: bool = False, allow_partial: bool = False
) -> Dataset:
    """CUB-200-2011 as it unpacks, checked to be whole: 11,788 images of 200 classes.

    Args:
        data_root: the folder CUB_200_2011 or the one it is in; default `data/cub200`.
        size: side in pixels that every image is squeezed to.
        decoded: keep the resized images on disk, see `verify.verified`.
        allow_partial: use the images that are there; classes with fewer than 2 are left out.

    Raises:
        FileNotFoundError: no such folder; says how to get the data set.
        ValueError: all that is wrong with it, up to a screenful.
        OSError: no room for the decoded images.
    """
    root = find_root("cub200", data_root, "CUB_200_2011", ADVICE)
    return build(_read(root, allow_partial), N_IMAGES, N_TRAIN, CREDIT, size, decoded)


def _check(root: Path) -> None:
    present(_read(find_root("cub200", root, "CUB_200_2011", ADVICE), False))


def _read(root: Path, partial: bool) -> Annotations:
    found = Annotations("cub200", root, partial, ADVICE)
    images = found.table("images.txt", "image_id path")
    labels = found.table("image_class_labels.txt", "image_id class_id")
    classes = found.table("classes.txt", "class_id name")
    found.class_names = [classes.get(c, ("?",))[0] for c in range(1, N_CLASSES + 1)]
    found.count("images.txt, images", len(images), N_IMAGES)
    for c in sorted(classes.keys() ^ set(range(1, N_CLASSES + 1)) if classes else ()):
        found.problems["label"].append(
            f"classes.txt: class {c} {'has no line' if c not in classes else 'is unknown'}, "
            f"expected 1 … {N_CLASSES}"
        )
    for i in sorted(labels.keys() ^ images.keys() if labels and images else ()):
        found.problems["label"].append(
            f"image_class_labels.txt:{labels[i][-1]}: image {i} is not in images.txt"
            if i in labels
            else f"images.txt:{images[i][-1]}: image {i} is not in image_class_labels.txt"
        )
    # A path begins with its class, 017.Cardinal/…: so labels that are off by one are seen.
    wrong, shifts = [], set()
    for i in sorted(images.keys() & labels.keys()):
        (path, n), (label, line) = images[i], labels[i]
        number = path.split(".")[0]
        shifts.add(label - int(number) if number.isdecimal() else None)
        if not number.isdecimal() or label != int(number) or not 1 <= label <= N_CLASSES:
            wrong.append(
                f"image_class_labels.txt:{line}: class {label} for image {i}, {path}, expected the "
                f"number that its path begins with, 1 … {N_CLASSES}"
            )
        found.add(root / "images" / path, label - 1, f"images.txt:{n}")
    if len(shifts) == 1 and shifts <= {-1, 1}:
        wrong = [
            f"image_class_labels.txt: every class is off by one ({shifts.pop():+d}) from the "
            f"number that the image's path begins with; the genuine ones are 1 … {N_CLASSES}"
        ]
    found.problems["label"] += wrong
    return found

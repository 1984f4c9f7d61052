"""Any tree of images with one leaf folder per class: the way to bring one's own data."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from proxylib.datasets.base import Dataset, check
from proxylib.datasets.files import check_size, read_file
from proxylib.datasets.problems import printable, report

IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
IGNORED = {"thumbs.db", "desktop.ini"}


def load(data_root: str | Path, size: int = 32) -> Dataset:
    """Every leaf folder below `data_root` that holds images is a class, named by its path.

    The official order of the classes (first half trains, second half tests) and of the images
    is the sorted path. Greyscale stays one channel unless some image has colour.

    Args:
        data_root: the tree; folders may be nested. Hidden files and folders are passed over.
        size: side in pixels of the square that every image fills, see `files.read_file`.

    Raises:
        FileNotFoundError: `data_root` is no folder.
        ValueError: no images, images beside sub-folders, unreadable files, a folder that links
            lead to twice (all are named, up to a screenful), fewer than four classes, or a class
            with one image.
    """
    root = Path(data_root).expanduser()
    if not data_root or not root.is_dir():
        raise FileNotFoundError(
            f"folder: data_root={str(data_root)!r} is no folder (looked at {root.absolute()}): "
            "expected a tree with one leaf folder of images per class"
        )
    check_size(size, 8)
    images, labels, class_names, problems = [], [], [], []
    for folder, files in leaves(root, problems):
        class_names.append(printable(folder.relative_to(root).as_posix()))
        for file in files:
            try:
                images.append(read_file(file, size))
                labels.append(len(class_names) - 1)
            except ValueError as error:
                problems.append(str(error))
    report(f"folder {root}", problems)
    if not images:
        raise ValueError(
            f"folder: no images in {root}: expected a tree with one leaf folder of images per "
            f"class (file names ending in {', '.join(IMG_EXTENSIONS)})"
        )
    if len({len(image) for image in images}) > 1:
        images = [image.expand(3, size, size) for image in images]
    dataset = Dataset("folder", torch.stack(images), torch.tensor(labels), tuple(class_names))
    return check(dataset, least=4)


def walk(root: Path, problems: list[str]) -> Iterator[tuple[Path, list[str], list[str]]]:
    """(folder, names of its folders, names of its files) for the whole tree, sorted, none hidden.

    Links are followed, but no folder is entered twice: a loop of links would never end, and the
    same pictures would be in several classes. Such a link and what can't be listed are added to
    `problems`.
    """
    real = Path(os.path.realpath(root))
    first = {str(folder): folder for folder in (real, *real.parents)}
    first[str(real)] = root
    for name, folders, files in os.walk(
        root, followlinks=True, onerror=lambda error: problems.append(str(error))
    ):
        folder, entered = Path(name), []
        for inner in sorted(f for f in folders if not f.startswith(".")):
            path = folder / inner
            if (other := first.setdefault(os.path.realpath(path), path)) is path:
                entered.append(inner)
            else:
                problems.append(f"{path} and {other} are one folder: remove the link to it")
        folders[:] = entered  # os.walk goes on with these only
        yield (
            folder,
            entered,
            sorted(f for f in files if not f.startswith(".") and f.lower() not in IGNORED),
        )


def leaves(root: Path, problems: list[str]) -> Iterator[tuple[Path, list[Path]]]:
    """(folder, its files) in the order of the paths; what does not fit goes to `problems`."""
    for folder, folders, files in sorted(walk(root, problems), key=lambda found: str(found[0])):
        if folders:
            problems.extend(
                f"{folder / f}: an image beside sub-folders; only leaf folders are classes"
                for f in files
                if f.lower().endswith(IMG_EXTENSIONS)
            )
        elif files:
            yield folder, [folder / f for f in files]
        elif folder != root:
            problems.append(f"{folder}: an empty class folder")

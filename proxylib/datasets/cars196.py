"""Stanford Cars: 196 models, the first 98 train (paper section 5). Two layouts are about."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from proxylib.datasets import paths
from proxylib.datasets.base import Dataset
from proxylib.datasets.fetch import hash_of
from proxylib.datasets.photos import Annotations, begin, build, install

CREDIT = "Cars196: Krause et al. 2013; for research, see its site"
HASHES = {
    "car_ims.tgz": "md5:d5c8f0aa497503f355e17dc7886c3f14",
    "cars_annos.mat": "md5:b407c6086d669747186bd1d764ff9dbc",
}
N_CLASSES, N_TRAIN, N_IMAGES = 196, 98, 16_185
# annotations, their images, how many
SPLITS = (
    ("cars_train_annos.mat", "cars_train", 8_144),
    ("cars_test_annos_withlabels.mat", "cars_test", 8_041),
)
WHERE = (
    "Its makers' links are dead; https://github.com/pytorch/vision/issues/7545 says where copies "
    "are. Say in data_root where yours is. Expected: "
)
ADVICE = (
    f"{WHERE}cars_annos.mat and car_ims/*.jpg; or "
    "devkit/cars_meta.mat, devkit/cars_train_annos.mat, devkit/cars_test_annos_withlabels.mat, "
    "cars_train/*.jpg and cars_test/*.jpg"
)


def fetch(say: Callable[[str], None] = print, progress: bool = False) -> Path:
    """Unpack `car_ims.tgz` and `cars_annos.mat` from `data/downloads` to `data/cars196`.

    Nothing is downloaded, for the links are dead. See `fetch.install`.
    """
    return install("cars196", _archives, _read, say, progress)


def load(
    data_root: str | Path = "", size: int = 256, allow_partial: bool = False, boxes: bool = False
) -> Dataset:
    """Stanford Cars in either layout, checked to be whole: 16,185 images of 196 models.

    Args:
        data_root: the folder with `car_ims` and `cars_annos.mat`, or with `cars_train`,
            `cars_test` and `devkit` (whose files may lie beside it too); default `data/cars196`.
        size: side in pixels that every image is squeezed to.
        allow_partial: use the images that are there; classes with fewer than 2 are left out. The
            annotations of one half (cars_train or cars_test) are enough.
        boxes: cut every image to the bounding box in the annotations first.

    Raises: see `datasets.load`.
    """
    return build(_read(data_root, allow_partial, boxes), N_IMAGES, N_TRAIN, CREDIT, size)


def _archives() -> list[Path]:
    files = {paths.downloads() / name: known for name, known in HASHES.items()}
    found = {file: hash_of(file, known) for file, known in files.items()}
    if found != files:
        lines = [
            f"{file}: expected {known}, found {found[file] or 'no file'}"
            for file, known in files.items()
        ]
        raise OSError("\n".join(["cars196: put two files there by hand:", *lines, ADVICE]))
    return list(files)


def _read(data_root: str | Path, partial: bool = False, boxes: bool = False) -> Annotations:
    found = begin("cars196", data_root, "stanford_cars", ADVICE, partial)
    root = found.root
    in_halves = any((root / name).is_dir() for name in ("devkit", "cars_train", "cars_test"))
    if in_halves and not (root / "car_ims").is_dir():
        meta = _mat(found, "cars_meta.mat")
        annotated = [split for split in SPLITS if _find(root, split[0])]
        for mat, folder, n_images in (partial and annotated) or SPLITS:
            _add(found, mat, _images(root, folder), "fname", n_images, boxes)
    else:
        meta = _add(found, "cars_annos.mat", root, "relative_im_path", N_IMAGES, boxes)
    _name_classes(found, meta)
    return found


def read_half(found: Annotations) -> Annotations:
    """The annotations of the training half alone, added to `found`, with the boxes of the cars."""
    mat, folder, n_images = SPLITS[0]
    _name_classes(found, _mat(found, "cars_meta.mat"))
    _add(found, mat, _images(found.root, folder), "fname", n_images, boxes=True)
    return found


def _images(root: Path, folder: str) -> Path:
    """Where the photographs of a half are; some copies unpack one folder deeper."""
    inner = root / folder / folder
    return inner if inner.is_dir() else root / folder


def _name_classes(found: Annotations, meta: dict) -> None:
    found.class_names = [str(name).strip() for name in np.atleast_1d(meta.get("class_names", ()))]
    if meta and len(found.class_names) != N_CLASSES:
        found.problems["label"].append(
            f"class_names: found {len(found.class_names)}, expected {N_CLASSES}"
        )
    found.class_names += ["?"] * (N_CLASSES - len(found.class_names))


def _find(root: Path, name: str) -> Path | None:
    """The file of that name in `devkit` or beside it."""
    return next((f for f in (root / "devkit" / name, root / name) if f.is_file()), None)


def _mat(found: Annotations, name: str) -> dict:
    """What a .mat file holds; empty if it can't be read."""
    if not (file := _find(found.root, name)):
        unlabelled = name.replace("_withlabels", "")
        hint = (
            f" ({unlabelled}, which is there, holds no labels; allow_partial=True takes the other "
            "half alone)"
            if _find(found.root, unlabelled)
            else ""
        )
        found.problems["file"].append(f"{found.root / name}: no such file{hint}")
        return {}
    from scipy.io import loadmat  # not above, for it takes long to import

    try:
        return loadmat(file, simplify_cells=True)
    except Exception as error:  # scipy raises a dozen kinds for what is no .mat file
        found.problems["file"].append(f"{file}: not a readable .mat file ({error})")
        return {}


def _add(
    found: Annotations, mat: str, folder: Path, column: str, n_images: int, boxes: bool
) -> dict:
    """All records of one .mat file, whose content is returned; ill-formed ones are problems."""
    if not (content := _mat(found, mat)):
        return content
    corners = [f"bbox_{name}" for name in ("x1", "y1", "x2", "y2")] if boxes else []
    records = content.get("annotations", [])
    records = [records] if isinstance(records, dict) else list(records)  # MATLAB has no lists of 1
    found.count(f"{mat}, images", len(records), n_images)
    for n, record in enumerate(records, 1):
        where, box = f"{mat}, record {n}", None
        try:
            path, label = str(record[column]), int(record["class"])
            if boxes:  # counted from 1, and its last pixels are part of it
                left, top, right, bottom = (int(record[corner]) for corner in corners)
                box = left - 1, top - 1, right, bottom
        except (KeyError, TypeError, ValueError, IndexError):
            fields = list(record) if isinstance(record, dict) else record
            expected = ", ".join([column, "class", *corners])
            found.problems["line"].append(f"{where}: {fields}, expected the fields {expected}")
            continue
        if not 1 <= label <= N_CLASSES:
            found.problems["label"].append(f"{where}: class {label}, expected 1 … {N_CLASSES}")
        found.add(folder, path, label - 1, where, box)
    return content

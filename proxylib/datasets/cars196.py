"""Stanford Cars: 196 models, the first 98 train (paper section 5). Two layouts are about."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.io import loadmat

from proxylib import paths
from proxylib.datasets.base import Dataset
from proxylib.datasets.fetch import hash_of, install
from proxylib.datasets.photos import Annotations, build, find_root, present

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
ADVICE = (
    "Its makers' links are dead; https://github.com/pytorch/vision/issues/7545 says where copies "
    "are. Say in data_root where yours is. Expected: cars_annos.mat and car_ims/*.jpg; or "
    "devkit/cars_meta.mat, devkit/cars_train_annos.mat, devkit/cars_test_annos_withlabels.mat, "
    "cars_train/*.jpg and cars_test/*.jpg"
)


def fetch(say: Callable[[str], None] = print, progress: bool = False) -> Path:
    """Unpack `car_ims.tgz` and `cars_annos.mat` from `data/downloads` to `data/cars196`.

    Nothing is downloaded, for the links are dead.

    Raises:
        OSError: one of the files isn't there, or is another; says what to get.
        ValueError: what is there is not the whole data set.
    """
    return install("cars196", _archives, _check, say, progress)


def load(
    data_root: str | Path = "", size: int = 256, decoded: bool = False, allow_partial: bool = False
) -> Dataset:
    """Stanford Cars in either layout, checked to be whole: 16,185 images of 196 models.

    Args:
        data_root: the folder with `car_ims` and `cars_annos.mat`, or with `cars_train`,
            `cars_test` and `devkit` (whose files may lie beside it too); default `data/cars196`.
        size: side in pixels that every image is squeezed to.
        decoded: keep the resized images on disk, see `verify.verified`.
        allow_partial: use the images that are there; classes with fewer than 2 are left out.

    Raises:
        FileNotFoundError: no such folder; says how to get the data set.
        ValueError: all that is wrong with it, up to a screenful.
        OSError: no room for the decoded images.
    """
    root = find_root("cars196", data_root, "stanford_cars", ADVICE)
    return build(_read(root, allow_partial), N_IMAGES, N_TRAIN, CREDIT, size, decoded)


def _archives() -> list[Path]:
    files = {paths.downloads() / name: known for name, known in HASHES.items()}
    found = {file: hash_of(file, known) for file, known in files.items()}
    if any(found[file] != known for file, known in files.items()):
        lines = [
            f"{file}: expected {known}, found {found[file] or 'no file'}"
            for file, known in files.items()
        ]
        raise OSError("\n".join(["cars196: put two files there by hand:", *lines, ADVICE]))
    return list(files)


def _check(root: Path) -> None:
    present(_read(find_root("cars196", root, "stanford_cars", ADVICE), False))


def _read(root: Path, partial: bool) -> Annotations:
    found = Annotations("cars196", root, partial, ADVICE)
    in_halves = any((root / name).is_dir() for name in ("devkit", "cars_train", "cars_test"))
    if in_halves and not (root / "car_ims").is_dir():
        meta = _mat(found, "cars_meta.mat")
        for mat, folder, n_images in SPLITS:
            inner = root / folder / folder  # some copies unpack one folder deeper
            images = inner if inner.is_dir() else root / folder
            _add(found, mat, _mat(found, mat), images, "fname", n_images)
    else:
        meta = _mat(found, "cars_annos.mat")
        _add(found, "cars_annos.mat", meta, root, "relative_im_path", N_IMAGES)
    found.class_names = [str(name).strip() for name in np.atleast_1d(meta.get("class_names", ()))]
    if meta and len(found.class_names) != N_CLASSES:
        found.problems["label"].append(
            f"class_names: found {len(found.class_names)}, expected {N_CLASSES}"
        )
    found.class_names += ["?"] * (N_CLASSES - len(found.class_names))
    return found


def _mat(found: Annotations, name: str) -> dict:
    """What a .mat file holds; empty if it can't be read. It lies in `devkit` or beside it."""
    file = next((f for f in (found.root / "devkit" / name, found.root / name) if f.is_file()), None)
    if file is None:
        unlabelled = name.replace("_withlabels", "")
        other = any((found.root / d / unlabelled).is_file() for d in ("", "devkit"))
        hint = f" ({unlabelled}, which is there, holds no labels)" if other else ""
        found.problems["file"].append(f"{found.root / name}: no such file{hint}")
        return {}
    try:
        return loadmat(file, simplify_cells=True)
    except Exception as error:  # scipy raises a dozen kinds for what is no .mat file
        found.problems["file"].append(f"{file}: not a readable .mat file ({error})")
        return {}


def _add(
    found: Annotations, mat: str, content: dict, folder: Path, column: str, n_images: int
) -> None:
    if not content:
        return
    records = content.get("annotations", [])
    records = [records] if isinstance(records, dict) else list(records)  # MATLAB has no lists of 1
    found.count(f"{mat}, images", len(records), n_images)
    zeros, labels = 0, set()
    for n, record in enumerate(records, 1):
        where = f"{mat}, record {n}"
        try:
            file, label = folder / record[column], int(record["class"])
        except (KeyError, TypeError, ValueError):
            fields = list(record) if isinstance(record, dict) else record
            found.problems["line"].append(f"{where}: {fields}, expected fields {column}, class")
            continue
        zeros += label == 0
        labels.add(label)
        if not 0 <= label <= N_CLASSES:
            found.problems["label"].append(f"{where}: class {label}, expected 1 … {N_CLASSES}")
        found.add(file, label - 1, where)
    if zeros:
        never = f" and {N_CLASSES} never" if N_CLASSES not in labels else ""
        found.problems["label"].append(
            f"{mat}: class 0 occurs {zeros:,} times{never}: off by one? In the genuine file the "
            f"classes are 1 … {N_CLASSES}"
        )

"""What the readers of photographs share: annotations in, a checked data set out."""

import math
import os
import sys
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from joblib import Parallel, delayed
from tqdm import tqdm

from proxylib.datasets import fetch, paths
from proxylib.datasets.base import Dataset, check
from proxylib.datasets.files import Box, ImageFiles, check_size
from proxylib.datasets.problems import report


class Photo(NamedTuple):
    """One image: its official class (from 0), its box, and the line that says so."""

    label: int
    box: Box | None
    where: str


@dataclass
class Annotations:
    """What the annotation files of a data set say, and all that is wrong with them."""

    name: str  # of the data set
    root: Path  # the folder they are in
    # Whether an incomplete copy will do: then missing images are no problem. None: it never will.
    partial: bool | None
    advice: str  # how to get the data set, and its layout
    class_names: list[str] = field(default_factory=list)  # of all official classes
    images: dict[Path, Photo] = field(default_factory=dict)  # what is said of each file
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))  # by kind

    def add(
        self, folder: Path, path: str, label: int, where: str, box: tuple[float, ...] | None = None
    ) -> None:
        """One image.

        Args:
            folder: the one that `path` starts from.
            label: its official class, from 0.
            where: the line that says so.
            box: (left, top, right, bottom), see `files.read_file`; fractions are rounded outwards.
        """
        if not fetch.is_below(path):
            self.problems["path"].append(
                f"{where}: refused to read {path!r}, expected a path below {folder}"
            )
            return
        if box:
            left, top, right, bottom = box
            if not (0 <= left < right < 1e6 and 0 <= top < bottom < 1e6):
                self.problems["box"].append(
                    f"{where}: box from ({left}, {top}) to ({right}, {bottom}), expected positive "
                    "width and height"
                )
                return
            box = math.floor(left), math.floor(top), math.ceil(right), math.ceil(bottom)
        first = self.images.setdefault(folder / path, Photo(label, box, where)).where
        if first != where:
            self.problems["line"].append(f"{where}: {path} again, it was in {first}")

    def count(self, what: str, found: int, expected: int) -> None:
        """A number that has to be the official one, unless the copy may be incomplete."""
        if found != expected and not self.partial:
            self.problems["count"].append(f"{what}: found {found:,}, expected {expected:,}")

    def table(self, name: str, columns: str, kind: type = str) -> dict[int, tuple]:
        """The lines of a text file: first column → (further columns …, line number).

        Args:
            columns: their names, e.g. `"image_id path"`; those ending in `id` are whole numbers.
                The first line may hold these names.
            kind: of the values in all other columns, str or float.
        """
        file, names, rows = self.root / name, columns.split(), {}
        if not file.is_file():
            self.problems["file"].append(f"{file}: no such file")
            return rows
        text = file.read_text(encoding="utf-8", errors="replace")
        for n, line in enumerate(text.splitlines(), 1):
            fields = line.split(maxsplit=len(names) - 1)
            if not fields or (n == 1 and fields == names):
                continue
            try:
                pairs = zip(names, fields, strict=True)
                key, *values = [int(f) if c.endswith("id") else kind(f.strip()) for c, f in pairs]
            except ValueError:
                self.problems["line"].append(f"{name}:{n}: {line[:80]!r}, expected `{columns}`")
                continue
            _, *rest = rows.setdefault(key, (*values, n))
            if rest[-1] != n:
                self.problems["line"].append(
                    f"{name}:{n}: {names[0]} {key} again, it was in line {rest[-1]}"
                )
        return rows


def begin(
    name: str, data_root: str | Path, inner: str, advice: str, partial: bool | None = None
) -> Annotations:
    """Annotations still to be read, from `data_root` (default `data/NAME`) or `inner` below it.

    Raises:
        FileNotFoundError: no such folder; says how to get the data set.
    """
    root = Path(data_root).expanduser() if data_root else paths.data() / name
    if not root.is_dir():
        raise FileNotFoundError(f"{name}: no folder {root.absolute()}\n{advice}")
    return Annotations(name, root / inner if (root / inner).is_dir() else root, partial, advice)


def install(
    name: str,
    archives: Callable[[], list[Path]],
    read: Callable[[Path], Annotations],
    say: Callable[[str], None],
    progress: bool,
) -> Path:
    """The same as `fetch.install`, checked by the annotations that `read` finds in the folder."""
    return fetch.install(name, archives, lambda root: present(read(root)), say, progress)


def present(found: Annotations, size: int | None = None) -> list[Path]:
    """The image files that are there, if everything is as the annotations say.

    Args:
        size: if given, every file is read at this size too, see `unreadable`.

    Raises:
        ValueError: all that is wrong, up to a screenful.
    """
    problems, advice = found.problems, found.advice
    files = [file for file in found.images if os.path.exists(file)]
    if not found.partial and found.images:
        there, used = set(files), {photo.label for photo in found.images.values()}
        problems["image"] += [
            f"{photo.where}: no such file {file}"
            for file, photo in found.images.items()
            if file not in there
        ]
        problems["class"] += [
            f"class {label + 1} ({name}) has no image"
            for label, name in enumerate(found.class_names)
            if label not in used
        ]
    if problems["image"] and found.partial is not None:
        advice += "\nIf your copy is incomplete on purpose, allow that: allow_partial=True."
    if not files and not any(problems.values()):
        problems["image"].append(f"none of the {len(found.images):,} images is there")
    if size:
        boxes = [found.images[file].box for file in files]
        problems["unreadable"] = unreadable(ImageFiles(files, size, boxes), found.name)
    report(f"{found.name} in {found.root}", *problems.values(), advice=advice)
    return files


def unreadable(images: ImageFiles, name: str) -> list[str]:
    """What is wrong with each file that can't be read; an empty list if all can.

    A run of hours should not stop in its middle at a damaged file. So every file is read once, on
    all cores. That all went well is remembered in `data/cache/photos` until a file changes (see
    `ImageFiles.stamp`).
    """
    folder = paths.cache() / "photos"
    folder.mkdir(parents=True, exist_ok=True)
    passed = folder / f"{images.stamp()}.ok"
    if passed.is_file():
        return []

    def problem(row: int) -> str | None:
        try:
            images[row]
        except ValueError as error:
            return str(error)

    # Threads are enough, for Pillow releases Python's lock while it decodes and resizes.
    parallel = Parallel(n_jobs=-1, backend="threading", return_as="generator")
    results = parallel(delayed(problem)(row) for row in range(len(images)))
    title, hidden = f"{name}: checking", not sys.stderr.isatty()
    bar = tqdm(results, title, len(images), unit="image", disable=hidden)
    problems = [text for text in bar if text]
    if not problems:
        passed.touch()
    return problems


def build(found: Annotations, n_images: int, n_train: int, credit: str, size: int) -> Dataset:
    """The data set, once all is checked. Warns of what an incomplete copy lacks.

    Args:
        n_images: the official number.
        n_train: how many of the official classes train.
        size: side in pixels that every image is squeezed to.

    Raises:
        ValueError: all that is wrong, up to a screenful.
    """
    check_size(size, 8)
    files = present(found, size)
    labels = torch.tensor([found.images[file].label for file in files])
    counts = torch.bincount(labels, minlength=len(found.class_names))
    kept = counts >= 2 if found.partial else counts > 0
    chosen = kept[labels]
    files = [file for file, keep in zip(files, chosen.tolist(), strict=True) if keep]
    if len(files) != n_images:
        warnings.warn(
            f"{found.name}: {n_images - len(files):,} of {n_images:,} images are missing in "
            f"{found.root} or left out, and {int((~kept).sum()):,} of {len(kept):,} classes are "
            "left out because they have fewer than 2 images. Don't compare results with those of "
            "the whole set",
            stacklevel=3,
        )
    names = tuple(name for name, keep in zip(found.class_names, kept.tolist(), strict=True) if keep)
    return check(
        Dataset(
            found.name,
            ImageFiles(files, size, [found.images[file].box for file in files]),
            (kept.cumsum(0) - 1)[labels[chosen]],
            names,
            credit,
            n_train_classes=int(kept[:n_train].sum()),
        )
    )

"""What the readers of the patent's three data sets share: annotations in, a checked set out."""

import warnings
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import torch

from proxylib import paths
from proxylib.datasets.base import Dataset, check, report
from proxylib.datasets.files import ImageFiles
from proxylib.datasets.verify import unreadable, verified


@dataclass
class Annotations:
    """What the annotation files of a data set say, and all that is wrong with them.

    Attributes:
        name: of the data set.
        root: the folder they are in.
        partial: an incomplete copy will do: missing images and other numbers are no problem.
        advice: how to get the data set, and its layout.
        class_names: of all official classes.
        images: path → (official class, from 0; where it was said).
        problems: by kind.
    """

    name: str
    root: Path
    partial: bool
    advice: str
    class_names: list[str] = field(default_factory=list)
    images: dict[Path, tuple[int, str]] = field(default_factory=dict)
    problems: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add(self, file: Path, label: int, where: str) -> None:
        """One image of the official class `label` (from 0)."""
        _, first = self.images.setdefault(file, (label, where))
        if first != where:
            self.problems["line"].append(f"{where}: {file.name} again, it was in {first}")

    def count(self, what: str, found: int, expected: int) -> None:
        """A number that has to be the official one, unless the copy may be incomplete."""
        if found != expected and not self.partial:
            self.problems["count"].append(f"{what}: found {found:,}, expected {expected:,}")

    def table(self, name: str, columns: str, header: bool = False) -> dict[int, tuple]:
        """The lines of a text file: first column → (further columns …, line number).

        Args:
            columns: their names, e.g. `"image_id path"`; those ending in `id` are whole numbers.
            header: the first line holds these names.
        """
        file, names, rows = self.root / name, columns.split(), {}
        if not file.is_file():
            self.problems["file"].append(f"{file}: no such file")
            return rows
        text = file.read_text(encoding="utf-8", errors="replace")
        for n, line in enumerate(text.splitlines(), 1):
            fields = line.split(maxsplit=len(names) - 1)
            if not fields or (header and n == 1 and fields == names):
                continue
            try:
                pairs = zip(names, fields, strict=True)
                key, *values = [int(f) if c.endswith("id") else f.strip() for c, f in pairs]
            except ValueError:
                expected = f"the header `{columns}`" if header and n == 1 else f"`{columns}`"
                self.problems["line"].append(f"{name}:{n}: {line[:80]!r}, expected {expected}")
                continue
            _, *rest = rows.setdefault(key, (*values, n))
            if rest[-1] != n:
                self.problems["line"].append(
                    f"{name}:{n}: {names[0]} {key} again, it was in line {rest[-1]}"
                )
        return rows


def find_root(name: str, data_root: str | Path, inner: str, advice: str) -> Path:
    """The folder of the data set: `data_root`, by default `data/NAME`, or `inner` below it.

    Raises:
        FileNotFoundError: no such folder; says how to get the data set.
    """
    root = Path(data_root).expanduser() if data_root else paths.data() / name
    if not root.is_dir():
        raise FileNotFoundError(f"{name}: no folder {root.absolute()}\n{advice}")
    return root / inner if (root / inner).is_dir() else root


def present(found: Annotations, size: int | None = None) -> list[Path]:
    """The images that are there, if all is as the annotations say; without decoding any.

    Args:
        size: given, an error also names the unreadable files, which takes as long as reading all.

    Raises:
        ValueError: everything that is wrong, up to a screenful.
    """
    files = [file for file in found.images if file.is_file()]
    problems, advice = found.problems, found.advice
    if not found.partial and found.images:
        there, used = set(files), {label for label, _ in found.images.values()}
        problems["image"] += [
            f"{where}: no such file {file}"
            for file, (_, where) in found.images.items()
            if file not in there
        ]
        problems["class"] += [
            f"class {label + 1} ({name}) has no image"
            for label, name in enumerate(found.class_names)
            if label not in used
        ]
    if problems["image"]:
        advice += "\nIf your copy is incomplete on purpose, allow that: allow_partial=True."
    if not files and not any(problems.values()):
        problems["image"].append(f"none of the {len(found.images):,} images is there")
    if any(problems.values()) and size:
        problems["unreadable"] = unreadable(ImageFiles(files, size), found.name)
    report(f"{found.name} in {found.root}", *problems.values(), advice=advice)
    return files


def build(
    found: Annotations, n_images: int, n_train: int, credit: str, size: int, decoded: bool
) -> Dataset:
    """The data set, once all is verified; warns of what an incomplete copy lacks.

    Args:
        n_images: the official number.
        n_train: how many of the official classes train.
        size, decoded: see `verify.verified`.

    Raises:
        ValueError: everything that is wrong, up to a screenful.
        OSError: no room for the decoded pixels.
    """
    if size < 8:
        raise ValueError(f"{found.name}: size={size}, expected at least 8 pixels")
    files = present(found, size)
    labels = torch.tensor([found.images[file][0] for file in files])
    counts = torch.bincount(labels, minlength=len(found.class_names))
    kept = counts >= 2 if found.partial else counts > 0
    chosen = kept[labels]
    files = [file for file, keep in zip(files, chosen.tolist(), strict=True) if keep]
    images = verified(files, size, decoded, found.name)
    if len(files) != n_images:
        warnings.warn(
            f"{found.name}: {n_images - len(files):,} of {n_images:,} images are missing in "
            f"{found.root} or left out, and {int((~kept).sum()):,} of {len(kept):,} classes, "
            "which have fewer than 2: results can't be compared with those of the whole set",
            stacklevel=3,
        )
    names = tuple(name for name, keep in zip(found.class_names, kept.tolist(), strict=True) if keep)
    return check(
        Dataset(
            found.name,
            images,
            (kept.cumsum(0) - 1)[labels[chosen]],
            names,
            credit,
            n_train_classes=int(kept[:n_train].sum()),
        )
    )

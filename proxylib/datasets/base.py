"""What a data set is, and how its classes are split."""

import hashlib
from dataclasses import dataclass
from itertools import islice, zip_longest

import torch
from torch import Tensor

from proxylib.datasets.files import ImageFiles

SHOWN = 20  # problems named in one error: a screenful


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with one integer label each.

    Attributes:
        name: e.g. `"kanji"`.
        images: (N, C, H, W) uint8, C = 1 (grey) or 3 (RGB); `ImageFiles` are decoded at access.
        labels: (N,) int64, every value of 0 … number of classes − 1 occurs.
        class_names: one name per label, in the data set's official order.
        credit: whose data this is, one line; empty if unknown.
        n_train_classes: how many of the first classes train in the official zero-shot split;
            None = half of them.
    """

    name: str
    images: Tensor | ImageFiles
    labels: Tensor
    class_names: tuple[str, ...]
    credit: str = ""
    n_train_classes: int | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    def classes(self, start: int, stop: int) -> "Dataset":
        """The classes start … stop − 1, labels remapped to 0 … stop − start − 1.

        `ImageFiles` stay on disk, and the part has no official split of its own.
        """
        keep = (self.labels >= start) & (self.labels < stop)
        in_memory = isinstance(self.images, Tensor)
        return Dataset(
            self.name,
            self.images[keep] if in_memory else self.images.select(keep),
            self.labels[keep] - start,
            self.class_names[start:stop],
            self.credit,
        )

    def fingerprint(self) -> str:
        """Hash of all images, labels and class names.

        Of `ImageFiles` the paths, sizes and times count, see `ImageFiles.fingerprint`.
        """
        digest = hashlib.sha256(repr((tuple(self.images.shape), self.class_names)).encode())
        if isinstance(self.images, Tensor):
            digest.update(self.images.contiguous().numpy())
        else:
            digest.update(self.images.fingerprint().encode())
        digest.update(self.labels.contiguous().numpy())
        return digest.hexdigest()[:16]


def zero_shot_split(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """(train, test): the first half of the classes trains, the unseen other half tests.

    Classes are taken in the data set's official order; an odd one out goes to the test half. Where
    the official halves are unequal, `dataset.n_train_classes` says how many train.
    At test time queries = gallery = the whole test half (paper section 5).

    Raises:
        ValueError: a part would have fewer than 2 classes to tell apart.
    """
    n = dataset.n_classes
    n_train = n // 2 if dataset.n_train_classes is None else dataset.n_train_classes
    if n_train < 2 or n - n_train < 2:
        official = "" if dataset.n_train_classes is None else f", {n_train} of them for training"
        raise ValueError(
            f"{dataset.name}: {n} classes{official}, but a zero-shot split needs at least 4 "
            "(2 to train on, 2 unseen ones to test on)"
        )
    return dataset.classes(0, n_train), dataset.classes(n_train, n)


def validation_split(train: Dataset, fraction: float = 0.5) -> tuple[Dataset, Dataset]:
    """(fit, validation): the last `fraction` of the training classes, for choosing settings.

    Raises:
        ValueError: a part would have fewer than 2 classes.
    """
    n_fit = train.n_classes - round(train.n_classes * fraction)
    if n_fit < 2 or train.n_classes - n_fit < 2:
        raise ValueError(
            f"{train.name}: fraction={fraction} of {train.n_classes} training classes leaves "
            f"{n_fit} to fit and {train.n_classes - n_fit} to validate; both need at least 2"
        )
    return train.classes(0, n_fit), train.classes(n_fit, train.n_classes)


def check(dataset: Dataset) -> Dataset:
    """The data set itself, if it can be used for retrieval.

    Raises:
        ValueError: fewer than 2 classes, or a class with one image, which no query can find.
    """
    if dataset.n_classes < 2:
        raise ValueError(
            f"{dataset.name}: found {dataset.n_classes} class(es) "
            f"({', '.join(dataset.class_names) or 'none'}); a data set needs at least 2"
        )
    counts = torch.bincount(dataset.labels, minlength=dataset.n_classes).tolist()
    if lonely := [c for c, n in zip(dataset.class_names, counts, strict=True) if n < 2]:
        raise ValueError(
            f"{dataset.name}: every class needs at least 2 images (a query and one to find), but "
            f"{len(lonely)} have fewer: {', '.join(lonely[:20])}{' …' if len(lonely) > 20 else ''}"
        )
    return dataset


def report(name: str, *kinds: list[str], advice: str = "") -> None:
    """Nothing if there are no problems.

    Args:
        name: whose problems they are.
        kinds: the problems, a list for each kind; if they are too many, the kinds take turns, so
            that a common one hides no rare one.
        advice: what to do, the message's last line.

    Raises:
        ValueError: any problem; all in one message, up to a screenful.
    """
    if not (total := sum(map(len, kinds))):
        return
    turns = ((k, text) for row in zip_longest(*kinds) for k, text in enumerate(row) if text)
    shown = sorted(islice(turns, SHOWN), key=lambda turn: turn[0])  # each kind in its own order
    lines = [text for _, text in shown]
    if total > SHOWN:
        lines.append(f"… and {total - SHOWN} more")
    raise ValueError("\n  ".join([f"{name}: {total} problem(s):", *lines]) + f"\n{advice}".rstrip())

"""What a data set is, and how its classes are split."""

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with one integer label each.

    Attributes:
        name: e.g. `"kanji"`.
        images: (N, C, H, W) uint8, C = 1 (grey) or 3 (RGB).
        labels: (N,) int64, every value of 0 … number of classes − 1 occurs.
        class_names: one name per label, in the data set's official order.
        credit: whose data this is, one line; empty if unknown.
    """

    name: str
    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    credit: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    def classes(self, start: int, stop: int) -> "Dataset":
        """The classes start … stop − 1, labels remapped to 0 … stop − start − 1."""
        keep = (self.labels >= start) & (self.labels < stop)
        return Dataset(
            self.name,
            self.images[keep],
            self.labels[keep] - start,
            self.class_names[start:stop],
            self.credit,
        )

    def fingerprint(self) -> str:
        """Hash of all images, labels and class names."""
        digest = hashlib.sha256(repr((tuple(self.images.shape), self.class_names)).encode())
        digest.update(self.images.contiguous().numpy())
        digest.update(self.labels.contiguous().numpy())
        return digest.hexdigest()[:16]


def zero_shot_split(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """(train, test): the first half of the classes trains, the unseen other half tests.

    Classes are taken in the data set's official order; an odd one out goes to the test half.
    At test time queries = gallery = the whole test half (paper section 5).

    Raises:
        ValueError: fewer than 4 classes, so that one half has no two classes to tell apart.
    """
    half = dataset.n_classes // 2
    if half < 2:
        raise ValueError(
            f"{dataset.name}: {dataset.n_classes} classes, but a zero-shot split needs at least 4 "
            "(2 to train on, 2 unseen ones to test on)"
        )
    return dataset.classes(0, half), dataset.classes(half, dataset.n_classes)


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

"""What a data set is, and how its classes are split."""

import functools
import hashlib
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from proxylib.datasets.files import ImageFiles
from proxylib.datasets.problems import report

# A study asks for the same halves and their hash once for every run; data sets do not change.
_remember = functools.lru_cache(maxsize=8)


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with one integer label each.

    Attributes:
        name: e.g. `"kanji"`.
        images: (N, C, H, W) uint8, C = 1 (grey) or 3 (RGB). `ImageFiles` are read when they are
            asked for.
        labels: (N,) int64; every number from 0 to the number of classes − 1 occurs.
        class_names: one name per label, in the data set's official order.
        credit: whose data this is, one line; empty if unknown.
        n_train_classes: how many of the first classes train in the official zero-shot split;
            None = half of them.
        queries: (N,) bool, which images are queries. All others are the gallery that is searched,
            and only they train. None = every image is a query, searched for among all others.
    """

    name: str
    images: Tensor | ImageFiles
    labels: Tensor
    class_names: tuple[str, ...]
    credit: str = ""
    n_train_classes: int | None = None
    queries: Tensor | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_classes(self) -> int:
        return len(self.class_names)

    def classes(self, start: int, stop: int) -> "Dataset":
        """The classes start … stop − 1 as a data set with the labels 0 … stop − start − 1.

        `ImageFiles` are not read for it. The part has no official split of its own.
        """
        part = self.select((self.labels >= start) & (self.labels < stop))
        names, labels = self.class_names[start:stop], part.labels - start
        return replace(part, labels=labels, class_names=names, n_train_classes=None)

    def select(self, keep: Tensor) -> "Dataset":
        """The images where `keep` (N,) bool is true; classes and labels stay as they are.

        Images in memory that follow one another are not copied: the part shares them.
        """
        if not isinstance(self.images, Tensor):
            images = self.images.select(keep)
        else:
            at = keep.nonzero().flatten()
            in_a_row = len(at) > 0 and int(at[-1] - at[0]) == len(at) - 1
            images = self.images[slice(at[0], at[-1] + 1) if in_a_row else at]
        queries = None if self.queries is None else self.queries[keep]
        return replace(self, images=images, labels=self.labels[keep], queries=queries)

    @_remember
    def without_queries(self) -> "Dataset":
        """What may be trained on: all images, but the queries if the data set has its own.

        Raises:
            ValueError: that leaves a class with fewer than 2 images, an anchor and its positive.
        """
        if self.queries is None:
            return self
        return check(replace(self.select(~self.queries), queries=None))

    @_remember
    def fingerprint(self) -> str:
        """Hash of all images, labels and class names, and of which images are queries.

        Of `ImageFiles` it is that of the files' bytes, see `ImageFiles.fingerprint`.
        """
        digest = hashlib.sha256(repr((tuple(self.images.shape), self.class_names)).encode())
        if isinstance(self.images, Tensor):
            digest.update(self.images.contiguous().numpy())
        else:
            digest.update(self.images.fingerprint().encode())
        digest.update(self.labels.contiguous().numpy())
        if self.queries is not None:
            digest.update(self.queries.contiguous().numpy())
        return digest.hexdigest()[:16]


@_remember
def zero_shot_split(dataset: Dataset) -> tuple[Dataset, Dataset]:
    """(train, test): the first half of the classes trains, the other half, unseen, tests.

    The classes are in the data set's official order. If their number is odd, the test half gets
    one more. If the official halves are unequal, `dataset.n_train_classes` says how many train.
    Every image of the test half is a query, and is searched for among all others of that half
    (paper section 5), unless the data set says which are its queries. Its queries are in both
    halves: in the training half for `validation_split`, see `Dataset.without_queries`.

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


@_remember
def validation_split(train: Dataset, fraction: float = 0.5) -> tuple[Dataset, Dataset]:
    """(fit, validation): the last `fraction` of the training classes validates, the rest trains.

    This is for choosing settings without a look at the test half.

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


def check(dataset: Dataset, least: int = 2) -> Dataset:
    """The data set itself, if it can be used for retrieval and has at least so many classes.

    Raises:
        ValueError: fewer classes, or classes with nothing to find: with one image, or if the data
            set has queries of its own, without a query or without an image in the gallery.
    """
    if dataset.n_classes < least:
        raise ValueError(
            f"{dataset.name}: found {dataset.n_classes} class(es) "
            f"({', '.join(dataset.class_names) or 'none'}); a data set needs at least {least}"
            + (": 2 to train on, 2 unseen ones to test on" if least == 4 else "")
        )

    def per_class(labels: Tensor) -> list[int]:
        return torch.bincount(labels, minlength=dataset.n_classes).tolist()

    names, labels, queries = dataset.class_names, dataset.labels, dataset.queries
    if queries is None:
        lonely = [
            f"class {name}: found {n} image(s), expected at least 2, a query and one to find"
            for name, n in zip(names, per_class(labels), strict=True)
            if n < 2
        ]
    else:
        asked, found = per_class(labels[queries]), per_class(labels[~queries])
        lonely = [
            f"class {name}: found {n} image(s) in the gallery and {q} to search for, expected at "
            "least 1 of each"
            for name, n, q in zip(names, found, asked, strict=True)
            if not (n and q)
        ]
    report(dataset.name, lonely, advice="Add images to these classes, or take the classes out.")
    return dataset

"""Which training points make a batch: endless streams of index tensors.

Every stream yields a tuple. Its first entry holds the points to embed; all entries go to the
objective that asked for the stream.
"""

from collections.abc import Callable

import torch
from torch import Tensor


class Stream:
    """Endless batches, which can go on where another stream of the same kind has stopped.

    Goes through 0 … n−1 in random order, again and again, `size` at a time.

    Args:
        n: what there is to draw from.
        size: drawn at once, 1 … n; another number raises ValueError.
        generator: source of the order.
        make: drawn numbers (size,) int64 → the batch, a tuple of index tensors.
        carry_over: True: the tail of one pass opens the next batch. False: the tail is dropped,
            so that no number comes twice in a batch.
    """

    def __init__(
        self,
        n: int,
        size: int,
        generator: torch.Generator,
        make: Callable[[Tensor], tuple[Tensor, ...]],
        carry_over: bool = True,
    ):
        if not 1 <= size <= n:
            raise ValueError(f"batch_size={size}: expected 1 … {n}, what there is to draw from")
        self.n, self.size, self.generator = n, size, generator
        self.make, self.carry_over = make, carry_over
        self.queue = torch.empty(0, dtype=torch.int64)

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> tuple[Tensor, ...]:
        while len(self.queue) < self.size:
            order = torch.randperm(self.n, generator=self.generator)
            self.queue = torch.cat([self.queue, order]) if self.carry_over else order
        drawn, self.queue = self.queue[: self.size], self.queue[self.size :]
        return self.make(drawn)

    def state_dict(self) -> dict[str, Tensor]:
        """All that decides the further batches."""
        return {"queue": self.queue.clone(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on where a stream of the same kind was when it gave that state."""
        self.queue = state["queue"].clone()
        self.generator.set_state(state["generator"])


def anchor_batches(labels: Tensor, batch_size: int, generator: torch.Generator) -> Stream:
    """Anchors and positives (step 906; line 3 of Algorithm 1).

    Anchors go through the training set in random order, again and again; the positive y ≠ x is
    drawn evenly from the other points of the anchor's label.

    Yields (anchors, positives), both (batch_size,) int64 indices of training points. A label with
    one point only raises ValueError, and so does a batch larger than the training set.
    """
    peers = _Peers(labels)
    return Stream(
        len(labels), batch_size, generator, lambda drawn: (drawn, peers.positives(drawn, generator))
    )


def pair_batches(labels: Tensor, batch_size: int, generator: torch.Generator) -> Stream:
    """Entries i and i + B/2 of a batch are each other's positive, so positives are embedded too.

    Dynamic assignment wants that: every embedded point is re-assigned, positives included.

    Yields and raises as `anchor_batches`; an odd batch raises ValueError, too.
    """
    if batch_size % 2:
        raise ValueError(f"batch_size={batch_size}: expected an even number, for pairs")
    peers = _Peers(labels)

    def both_ways(drawn: Tensor) -> tuple[Tensor, Tensor]:
        positives = peers.positives(drawn, generator)
        return torch.cat([drawn, positives]), torch.cat([positives, drawn])

    return Stream(len(labels), batch_size // 2, generator, both_ways)


def class_batches(
    labels: Tensor, batch_size: int, per_class: int, generator: torch.Generator
) -> Stream:
    """Batches of batch_size / per_class classes with per_class points each.

    The classes go by in random order, again and again, none twice in a batch; the points of a
    class are drawn evenly without replacement. Points of a class are neighbours in the batch.

    Yields (points,): (batch_size,) int64 indices of training points. ValueError for a batch that
    is no whole number (2 or more) of classes, for more classes than there are, or for a label with
    fewer than per_class points.
    """
    count = labels.bincount()
    n_classes = batch_size // per_class
    if per_class < 2 or batch_size % per_class or not 2 <= n_classes <= len(count):
        raise ValueError(
            f"batch_size={batch_size}, per_class={per_class}: expected 2 … {len(count)} classes "
            "(those of the training set) with per_class ≥ 2 points each"
        )
    if few := (count < per_class).nonzero().flatten()[:10].tolist():
        raise ValueError(
            f"labels {few} have {count[few].tolist()} points, fewer than per_class={per_class}"
        )
    by_label, start = labels.argsort(stable=True), count.cumsum(0) - count
    places = torch.arange(int(count.max()))

    def points(classes: Tensor) -> tuple[Tensor]:
        keys = torch.rand(n_classes, len(places), generator=generator)
        keys = keys.masked_fill_(places >= count[classes, None], 2)
        chosen = keys.topk(per_class, dim=1, largest=False).indices
        return (by_label[start[classes, None] + chosen].flatten(),)

    return Stream(len(count), n_classes, generator, points, carry_over=False)


def triplet_batches(triplets: Tensor, batch_size: int, generator: torch.Generator) -> Stream:
    """Triplets in random order, again and again: supervision without labels.

    Args:
        triplets: (T, 2 + K) int64; each row is an anchor x, a positive y and K negatives Z.

    Yields:
        (anchors, positives, negatives): (batch_size,), (batch_size,), (batch_size, K) int64. A
        batch larger than the number of triplets raises ValueError.
    """
    x, y, z = triplets[:, 0], triplets[:, 1], triplets[:, 2:]
    return Stream(len(triplets), batch_size, generator, lambda i: (x[i], y[i], z[i]))


def draw_triplets(
    labels: Tensor, n_triplets: int, n_negatives: int, generator: torch.Generator
) -> Tensor:
    """Triplets (x, y, Z) as an annotator who knows the labels would give them.

    x goes through the points in random order, y ≠ x is drawn evenly from its label, the points of
    Z evenly, with replacement, from all other labels.

    Returns:
        (n_triplets, 2 + n_negatives) int64 indices of training points. A label with one point
        only, one label only, or nothing asked for raises ValueError.
    """
    if n_triplets < 1 or n_negatives < 1:
        raise ValueError(
            f"n_triplets={n_triplets}, n_negatives={n_negatives}: expected 1 or more of both"
        )
    peers, n = _Peers(labels), len(labels)
    if len(peers.count) < 2:
        raise ValueError("one label only: a triplet needs points of another one")
    passes = [torch.randperm(n, generator=generator) for _ in range((n_triplets + n - 1) // n)]
    anchors = torch.cat(passes)[:n_triplets]  # (T,)
    of_label, start = peers.count[labels[anchors], None], peers.start[labels[anchors], None]
    # `by_label` lists the points label by label, so the anchor's own label is one block of it.
    # Draw a place in the list without that block, then skip the block: an even draw of all others.
    place = (torch.rand(n_triplets, n_negatives, generator=generator) * (n - of_label)).long()
    negatives = peers.by_label[torch.where(place < start, place, place + of_label)]  # (T, K)
    positives = peers.positives(anchors, generator)
    return torch.cat([anchors[:, None], positives[:, None], negatives], 1)


def check_triplets(triplets: Tensor, n_points: int) -> None:
    """Raise ValueError unless these are (T, 2 + K) int64 rows x, y, Z of 0 … n_points − 1."""
    if triplets.dtype != torch.int64 or triplets.ndim != 2 or triplets.shape[1] < 3:
        raise ValueError(
            f"triplets: expected (T, 2 + K) int64 with K ≥ 1 negatives, got "
            f"{tuple(triplets.shape)} {triplets.dtype}"
        )
    if (wrong := ((triplets < 0) | (triplets >= n_points)).any(1)).any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"{int(wrong.sum())} triplets name points outside 0 … {n_points - 1}, the first is "
            f"row {row}: {triplets[row].tolist()}"
        )


class _Peers:
    """The points of each label, as one array: label c owns `by_label[start[c]:][:count[c]]`."""

    def __init__(self, labels: Tensor):
        self.labels, self.count = labels, labels.bincount()
        if lonely := (self.count == 1).nonzero().flatten()[:10].tolist():
            raise ValueError(f"labels {lonely} have one point only: anchors there have no positive")
        self.by_label = labels.argsort(stable=True)
        self.start = self.count.cumsum(0) - self.count
        self.rank = torch.empty_like(labels)  # place of each point among those of its label
        self.rank[self.by_label] = torch.arange(len(labels)) - self.start[labels[self.by_label]]

    def positives(self, anchors: Tensor, generator: torch.Generator) -> Tensor:
        """For each anchor an even draw from the other points of its label."""
        label = self.labels[anchors]
        of_label = self.count[label]
        # From the anchor's place 1 … count − 1 steps on, around the end: each other point as often.
        step = 1 + (torch.rand(len(anchors), generator=generator) * (of_label - 1)).long()
        return self.by_label[self.start[label] + (self.rank[anchors] + step) % of_label]

"""The proxy assignment: one integer per training point, and what follows from it.

`assignment[i]` is the proxy p(x_i) of training point i (Eq. 5). Positive proxy of a triplet
(x, y, Z): `assignment[y]`. Negative proxies: the set {assignment[z] for z in Z}; with labels, Z
is all points of other labels. Nothing else has to be stored.

Static, fractional, several per label, random and nearest are ways of filling that vector.
"""

import numpy as np
import torch
from torch import Tensor

from proxylib.distances import check_points
from proxylib.retrieval import nearest_neighbors

SHARED, UNUSED = -1, -2


def init_proxies(n_proxies: int, dim: int, generator: torch.Generator) -> Tensor:
    """Random proxies (n_proxies, dim), float32, standard normal (steps 902 and 1002).

    Less than 1 of either raises ValueError.
    """
    if n_proxies < 1 or dim < 1:
        raise ValueError(f"n_proxies={n_proxies}, dim={dim}: expected 1 or more")
    return torch.randn(n_proxies, dim, generator=generator)


def check_labels(labels: Tensor) -> None:
    """Raise ValueError unless labels are (N,) int64 and every value of 0 … C−1 occurs."""
    if labels.dtype != torch.int64 or labels.ndim != 1 or not len(labels):
        raise ValueError(f"labels: expected (N,) int64, got {tuple(labels.shape)} {labels.dtype}")
    if labels.min() < 0:
        raise ValueError(f"labels: expected 0 or more, got {labels.min()}")
    if (gap := torch.bincount(labels) == 0).any():
        raise ValueError(
            f"labels run from 0 to {labels.max()}, but these never occur: {_some(gap)}; "
            "remap them to 0 … C-1"
        )


def check_assignment(
    assignment: Tensor, n_proxies: int, labels: Tensor | None = None, all_used: bool = False
) -> None:
    """Every training point has a proxy, one of 0 … n_proxies − 1.

    Args:
        assignment: (N,) int64.
        labels: (N,) int64, to name the labels left without a proxy; None = triplets only.
        all_used: every proxy must serve a point, as in all static assignments.

    Raises:
        ValueError: which points, labels or proxies break the rule.
    """
    if assignment.dtype != torch.int64 or assignment.ndim != 1 or not len(assignment):
        raise ValueError(
            f"assignment: expected (N,) int64, got {tuple(assignment.shape)} {assignment.dtype}"
        )
    if labels is not None and labels.shape != assignment.shape:
        raise ValueError(
            f"assignment has {len(assignment)} entries, but there are {len(labels)} labels; "
            "expected one entry per training point"
        )
    if (wrong := (assignment < 0) | (assignment >= n_proxies)).any():
        whose = "" if labels is None else f" (labels {labels[wrong].unique()[:10].tolist()})"
        raise ValueError(
            f"{int(wrong.sum())} points{whose} have no proxy: expected entries of 0 … "
            f"{n_proxies - 1}, got {assignment[wrong].unique()[:10].tolist()} at points "
            f"{_some(wrong)}"
        )
    if all_used and (unused := torch.bincount(assignment, minlength=n_proxies) == 0).any():
        raise ValueError(
            f"{int(unused.sum())} of {n_proxies} proxies are never assigned to a point: "
            f"{_some(unused)}; they would never learn, so ask for fewer"
        )


def _some(chosen: Tensor) -> list[int]:
    """The first few places of a boolean vector, for messages."""
    return chosen.nonzero().flatten()[:10].tolist()


def assign_by_label(labels: Tensor) -> Tensor:
    """One proxy per label: point i is served by proxy `labels[i]` (step 904; static assignment).

    Labels and assignment are (N,) int64. Labels of another type, negative, or with a gap (a proxy
    nobody is assigned to) raise ValueError.
    """
    check_labels(labels)
    return labels.clone()


def assign_static(labels: Tensor, n_proxies: int, generator: torch.Generator) -> Tensor:
    """Any number of proxies for the labels, fixed for the whole training (FIG. 6).

    As many as labels: `assign_by_label`. Fewer (fractional): the labels are dealt to the proxies
    in random order, so each proxy serves one label more or less than any other. More: the proxies
    are dealt to the labels, and then the points of each label to its proxies, in random order.
    Every proxy is used.

    Args:
        labels: (N,) int64, every value of 0 … C−1 occurs.
        n_proxies: P.
        generator: source of the random order.

    Returns:
        (N,) int64 assignment.

    Raises:
        ValueError: bad labels, no proxy, or a label with fewer points than proxies.

    Example:
        >>> assign_static(torch.tensor([0, 0, 1, 1, 2]), 2, torch.Generator().manual_seed(0))
        tensor([1, 1, 0, 0, 0])
    """
    check_labels(labels)
    count = labels.bincount()
    n_labels = len(count)
    if n_proxies < 1:
        raise ValueError(f"n_proxies={n_proxies}: expected 1 or more")
    if n_proxies == n_labels:
        return labels.clone()
    place = torch.empty(n_labels, dtype=torch.int64)  # of each label in a random order
    place[torch.randperm(n_labels, generator=generator)] = torch.arange(n_labels)
    if n_proxies < n_labels:  # deal the labels round the proxies
        return (place % n_proxies)[labels]
    # Deal the proxies round the labels. What does not go round is for the first in the order that
    # have a point for one proxy more.
    each, rest = divmod(n_proxies, n_labels)
    turn = place.where(count > each, place + n_labels).argsort().argsort()
    proxies_of = each + (turn < rest).long()  # (C,)
    if (few := count < proxies_of).any():
        raise ValueError(
            f"labels {_some(few)} have {count[few][:10].tolist()} points, fewer than their "
            f"{proxies_of[few][:10].tolist()} proxies (n_proxies={n_proxies}, {n_labels} labels)"
        )
    order = torch.randperm(len(labels), generator=generator)
    order = order[labels[order].argsort(stable=True)]  # by label, at random within each
    rank = torch.empty_like(labels)  # of each point in that order, from 0 in its label
    rank[order] = torch.arange(len(labels)) - (count.cumsum(0) - count)[labels[order]]
    first = proxies_of.cumsum(0) - proxies_of  # (C,) number of each label's first proxy
    return first[labels] + rank % proxies_of[labels]


def assign_random(n_points: int, n_proxies: int, generator: torch.Generator) -> Tensor:
    """Points dealt to the proxies at random, whatever their label: (n_points,) int64 (step 1004).

    Every proxy serves as many points as any other, give or take one. More proxies than points, or
    none, raise ValueError.
    """
    if not 1 <= n_proxies <= n_points:
        raise ValueError(f"n_proxies={n_proxies}: expected 1 … {n_points}, the training points")
    return torch.randperm(n_points, generator=generator) % n_proxies


def assign_nearest(embeddings: Tensor, proxies: Tensor) -> Tensor:
    """Each point's nearest proxy, exact (Eq. 5; steps 1004 and 1016; dynamic assignment).

    Among equally near ones the proxy with the smallest index; see `nearest_neighbors`.

    Args:
        embeddings: (N, D); proxies: (P, D); both rescaled as the loss rescales them.

    Returns:
        (N,) int64 assignment. Embeddings or proxies that are not finite, or no matrices, raise
        ValueError.
    """
    check_points(embeddings, "embeddings")
    check_points(proxies, "proxies")
    return nearest_neighbors(embeddings, 1, proxies)[0].flatten()


def exclusive_label(assignment: Tensor, labels: Tensor, n_proxies: int) -> Tensor:
    """For each proxy the only label it serves, `SHARED` by several, or `UNUSED`: (P,) int64.

    That is all one must know to find the negatives of an anchor of label c: a proxy serves some
    point of another label exactly if its entry is neither c nor `UNUSED`. Assignment and labels
    are (N,) int64 over the training points; ValueError as in `check_assignment`.
    """
    check_assignment(assignment, n_proxies, labels)
    unused = torch.full((n_proxies,), UNUSED, device=labels.device)
    low = unused.scatter_reduce(0, assignment, labels, "amin", include_self=False)
    high = unused.scatter_reduce(0, assignment, labels, "amax", include_self=False)
    return torch.where(low == high, low, SHARED)


def negative_mask(exclusive: Tensor, anchor_labels: Tensor) -> Tensor:
    """Which proxies are negatives of which anchor, (B, P) bool: those that serve another label.

    The anchor's positive proxy is among them exactly if it serves a point of another label as well
    (Algorithm 1 by the letter).

    Args:
        exclusive: (P,) from `exclusive_label`.
        anchor_labels: (B,) int64.
    """
    return (exclusive != anchor_labels[:, None]) & (exclusive != UNUSED)


def negative_mask_of_points(assignment: Tensor, negatives: Tensor, n_proxies: int) -> Tensor:
    """The same from triplets (x, y, Z) instead of labels: the proxies that serve a point of Z.

    Args:
        assignment: (N,) int64.
        negatives: (B, K) int64, the points Z of each anchor.
    """
    mask = torch.zeros(len(negatives), n_proxies, dtype=torch.bool, device=negatives.device)
    return mask.scatter_(1, assignment[negatives], True)


def draw_distinct(n: int, k: int, rows: int, generator: torch.Generator | None) -> Tensor:
    """k different numbers of 0 … n − 1 for each row, in random order, at a cost of k and not of n.

    (rows, min(k, n)) int64. The generator only gives the seed; None = torch's own.
    """
    source = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    draws = [source.choice(n, min(k, n), replace=False) for _ in range(rows)]
    return torch.from_numpy(np.stack(draws))

"""The proxy assignment: one integer per training point, and what follows from it.

`assignment[i]` is the proxy p(x_i) of training point i (Eq. 5). Positive proxy of a triplet
(x, y, Z): `assignment[y]`. Negative proxies: the set {assignment[z] for z in Z}; with labels, Z
is all points of other labels. Nothing else has to be stored.
"""

import torch
from torch import Tensor

SHARED, UNUSED = -1, -2


def init_proxies(n_proxies: int, dim: int, generator: torch.Generator) -> Tensor:
    """Random proxies (n_proxies, dim), float32, standard normal (steps 902 and 1002)."""
    return torch.randn(n_proxies, dim, generator=generator)


def assign_by_label(labels: Tensor) -> Tensor:
    """One proxy per label: point i is served by proxy `labels[i]` (step 904; static assignment).

    Args:
        labels: (N,) int64, 0 … number of labels − 1.

    Returns:
        (N,) int64 assignment.

    Raises:
        ValueError: labels of another type, negative, or with a gap (a proxy nobody is assigned to).
    """
    if labels.dtype != torch.int64 or labels.ndim != 1 or not len(labels):
        raise ValueError(f"labels: expected (N,) int64, got {tuple(labels.shape)} {labels.dtype}")
    if labels.min() < 0:
        raise ValueError(f"labels: expected 0 or more, got {labels.min()}")
    if (gap := torch.bincount(labels) == 0).any():
        raise ValueError(
            f"labels run from 0 to {labels.max()}, but these never occur: "
            f"{gap.nonzero().flatten()[:10].tolist()}; remap them to 0 … C-1"
        )
    return labels.clone()


def exclusive_label(assignment: Tensor, labels: Tensor, n_proxies: int) -> Tensor:
    """For each proxy the only label it serves, `SHARED` by several, or `UNUSED`.

    That is all one must know to find the negatives of an anchor of label c: a proxy serves some
    point of another label exactly if its entry is neither c nor `UNUSED`.

    Args:
        assignment, labels: (N,) int64 over the training points.
        n_proxies: P, number of proxies.

    Returns:
        (P,) int64.

    Raises:
        ValueError: an entry of `assignment` that is no proxy.
    """
    if assignment.min() < 0 or assignment.max() >= n_proxies:
        raise ValueError(
            f"assignment: expected proxies 0 … {n_proxies - 1}, got "
            f"{assignment.min()} … {assignment.max()}"
        )
    unused = torch.full((n_proxies,), UNUSED, device=labels.device)
    low = unused.scatter_reduce(0, assignment, labels, "amin", include_self=False)
    high = unused.scatter_reduce(0, assignment, labels, "amax", include_self=False)
    return torch.where(low == high, low, SHARED)


def negative_mask(exclusive: Tensor, anchor_labels: Tensor) -> Tensor:
    """Which proxies are negatives of which anchor: those that serve a point of another label.

    The anchor's positive proxy is among them exactly if it serves such a point as well
    (Algorithm 1 by the letter).

    Args:
        exclusive: (P,) from `exclusive_label`.
        anchor_labels: (B,) int64.

    Returns:
        (B, P) bool.
    """
    return (exclusive != anchor_labels[:, None]) & (exclusive != UNUSED)

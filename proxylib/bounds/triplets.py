"""Triplets of points and of the proxies that serve them, and the error ε that is made by that."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from proxylib.proxies import check_assignment


class Triplets(NamedTuple):
    """B anchors x, each with a positive y and K negatives Z, and the proxies that serve these.

    p(Z) is a list with one entry for each z, as the proofs read it: a proxy that serves several
    points of Z occurs that often. All rows have unit length.
    """

    anchor: Tensor  # (B, D)
    positive: Tensor  # (B, D)
    negatives: Tensor  # (B, K, D)
    positive_proxy: Tensor  # (B, D)
    negative_proxies: Tensor  # (B, K, D)


def unit(points: Tensor, what: str = "points") -> Tensor:
    """Points (…, D) re-scaled to the unit sphere, in float64 whatever they came in.

    A zero or non-finite vector has no direction and raises ValueError.
    """
    length = torch.linalg.vector_norm(points.double(), dim=-1)
    if not ((length > 0) & length.isfinite()).all():
        raise ValueError(f"{what}: expected finite vectors with a direction, got lengths {length}")
    return points.double() / length[..., None]


def checked(triplets: Triplets) -> Triplets:
    """The same triplets in float64, their lengths 1 to its precision.

    Raises:
        ValueError: shapes that don't match, no anchors or no negatives, or a length that is off
            by more than 1e-5 (rounding to float32 stays well below that).
    """
    x, y, z, p_y, p_z = triplets
    if (
        (x.ndim, z.ndim) != (2, 3)
        or not x.shape == y.shape == p_y.shape == (z.shape[0], z.shape[2])
        or z.shape != p_z.shape
    ):
        raise ValueError(
            f"expected (B, D) anchors, positives and their proxies and (B, K, D) negatives and "
            f"theirs, got {[tuple(part.shape) for part in triplets]}"
        )
    if not len(x) or not z.shape[1]:
        raise ValueError(
            f"{len(x)} anchors with {z.shape[1]} negatives: expected one or more of each; "
            "for an empty Z there is no bound"
        )
    for part, values in zip(Triplets._fields, triplets, strict=True):
        off = (torch.linalg.vector_norm(values.double(), dim=-1) - 1).abs().max().item()
        if not off <= 1e-5:
            raise ValueError(
                f"{part}: expected vectors of length 1, got one that is off by {off:.3g}; re-scale "
                "them with unit(), and pass the lengths as embedding_norm and proxy_norm"
            )
    return Triplets(*(unit(values) for values in triplets))


def proxy_errors(
    points: Tensor,
    proxies: Tensor,
    assignment: Tensor,
    *,
    normalize: bool = True,
    squared: bool = True,
) -> Tensor:
    """Error of each point's proxy, ‖x − p(x)‖² or ‖x − p(x)‖, (N,) float64; its maximum is ε.

    Args:
        points: (N, D) embeddings; proxies: (P, D); assignment: (N,) int64.
        normalize: re-scale both to the unit sphere first, as all bounds need it.

    Raises:
        ValueError: zero or non-finite vectors, if they are to be normalised; points without a
            proxy.

    Example:
        >>> proxy_errors(torch.eye(2), torch.tensor([[2.0, 0.0]]), torch.tensor([0, 0]))
        tensor([0.0000, 2.0000], dtype=torch.float64)
    """
    check_assignment(assignment, len(proxies))
    if len(assignment) != len(points):
        raise ValueError(f"expected {len(points)} entries in assignment, got {len(assignment)}")
    if normalize:
        points, proxies = unit(points), unit(proxies, "proxies")
    error = torch.linalg.vector_norm(points.double() - proxies.double()[assignment], dim=1)
    return error.square() if squared else error


def epsilon_by_class(errors: Tensor, labels: Tensor) -> Tensor:
    """Largest error (C,) of each label's points; its maximum is ε again.

    Args:
        errors: (N,) from `proxy_errors`; labels: (N,) int64, 0 … C − 1.
    """
    zeros = errors.new_zeros(int(labels.max()) + 1)
    return zeros.scatter_reduce(0, labels, errors, "amax")


def gather_triplets(
    points: Tensor, proxies: Tensor, assignment: Tensor, indices: Tensor
) -> Triplets:
    """Look up triplets and their proxies, re-scaled to the unit sphere.

    Args:
        points: (N, D); proxies: (P, D); assignment: (N,) int64.
        indices: (B, 2 + K) int64 rows x, y, z₁ … z_K of point numbers.
    """
    points, proxies = unit(points), unit(proxies, "proxies")
    x, y, z = indices[:, 0], indices[:, 1], indices[:, 2:]
    return Triplets(points[x], points[y], points[z], proxies[assignment[y]], proxies[assignment[z]])


def all_triplets(labels: Tensor) -> Tensor:
    """Every triplet (T, 3) int64 of points x, y ≠ x of one label and z of another. Small sets only.

    With n points in k equal classes T = n²(n−k)(k−1)/k², O(n³), as the patent says. Labels: (N,).

    Example:
        >>> len(all_triplets(torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])))  # the points of FIG. 2A
        96
    """
    same = labels[:, None] == labels
    pair = same & ~torch.eye(len(labels), dtype=torch.bool)
    return (pair[:, :, None] & ~same[:, None]).nonzero()


def group_triplets(triplets: Tensor, assignment: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct (x, p_y, p_z) among triplets, and how many triplets share each: n of Eq. 7.

    Args:
        triplets: (T, 3) int64 points x, y, z; assignment: (N,) int64.

    Returns:
        Groups (G, 3) int64, as point, proxy, proxy, and counts (G,) int64 that sum to T.

    Example:
        >>> group_triplets(torch.tensor([[0, 1, 2], [0, 1, 3]]), torch.tensor([0, 0, 1, 1]))
        (tensor([[0, 0, 1]]), tensor([2]))
    """
    x, y, z = triplets.T
    groups = torch.stack([x, assignment[y], assignment[z]], 1)
    return torch.unique(groups, dim=0, return_counts=True)


def grouped_total(
    loss: Callable[[Tensor, Tensor], Tensor],
    points: Tensor,
    proxies: Tensor,
    groups: Tensor,
    counts: Tensor,
) -> Tensor:
    """Σ n·L(x, p_y, p_z) over groups, float64: the total proxy loss over all triplets (Eq. 7).

    Args:
        loss: of distances (G,) and (G, 1), as in `proxylib.losses`; d = ‖·‖².
        points: (N, D); proxies: (P, D), both used as they are, not re-scaled.
        groups, counts: from `group_triplets`.
    """
    x = points.double()[groups[:, 0]]
    d_pos, d_neg = ((x - proxies.double()[groups[:, i]]).square().sum(1) for i in (1, 2))
    return (counts * loss(d_pos, d_neg[:, None]).reshape(-1)).sum()

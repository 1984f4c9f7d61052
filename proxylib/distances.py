"""Distances between embeddings and proxies, and the norms they are rescaled to."""

import math

import torch
from torch import Tensor


def rescale(points: Tensor, norm: float | None) -> Tensor:
    """Points (…, D) brought to Euclidean length `norm`; unchanged if it is None (free norms).

    A zero vector has no direction: it stays zero, with a finite gradient. A norm that is not
    positive and finite raises ValueError.
    """
    if norm is None:
        return points
    check_norm(norm)
    length = torch.linalg.vector_norm(points, dim=-1, keepdim=True)
    return norm * (points / length.where(length > 0, 1.0))


def check_norm(norm: float | None, name: str = "norm") -> None:
    """Raise ValueError unless it is a length, or None."""
    if norm is not None and not 0 < norm < math.inf:  # NaN too
        raise ValueError(f"{name}={norm}: expected a positive number, or None for free norms")


def check_points(points: Tensor, name: str) -> None:
    """Raise ValueError unless these are one or more points (N, D) of finite floats."""
    if points.ndim != 2 or not len(points) or not points.is_floating_point():
        raise ValueError(f"{name}: expected (N, D) float, got {tuple(points.shape)} {points.dtype}")
    if (bad := ~points.isfinite().all(1)).any():
        first = bad.nonzero().flatten()[:10].tolist()
        raise ValueError(f"{int(bad.sum())} of {len(bad)} {name} are not finite: {first}")


def raised(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both in the type of `a`, which is raised to float32 at least."""
    a = a.to(torch.promote_types(a.dtype, torch.float32))
    return a, b.to(a.dtype)


def pairwise_distance(a: Tensor, b: Tensor, squared: bool = True) -> Tensor:
    """Distances between the rows of a (B, D) and b (K, D), as one matrix product.

    No (B, K, D) tensor is made. Half precision is raised to float32; float64 stays.

    Args:
        a, b: embeddings or proxies on one device.
        squared: ‖a−b‖² (the paper's distance, section 3.1) or ‖a−b‖.

    Returns:
        (B, K), at least float32. Rounding can leave a squared distance of equal points slightly
        below 0; the unsquared one is cut at 1e-6, where its gradient is finite. Anything but two
        matrices of the same width raises ValueError.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"expected a (B, D) and b (K, D), got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    a, b = raised(a, b)
    norms = (a * a).sum(1, keepdim=True) + (b * b).sum(1)
    distance = torch.addmm(norms, a, b.T, alpha=-2)
    return distance if squared else distance.clamp_min(1e-12).sqrt()

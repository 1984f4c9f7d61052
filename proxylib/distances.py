"""Distances between embeddings and proxies, and the norms they are rescaled to."""

import torch
from torch import Tensor


def rescale(points: Tensor, norm: float | None) -> Tensor:
    """Points (…, D) brought to Euclidean length `norm`; unchanged if it is None (free norms).

    A zero vector has no direction: it stays zero, with a finite gradient.
    """
    if norm is None:
        return points
    length = torch.linalg.vector_norm(points, dim=-1, keepdim=True)
    return norm * (points / length.where(length > 0, 1.0))


def pairwise_distance(a: Tensor, b: Tensor, squared: bool = True) -> Tensor:
    """Distances between the rows of a (B, D) and b (K, D), as one matrix product.

    No (B, K, D) tensor is made. Half precision is raised to float32; float64 stays.

    Args:
        a, b: embeddings or proxies on one device.
        squared: ‖a−b‖² (the paper's distance, section 3.1) or ‖a−b‖.

    Returns:
        (B, K), at least float32. Rounding can leave a squared distance of equal points slightly
        below 0; the unsquared one is cut at 1e-6, where its gradient is finite.

    Raises:
        ValueError: not two matrices of the same width.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(
            f"expected a (B, D) and b (K, D), got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    a = a.to(torch.promote_types(a.dtype, torch.float32))
    b = b.to(a.dtype)
    norms = (a * a).sum(1, keepdim=True) + (b * b).sum(1)
    distance = torch.addmm(norms, a, b.T, alpha=-2)
    return distance if squared else distance.clamp_min(1e-12).sqrt()

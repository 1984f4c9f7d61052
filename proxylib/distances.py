"""Distances between embeddings and proxies, and the norms they are rescaled to."""

import torch
from torch import Tensor
from torch.nn import functional


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
    if a.dtype in (torch.float16, torch.bfloat16):
        a = a.float()
    b = b.to(a.dtype)
    if (missing := 4 - len(a)) > 0:
        # Products with fewer rows are rounded otherwise, and equal points would not be ties.
        return pairwise_distance(functional.pad(a, (0, 0, 0, missing)), b, squared)[: len(a)]
    norms = (a * a).sum(1, keepdim=True) + (b * b).sum(1)
    distance = torch.addmm(norms, a, b.T, alpha=-2)
    return distance if squared else distance.clamp_min(1e-12).sqrt()


def centred(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both sets of points (…, D) shifted by the mean of b, if they lie far from the origin.

    No distance changes, but the product of `pairwise_distance` loses digits far from the origin,
    until the order of the distances is wrong. Near it the points stay as they are, to the bit.
    """
    centre = b.mean(0)
    spread = (b - centre).square().sum(1).mean()
    return (a - centre, b - centre) if centre.square().sum() > 10 * spread else (a, b)

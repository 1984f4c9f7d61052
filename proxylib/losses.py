"""Losses as pure functions of distances (DESIGN: the instance and the proxy loss are one function).

With distances to points they are the patent's instance losses L(x, y, Z); with distances to
proxies the same functions are L(x, p(y), p(Z)). Shapes: B anchors, K negatives each.
"""

import torch
from torch import Tensor
from torch.nn import functional


def rescale(points: Tensor, norm: float | None) -> Tensor:
    """Points (…, D) brought to Euclidean length `norm`; unchanged if it is None (free norms)."""
    return points if norm is None else norm * functional.normalize(points, dim=-1)


def pairwise_distance(a: Tensor, b: Tensor, squared: bool = True) -> Tensor:
    """Distances between the rows of a (B, D) and b (K, D), as one matrix product.

    No (B, K, D) tensor is made. Half precision is raised to float32; float64 stays.

    Args:
        a, b: embeddings or proxies on one device.
        squared: ‖a−b‖² (the paper's distance, section 3.1) or ‖a−b‖.

    Returns:
        (B, K), at least float32. Rounding can leave a squared distance of equal points slightly
        below 0; the unsquared one is cut at 0.

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
    norms = (a * a).sum(1, keepdim=True) + (b * b).sum(1)
    distance = torch.addmm(norms, a, b.T, alpha=-2)
    return distance if squared else distance.clamp_min(1e-12).sqrt()


def ranking_loss(d_pos: Tensor, d_neg: Tensor, mask: Tensor | None = None) -> Tensor:
    """Ranking: H(d(x, y) − d(x, z)) with H(0) = 0, so a tie is no error (patent Eq. 2).

    Args:
        d_pos: (B,); d_neg: (B, K); mask: (B, K) bool, which candidates are negatives; None = all.

    Returns:
        (B, K), 0 or 1; 0 where masked.
    """
    loss = (d_pos[:, None] > d_neg).to(d_neg.dtype)
    return loss if mask is None else loss * mask


def triplet_loss(d_pos: Tensor, d_neg: Tensor, margin: float, mask: Tensor | None = None) -> Tensor:
    """Hinge: [d(x, y) + M − d(x, z)]₊ (patent Eq. 3).

    Args:
        d_pos: (B,); d_neg: (B, K); mask: (B, K) bool, which candidates are negatives; None = all.
        margin: M, in units of the distance.

    Returns:
        (B, K); 0 where masked.
    """
    loss = (d_pos[:, None] + margin - d_neg).clamp_min(0)
    return loss if mask is None else loss * mask


def nca_loss(
    d_pos: Tensor, d_neg: Tensor, mask: Tensor | None = None, include_positive: bool = False
) -> Tensor:
    """NCA: d(x, y) + log Σ_z exp(−d(x, z)), patent Eq. 4.

    The positive is not in the sum, so the loss may be negative. Computed in log space.

    Args:
        d_pos: (B,) distance of each anchor to its positive.
        d_neg: (B, K) distances to candidates for negatives.
        mask: (B, K) bool, which candidates are negatives; None = all.
        include_positive: add the positive to the sum. That is the softmax cross-entropy that
            most re-implementations minimise, not Eq. 4; then the loss is ≥ 0.

    Returns:
        (B,) losses; 0, without gradient, for an anchor that has no negative.

    Example:
        >>> nca_loss(torch.tensor([1.0]), torch.tensor([[2.0, 2.0]]))  # 1 + log(2 exp(-2))
        tensor([-0.3069])
    """
    logits, valid = -d_neg, None
    if mask is not None:
        valid = mask.any(1)
        # A row without negatives stays finite here (its gradient must not be NaN); zeroed below.
        logits = logits.masked_fill(~(mask | ~valid[:, None]), -torch.inf)
    if include_positive:
        logits = torch.cat([logits, -d_pos[:, None]], 1)
    loss = d_pos + torch.logsumexp(logits, 1)
    return loss if valid is None else torch.where(valid, loss, 0)

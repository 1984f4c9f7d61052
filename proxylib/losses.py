"""Losses as pure functions of distances, so that instance and proxy loss are one function.

With distances to points they are the patent's instance losses L(x, y, Z); with distances to
proxies the same functions are L(x, p(y), p(Z)). Shapes: B anchors, K negatives each; tensors of
other shapes raise ValueError.

What an objective minimises is a `Loss`: (d_pos, d_neg, mask) → one number per anchor. Its settings
are keywords, to be fixed by `functools.partial`.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # (B,), (B, K), (B, K) bool → (B,)


def _check(d_pos: Tensor, d_neg: Tensor, mask: Tensor | None) -> None:
    if d_pos.ndim != 1 or d_neg.ndim != 2 or len(d_pos) != len(d_neg):
        raise ValueError(
            f"expected d_pos (B,) and d_neg (B, K), got {tuple(d_pos.shape)} and "
            f"{tuple(d_neg.shape)}"
        )
    if mask is not None and (mask.shape != d_neg.shape or mask.dtype != torch.bool):
        raise ValueError(
            f"mask: expected {tuple(d_neg.shape)} bool, got {tuple(mask.shape)} {mask.dtype}"
        )


def ranking_loss(d_pos: Tensor, d_neg: Tensor, mask: Tensor | None = None) -> Tensor:
    """Ranking loss: 1 where the negative is nearer than the positive, else 0; patent Eq. 2.

    H(d(x, y) − d(x, z)) with H(0) = 0: a tie is no error. It has no gradient; it is what the
    other losses stand in for.

    Args:
        d_pos: (B,) distance of each anchor to its positive.
        d_neg: (B, K) distances to candidates for negatives.
        mask: (B, K) bool, which candidates are negatives; None = all.

    Returns:
        (B, K) of 0 and 1 in the type of `d_neg`; 0 where `mask` is False.

    Example:
        >>> ranking_loss(torch.tensor([2.0]), torch.tensor([[1.0, 2.0, 3.0]]))
        tensor([[1., 0., 0.]])
    """
    _check(d_pos, d_neg, mask)
    wrong = d_neg < d_pos[:, None]
    return (wrong if mask is None else wrong & mask).to(d_neg.dtype)


def triplet_loss(d_pos: Tensor, d_neg: Tensor, margin: float, mask: Tensor | None = None) -> Tensor:
    """Triplet hinge: [d(x, y) + M − d(x, z)]₊, patent Eq. 3.

    Args:
        d_pos, d_neg, mask: as in `ranking_loss`.
        margin: M, in the unit of the distances.

    Returns:
        (B, K) losses ≥ 0; 0 where `mask` is False.

    Example:
        >>> triplet_loss(torch.tensor([1.0]), torch.tensor([[1.5, 3.0]]), margin=1.0)
        tensor([[0.5000, 0.0000]])
    """
    _check(d_pos, d_neg, mask)
    loss = torch.relu(d_pos[:, None] + margin - d_neg)
    return loss if mask is None else loss.masked_fill(~mask, 0)


def contrastive_loss(
    d_pos: Tensor, d_neg: Tensor, margin: float, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Contrastive loss of pairs: d(x, y)² and [M − d(x, z)]₊² (Hadsell et al. 2006).

    Args:
        d_pos, d_neg, mask: as in `ranking_loss`, but *unsquared* distances.
        margin: M, the distance beyond which a negative no longer matters.

    Returns:
        (B,) losses of the positive pairs and (B, K) of the negative ones, 0 where `mask` is False.

    Example:
        >>> contrastive_loss(torch.tensor([2.0]), torch.tensor([[0.5, 3.0]]), margin=1.0)
        (tensor([4.]), tensor([[0.2500, 0.0000]]))
    """
    _check(d_pos, d_neg, mask)
    loss = torch.relu(margin - d_neg).square()
    return d_pos.square(), loss if mask is None else loss.masked_fill(~mask, 0)


def nca_loss(
    d_pos: Tensor, d_neg: Tensor, mask: Tensor | None = None, *, include_positive: bool = False
) -> Tensor:
    """NCA: d(x, y) + log Σ_z exp(−d(x, z)), patent Eq. 4.

    The positive is not in the sum, so the loss may be negative. Computed in log space.

    Args:
        d_pos, d_neg, mask: as in `ranking_loss`.
        include_positive: add the positive to the sum. That is the softmax cross-entropy that
            most re-implementations minimise, not Eq. 4; then the loss is ≥ 0.

    Returns:
        (B,) losses; 0, without gradient, for an anchor that has no negative.

    Example:
        >>> nca_loss(torch.tensor([1.0]), torch.tensor([[2.0, 2.0]]))  # 1 + log(2 exp(-2))
        tensor([-0.3069])
    """
    _check(d_pos, d_neg, mask)
    logits, valid = -d_neg, None
    if mask is not None:
        valid = mask.any(1)
        # A row without negatives stays finite here (its gradient must not be NaN); zeroed below.
        logits = logits.masked_fill(~(mask | ~valid[:, None]), -torch.inf)
    if include_positive:
        logits = torch.cat([logits, -d_pos[:, None]], 1)
    loss = d_pos + torch.logsumexp(logits, 1)
    return loss if valid is None else torch.where(valid, loss, 0)


nca_loss.sums_over_negatives = True  # see `sums_over_negatives`
nca_loss.is_fused = True  # fused.py knows this loss, and its keywords


def mean_triplet_loss(
    d_pos: Tensor, d_neg: Tensor, mask: Tensor | None = None, *, margin: float = 1.0
) -> Tensor:
    """`triplet_loss` averaged over the negatives that violate the margin.

    A plain mean would vanish among the many that are far away already, and the hardest negative
    alone is too noisy.

    Args: as in `triplet_loss`. Returns (B,) losses ≥ 0.
    """
    return _mean_of_violating(triplet_loss(d_pos, d_neg, margin, mask))


mean_triplet_loss.is_fused = True  # fused.py knows this loss, and its keyword


def mean_contrastive_loss(
    d_pos: Tensor,
    d_neg: Tensor,
    mask: Tensor | None = None,
    *,
    margin: float = 1.0,
    pull: float = 1.0,
) -> Tensor:
    """`contrastive_loss` of the positive plus its mean over the negatives within the margin.

    Args: as in `contrastive_loss`; distances are *unsquared*. `pull` is the weight of the
    positive. Returns (B,) losses ≥ 0.
    """
    positive, negative = contrastive_loss(d_pos, d_neg, margin, mask)
    return pull * positive + _mean_of_violating(negative)


def _mean_of_violating(losses: Tensor) -> Tensor:
    """(B, K) hinges → (B,) mean of those above 0; 0 if there are none."""
    return losses.sum(1) / (losses > 0).sum(1).clamp_min(1)


def mean_over_anchors(losses: Tensor, mask: Tensor) -> Tensor:
    """Mean of the losses (B,) over the anchors that have a negative in `mask` (B, K)."""
    has_negative = mask.any(1)
    return (losses * has_negative).sum() / has_negative.sum().clamp_min(1)


def unwrapped(loss: Loss | None) -> tuple[Loss | None, dict[str, object]]:
    """The function inside `functools.partial`s, and the keywords that these fix."""
    keywords = {}
    while isinstance(loss, functools.partial):
        loss, keywords = loss.func, {**loss.keywords, **keywords}
    return loss, keywords


def includes_positive(loss: Loss) -> bool:
    """Whether the positive is in the sum of this NCA loss, so that it must not be there twice."""
    return unwrapped(loss)[1].get("include_positive", False)


def sums_over_negatives(loss: Loss) -> bool:
    """Whether a loss adds its negatives up, so that each of k sampled ones stands for n / k of n.

    A loss function says so by an attribute of this name; one that averages needs no correction.
    """
    return getattr(unwrapped(loss)[0], "sums_over_negatives", False)

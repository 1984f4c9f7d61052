"""What other papers bound by proxies, class centres or a softmax, beside the patent (notebook A3).

Everything lives on the unit sphere, and every class has one centre: here its proxy. Inner products
with centres enter the softmax times a scale λ = 2·N_x·N_p, because −‖N_x·x̂ − N_p·ĉ‖² is λ·x̂ᵀĉ plus
a number that is the same for all centres. The notebook derives each inequality.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from proxylib.bounds import Triplets, unit
from proxylib.bounds.inequalities import TOLERANCE


class Sides(NamedTuple):
    """A quantity and what bounds it from above, float64 of one shape."""

    quantity: Tensor
    bound: Tensor

    @property
    def violations(self) -> int:
        """How often the quantity is above its bound by more than rounding."""
        return int((self.quantity > self.bound + TOLERANCE).sum())

    @property
    def tightness(self) -> float:
        """Median of bound / quantity where the quantity is above 0; 1 is tight, NaN = nowhere."""
        some = self.quantity > TOLERANCE
        return (self.bound[some] / self.quantity[some]).median().item() if some.any() else math.nan


def hinge_through_centres(triplets: Triplets, margin: float) -> Sides:
    """The hinge of a triplet, by way of the centres of its classes; distances are unsquared.

    [‖x−y‖ + M − ‖x−z‖]₊ ≤ [‖x−c_y‖ + ‖y−c_y‖ + M − ‖x−c_z‖ + ‖z−c_z‖]₊, the triangle inequality
    twice. After Do et al., CVPR 2019 (arXiv 1904.08720).

    Args:
        triplets: unit vectors; their proxies are the centres.
        margin: M, in the unit of the distance.

    Returns:
        (B, K) sides.
    """
    x, y, z, c_y, c_z = triplets

    def d(a: Tensor, b: Tensor) -> Tensor:
        return torch.linalg.vector_norm(a - b, dim=-1)

    left = d(x, y)[:, None] - d(x[:, None], z)
    right = (d(x, c_y) + d(y, c_y))[:, None] - d(x[:, None], c_z) + d(z, c_z)
    return Sides((left + margin).relu(), (right + margin).relu())


def linear_through_centres(points: Tensor, labels: Tensor, centres: Tensor, margin: float) -> Sides:
    """The same without [·]₊ on either side, as means over all triplets of a data set.

    The right side takes N·C distances between points and centres, which is the paper's point.
    Without [·]₊ it bounds the mean hinge only where no argument is negative.

    Args:
        points: (N, D); labels: (N,) int64, 0 … C − 1; centres: (C, D), one a class.
        margin: M.

    Returns:
        Scalar sides.

    Raises:
        ValueError: no triplets.
    """
    points, centres = unit(points), unit(centres, "centres")
    sizes, exact = labels.bincount(minlength=len(centres)), "donot_use_mm_for_euclid_dist"
    own = torch.linalg.vector_norm(points - centres[labels], dim=1)
    left = right = torch.zeros((), dtype=torch.float64)
    count = 0
    for label, size in enumerate(sizes.tolist()):  # of the anchors and positives
        same = labels == label
        positives, negatives = size - 1, len(points) - size
        if positives < 1:
            continue
        to_points = torch.cdist(points[same], points, compute_mode=exact)  # (size, N)
        to_centres = torch.cdist(points[same], centres, compute_mode=exact)  # (size, C)
        served = sizes * (torch.arange(len(sizes)) != label)  # negatives of each centre
        left = left + negatives * to_points[:, same].sum() - positives * to_points[:, ~same].sum()
        right = right + 2 * positives * negatives * own[same].sum()
        right = right + positives * (size * own[~same].sum() - (to_centres * served).sum())
        count += size * positives * negatives
    if not count:
        raise ValueError(f"no triplets: classes of {sizes.tolist()} points")
    return Sides(left / count + margin, right / count + margin)


def pairs_in_balls(
    points: Tensor, labels: Tensor, centres: Tensor, pairs: Tensor, margin: float
) -> Sides:
    """The contrastive loss of a pair, by the balls around the centres that hold its two classes.

    With r the largest error of a class, ‖x−z‖ differs from ‖c_x−c_z‖ by at most r_x + r_z. So the
    loss, ‖x−y‖ within a class and [M − ‖x−z‖]₊ between two, is at most that of the centres plus
    r_x + r_z. After Gürbüz et al. (CCP, arXiv 2209.09060).

    Args:
        points, labels, centres: as in `linear_through_centres`.
        pairs: (B, 2) int64 point numbers.
        margin: M, beyond which two classes are far enough apart.

    Returns:
        (B,) sides.
    """
    points, centres = unit(points), unit(centres, "centres")
    own = torch.linalg.vector_norm(points - centres[labels], dim=1)
    radius = own.new_zeros(len(centres)).scatter_reduce(0, labels, own, "amax")
    first, second = labels[pairs].T

    def loss(a: Tensor, b: Tensor) -> Tensor:
        d = torch.linalg.vector_norm(a - b, dim=1)
        return torch.where(first == second, d, (margin - d).relu())

    bound = loss(centres[first], centres[second]) + radius[first] + radius[second]
    return Sides(loss(points[pairs[:, 0]], points[pairs[:, 1]]), bound)


def softmax_over_centres(
    points: Tensor, labels: Tensor, centres: Tensor, scale: float
) -> tuple[Sides, Sides]:
    """The hardest triplet (x, c_y, c_k) and the softmax cross-entropy, each by the other.

    With d = ‖·‖² and α = 2/λ: max_k [d(x,c_y) − d(x,c_k)]₊ ≤ α·CE(x) ≤ the same + α·log C. After
    Qian et al. (SoftTriple, arXiv 1909.05235).

    Args:
        points, labels, centres: as in `linear_through_centres`.
        scale: λ > 0.

    Returns:
        Two times (N,) sides: the hinge by the cross-entropy, and this by the hinge.
    """
    cosine = unit(points) @ unit(centres, "centres").T  # (N, C)
    entropy = 2 / scale * functional.cross_entropy(scale * cosine, labels, reduction="none")
    hardest = 2 * (cosine - cosine.gather(1, labels[:, None])).amax(1)  # ≥ 0: c_y is among them
    return Sides(hardest, entropy), Sides(entropy, hardest + 2 / scale * math.log(len(centres)))


def pairwise_by_cross_entropy(
    points: Tensor, labels: Tensor, centres: Tensor, scale: float, steps: int = 50
) -> Sides:
    """A loss over pairs of points alone, by the cross-entropy of any centres of length λ.

    mean H(q) − λ·Σ_k‖g_k‖ ≤ mean CE with g_k = mean_i (q_ik − [label of i is k])·x_i, for any
    distributions q; ‖g_k‖² is a weighted mean of x_iᵀx_j over all pairs. After Boudiaf et al., ECCV
    2020 (arXiv 2003.08983).

    Args:
        points, labels, centres, scale: as in `softmax_over_centres`.
        steps: q is the softmax of class weights that start at the centres and take so many steps
            downhill. The largest of the pairwise losses is taken, for each is a valid one.

    Returns:
        Scalar sides; a quantity below 0 says nothing, for no cross-entropy is.
    """
    points, weights = unit(points), scale * unit(centres, "centres")
    bound = functional.cross_entropy(points @ weights.T, labels)
    one_hot, found = functional.one_hot(labels, len(centres)), []
    for _ in range(steps + 1):
        log_q = functional.log_softmax(points @ weights.T, 1)  # (N, C)
        q = log_q.exp()
        pull = (q - one_hot).T @ points / len(points)  # (C, D), the gradient
        found.append(-(q * log_q).sum(1).mean() - scale * pull.norm(dim=1).sum())
        weights = weights - 2 * len(centres) * pull
        weights = weights * (scale / weights.norm(dim=1, keepdim=True)).clamp_max(1)
    return Sides(torch.stack(found).max(), bound)

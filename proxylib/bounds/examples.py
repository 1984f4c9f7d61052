"""Triplets that break the published bounds."""

import math

import torch

from proxylib.bounds.triplets import Triplets


def tight_example(epsilon: float, negatives: int = 1) -> Triplets:
    """One triplet on the circle whose gap is exactly 4√ε (‖·‖²) or 2√ε (½‖·‖²).

    With h = √ε/2 and c = √(1−h²): x = (1, 0), y = (−h, c), p_y = (h, c), z = (h, −c),
    p_z = (−h, −c). Both errors point along the anchor and against it, so Cauchy–Schwarz is an
    equality twice. It breaks the published ranking bound for ε < 4, the NCA bound for every ε,
    and the triplet bound for every ε if α·M ≥ 2√ε, where no hinge is at rest.

    Args:
        epsilon: 0 < ε ≤ 4, the squared diameter of the sphere.
        negatives: K, so many copies of z.

    Raises:
        ValueError: ε outside of that.
    """
    half_turn = angle_of(epsilon) / 2
    return _on_circle(math.pi / 2 + half_turn, math.pi / 2 - half_turn, negatives)


def flip_example(epsilon: float, negatives: int = 1) -> Triplets:
    """One triplet: points just misordered, proxies correctly ordered by the largest gap ε allows.

    d(x,y) > d(x,z) by a hair, and d(x,p_z) − d(x,p_y) = 4√(ε − ε²/4) for ‖·‖²: no triplet within ε
    flips the order at a larger distance. It breaks the published bound of the expected ranking
    loss wherever that says anything at all, for ε < 2.

    Args:
        epsilon: 0 < ε < 2; negatives: as in `tight_example`.
    """
    if not epsilon < 2:
        raise ValueError(f"epsilon={epsilon}: expected less than 2; from there on any order flips")
    past = math.pi / 2 + 1e-7  # a hair beyond the tie, which would be no error
    return _on_circle(past, past - angle_of(epsilon), negatives)


def angle_of(epsilon: float) -> float:
    """The angle between unit vectors at squared distance ε."""
    if not 0 < epsilon <= 4:
        raise ValueError(f"epsilon={epsilon}: expected 0 < ε ≤ 4 = the squared diameter")
    return 2 * math.asin(math.sqrt(epsilon) / 2)


def _on_circle(far: float, near: float, negatives: int) -> Triplets:
    """x at angle 0, y at `far`, p_y at `near`; z and p_z the other way round on the other side."""

    def at(angle: float) -> torch.Tensor:
        return torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=torch.float64)

    z, p_z = (at(angle - math.pi)[:, None].repeat(1, negatives, 1) for angle in (far, near))
    return Triplets(at(0), at(far), z, at(near), p_z)

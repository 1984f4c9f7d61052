"""Triplets that break the published bounds, made by hand and sought (notebook 02)."""

import math
from collections.abc import Callable

import torch

from proxylib.bounds.inequalities import Bound
from proxylib.bounds.triplets import Triplets, unit


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


def break_bound(
    bound: Callable[..., Bound],
    epsilon: float,
    *,
    dim: int = 3,
    negatives: int = 1,
    shared: bool = False,
    trials: int = 64,
    steps: int = 300,
    seed: int = 0,
) -> tuple[float, Triplets]:
    """Try to break a bound by gradient ascent on gap / allowance from random starts.

    Points and proxies move on the unit sphere and points stay within ε of their proxies.

    Args:
        bound: `ranking_bound`, `nca_bound` or `triplet_bound`, its conventions bound by
            `functools.partial`. The expected ranking loss has no gradient to follow.
        epsilon: 0 < ε ≤ 4.
        dim: D ≥ 2; negatives: K; trials: independent starts; steps: of Adam.
        shared: keep the anchor within ε of the positive's proxy too, as with one proxy per label.

    Returns:
        The largest ratio found, and its triplet (B = 1). Above 1 the bound is broken; close to 1
        its constant can't be improved.

    Example:
        >>> break_bound(functools.partial(nca_bound, constant="published"), 0.5)[0]  # √2
        1.414...
    """
    angle = angle_of(epsilon)
    generator = torch.Generator().manual_seed(seed)

    def start(*shape: int) -> torch.Tensor:
        draw = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return draw.requires_grad_()

    x, p_y, to_y = (start(trials, dim) for _ in range(3))
    p_z, to_z = (start(trials, negatives, dim) for _ in range(2))
    far_x, far_y, far_z = start(trials, 1), start(trials, 1), start(trials, negatives, 1)
    optimizer = torch.optim.Adam([x, p_y, to_y, p_z, to_z, far_x, far_y, far_z], lr=0.05)

    def near(proxy: torch.Tensor, towards: torch.Tensor, far: torch.Tensor) -> torch.Tensor:
        tangent = unit(towards - (towards * proxy).sum(-1, keepdim=True) * proxy)
        turn = angle * (1e-3 + 0.999 * far.sin() ** 2)  # at 0 the ratio to own errors is 0/0
        return turn.cos() * proxy + turn.sin() * tangent

    best, found = -math.inf, None
    for _ in range(steps):
        proxy, proxies = unit(p_y), unit(p_z)
        anchor = near(proxy, x, far_x) if shared else unit(x)
        y, z = near(proxy, to_y, far_y), near(proxies, to_z, far_z)
        triplets = Triplets(anchor, y, z, proxy, proxies)
        ratio = bound(triplets, epsilon=epsilon).ratio.reshape(trials, -1)
        value, place = ratio.detach().amax(1).max(0)
        if value > best:
            best = value.item()
            found = Triplets(*(part.detach()[place][None].clone() for part in triplets))
        optimizer.zero_grad()
        (-ratio).sum().backward()
        optimizer.step()
    return best, found

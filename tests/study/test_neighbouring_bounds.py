"""Bounds of other papers: never broken, reached where they can be, and equal to naive loops."""

import math

import pytest
import torch
from torch.nn import functional

from proxylib.bounds import Triplets, all_triplets, unit
from proxylib.study.neighbouring_bounds import (
    Sides,
    hinge_through_centres,
    linear_through_centres,
    pairs_in_balls,
    pairwise_by_cross_entropy,
    softmax_over_centres,
)

LABELS = torch.tensor([0] * 4 + [1] * 2 + [2] * 5 + [3])  # unequal classes, one without a pair


def world(seed, spread=0.7, dim=3):
    generator = torch.Generator().manual_seed(seed)
    centres = unit(torch.randn(4, dim, generator=generator))
    noise = torch.randn(len(LABELS), dim, generator=generator, dtype=torch.float64)
    return unit(centres[LABELS] + spread * noise), LABELS, centres


def gathered(points, labels, centres):
    x, y, z = all_triplets(labels).T
    of_y, of_z = centres[labels[y]], centres[labels[z]]
    return Triplets(points[x], points[y], points[z][:, None], of_y, of_z[:, None])


def every_bound(points, labels, centres, scale=6.0):
    pairs = torch.combinations(torch.arange(len(points)))
    return [
        hinge_through_centres(gathered(points, labels, centres), 0.3),
        linear_through_centres(points, labels, centres, 0.3),
        pairs_in_balls(points, labels, centres, pairs, 1.2),
        *softmax_over_centres(points, labels, centres, scale),
        pairwise_by_cross_entropy(points, labels, centres, scale),
    ]


@pytest.mark.parametrize("seed", range(0, 20, 2))
def test_no_bound_is_ever_broken(seed):
    sides = every_bound(*world(seed, spread=0.1 + 0.1 * seed), scale=0.5 + seed)
    assert [s.violations for s in sides] == [0] * 6
    assert all((s.quantity < s.bound).any() for s in sides)


def test_each_bound_is_reached_by_an_example():
    """So no side can be made smaller without a further assumption."""
    x, z = torch.eye(2, dtype=torch.float64)[:, None]
    at_centres = Triplets(x, x, z[None], x, z[None])
    assert hinge_through_centres(at_centres, 2.0).tightness == pytest.approx(1, abs=1e-12)

    def at(degrees):
        angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
        return torch.stack([angle.cos(), angle.sin()], 1)

    labels, centres = torch.tensor([0, 0, 1, 1]), at([0.0, 90.0])
    # Two points of a class on either side of their centre: small errors lie nearly on a line.
    sides = pairs_in_balls(
        at([-1.0, 1.0, 89.0, 91.0]), labels, centres, torch.tensor([[0, 1]]), 1.0
    )
    assert sides.tightness == pytest.approx(1, abs=1e-3)
    points = at([0.0, 0.0, 90.0, 90.0])  # every point on its centre
    _, upper = softmax_over_centres(at([45.0, 45.0, 45.0, 45.0]), labels, centres, 3.0)
    assert upper.bound.tolist() == pytest.approx(upper.quantity.tolist())  # a tie of all centres
    hard, _ = softmax_over_centres(points, 1 - labels, centres, 1e4)
    assert hard.tightness == pytest.approx(1, abs=1e-3)  # one centre decides
    linear = linear_through_centres(points, labels, centres, 0.3)
    assert linear.bound.item() == pytest.approx(linear.quantity.item())
    # The best classifier of its length is stationary but for its length.
    spread = at([-40.0, 70.0, 50.0, 170.0])
    angle = torch.tensor([0.0, math.pi / 2], dtype=torch.float64, requires_grad=True)
    for _ in range(200):
        best = torch.stack([angle.cos(), angle.sin()], 1)
        [slope] = torch.autograd.grad(functional.cross_entropy(4 * spread @ best.T, labels), angle)
        angle = (angle - slope).detach().requires_grad_()
    sides = pairwise_by_cross_entropy(spread, labels, best.detach(), 4.0)
    assert sides.tightness == pytest.approx(1)
    # Other centres: the steps downhill find the same loss of pairs.
    found = pairwise_by_cross_entropy(spread, labels, at([30.0, 60.0]), 4.0, steps=300)
    assert found.quantity.item() == pytest.approx(sides.quantity.item(), rel=1e-4)


def test_linear_sides_are_the_means_over_all_triplets():
    points, labels, centres = world(3)
    x, y, z, c_y, c_z = (part.squeeze(1) if part.ndim == 3 else part
                         for part in gathered(points, labels, centres))  # fmt: skip
    left = (x - y).norm(dim=1) - (x - z).norm(dim=1)
    right = (x - c_y).norm(dim=1) + (y - c_y).norm(dim=1) - (x - c_z).norm(dim=1)
    right = right + (z - c_z).norm(dim=1)
    sides = linear_through_centres(points, labels, centres, 0.3)
    assert sides.quantity.item() == pytest.approx(left.mean().item() + 0.3)
    assert sides.bound.item() == pytest.approx(right.mean().item() + 0.3)
    with pytest.raises(ValueError, match="no triplets"):
        linear_through_centres(points[:4], labels[[0, 4, 6, 11]], centres, 0.3)


def test_the_pairwise_loss_is_one_of_pairs():
    points, labels, centres = world(5)
    q = (6 * points @ centres.T).softmax(1)
    weights = q - functional.one_hot(labels, 4)
    n, total = len(points), 0.0
    for k in range(4):
        pairs = sum(
            weights[i, k] * weights[j, k] * points[i] @ points[j] / n**2
            for i in range(n)
            for j in range(n)
        )
        total += pairs.sqrt()
    expected = -(q * q.log()).sum(1).mean() - 6 * total
    first = pairwise_by_cross_entropy(points, labels, centres, 6.0, steps=0)
    assert first.quantity.item() == pytest.approx(expected.item())
    assert first.bound.item() == pytest.approx(
        functional.cross_entropy(6 * points @ centres.T, labels).item()
    )
    # Better weights: a larger pairwise loss, and still below the entropy of whatever centres.
    best = pairwise_by_cross_entropy(points, labels, centres, 6.0)
    assert best.bound == first.bound and best.quantity > first.quantity + 0.01
    for seed in range(30):
        other = pairwise_by_cross_entropy(points, labels, world(seed)[2], 6.0, steps=0)
        assert other.bound > best.quantity


def test_violations_and_tightness_are_counted():
    sides = Sides(torch.tensor([0.0, 1.0, 2.0, 4.0]), torch.tensor([1.0, 0.5, 4.0, 12.0]))
    assert sides.violations == 1 and sides.tightness == 2.0
    assert math.isnan(Sides(torch.zeros(2), torch.ones(2)).tightness)

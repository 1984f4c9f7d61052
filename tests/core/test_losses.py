"""Each loss against hand-computed values and a slow explicit loop in float64."""

import math
from functools import partial

import pytest
import torch

from proxylib import (
    contrastive_loss,
    mean_contrastive_loss,
    mean_triplet_loss,
    nca_loss,
    pairwise_distance,
    ranking_loss,
    rescale,
    triplet_loss,
)
from proxylib.losses import mean_over_anchors, sums_over_negatives


def distances(n_anchors=6, n_negatives=9, seed=0):
    """(d_pos, d_neg, mask), float64; the last anchor has no negative, the first one all."""
    g = torch.Generator().manual_seed(seed)
    d_pos = 4 * torch.rand(n_anchors, generator=g, dtype=torch.float64)
    d_neg = 4 * torch.rand(n_anchors, n_negatives, generator=g, dtype=torch.float64)
    mask = torch.rand(n_anchors, n_negatives, generator=g) < 0.5
    mask[0], mask[-1] = True, False
    return d_pos, d_neg, mask


def each_anchor(d_pos, d_neg, mask):
    for i in range(len(d_pos)):
        yield i, d_pos[i].item(), [d_neg[i, k].item() for k in range(d_neg.shape[1]) if mask[i, k]]


def test_ranking_loss_counts_inversions_and_no_ties():
    d_pos, d_neg, mask = distances()
    d_neg[0, 0] = d_pos[0]
    got = ranking_loss(d_pos, d_neg, mask)
    for i, positive, negatives in each_anchor(d_pos, d_neg, mask):
        assert got[i].sum() == sum(positive - negative > 0 for negative in negatives)
    assert got[0, 0] == 0
    assert got[~mask].eq(0).all()


@pytest.mark.parametrize("masked", [True, False])
def test_triplet_loss_equals_loop(masked):
    d_pos, d_neg, mask = distances()
    got = triplet_loss(d_pos, d_neg, 0.7, mask if masked else None)
    for i in range(len(d_pos)):
        for k in range(d_neg.shape[1]):
            expected = max(0.0, (d_pos[i] + 0.7 - d_neg[i, k]).item())
            expected = expected if mask[i, k] or not masked else 0.0
            assert got[i, k].item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("include_positive", [False, True])
def test_nca_loss_equals_loop(include_positive):
    d_pos, d_neg, mask = distances()
    got = nca_loss(d_pos, d_neg, mask, include_positive=include_positive)
    for i, positive, negatives in each_anchor(d_pos, d_neg, mask):
        summed = sum(math.exp(-d) for d in negatives + [positive] * include_positive)
        expected = positive + math.log(summed) if negatives else 0.0
        assert got[i].item() == pytest.approx(expected, rel=1e-9)


def test_nca_loss_by_hand():
    got = nca_loss(torch.tensor([1.0]), torch.tensor([[2.0, 2.0]]))
    assert got.item() == pytest.approx(1 + math.log(2) - 2)
    got = nca_loss(torch.tensor([1.0]), torch.tensor([[1.0]]), include_positive=True)
    assert got.item() == pytest.approx(math.log(2))


def test_contrastive_loss_by_hand_and_loop():
    d_pos, d_neg, mask = distances()
    positive, negative = contrastive_loss(d_pos, d_neg, 1.5, mask)
    assert torch.equal(positive, d_pos**2)
    for i, _, negatives in each_anchor(d_pos, d_neg, mask):
        expected = sum(max(0.0, 1.5 - d) ** 2 for d in negatives)
        assert negative[i].sum().item() == pytest.approx(expected, rel=1e-12)


def test_hinges_are_averaged_over_the_violating_negatives():
    d_pos, d_neg = torch.tensor([1.0, 0.0]), torch.tensor([[1.5, 1.0, 9.0], [9.0, 9.0, 9.0]])
    assert mean_triplet_loss(d_pos, d_neg).tolist() == [0.75, 0.0]  # the margin is 1
    all_three = [pytest.approx((8 + 8.5 + 0.5) / 3), 0.0]
    assert mean_triplet_loss(d_pos, d_neg, margin=8.5).tolist() == all_three
    expected = [1 + (0.5**2 + 1) / 2, 0.0]
    assert mean_contrastive_loss(d_pos, d_neg, margin=2.0).tolist() == expected
    assert mean_contrastive_loss(d_pos + 1, d_neg / 2).tolist() == [4 + (0.25**2 + 0.5**2) / 2, 1.0]
    pulled = mean_contrastive_loss(d_pos + 1, d_neg / 2, pull=0.5)
    assert pulled.tolist() == [2 + (0.25**2 + 0.5**2) / 2, 0.5]  # the pushes weigh the same
    only_last = torch.tensor([[False, False, True]] * 2)
    assert mean_triplet_loss(d_pos, d_neg, only_last, margin=8.5).tolist() == [0.5, 0.0]
    assert mean_contrastive_loss(d_pos, d_neg, only_last, margin=10).tolist() == [2.0, 1.0]


ANCHOR_LOSSES = {  # what an objective minimises
    "nca": nca_loss,
    "softmax": partial(nca_loss, include_positive=True),
    "triplet": partial(mean_triplet_loss, margin=0.7),
    "contrastive": partial(mean_contrastive_loss, margin=0.7),
}


@pytest.mark.parametrize("name", ANCHOR_LOSSES)
def test_gradients(name):
    d_pos, d_neg, mask = distances()
    d_pos.requires_grad_(), d_neg.requires_grad_()
    assert torch.autograd.gradcheck(lambda p, n: ANCHOR_LOSSES[name](p, n, mask), (d_pos, d_neg))


@pytest.mark.parametrize("name", ANCHOR_LOSSES)
def test_no_mask_means_all(name):
    d_pos, d_neg, mask = distances()
    loss = ANCHOR_LOSSES[name]
    assert torch.equal(loss(d_pos, d_neg, None), loss(d_pos, d_neg, torch.ones_like(mask)))
    assert not torch.equal(loss(d_pos, d_neg, None), loss(d_pos, d_neg, mask))


def test_the_mean_is_over_the_anchors_that_have_a_negative():
    mask = torch.tensor([[True, False], [False, False], [True, True]])
    losses = torch.tensor([1.0, 50.0, 2.5], requires_grad=True)
    mean = mean_over_anchors(losses, mask)
    assert mean.item() == 1.75
    mean.backward()
    assert losses.grad.tolist() == [0.5, 0.0, 0.5]
    assert mean_over_anchors(losses, mask & False).item() == 0


def test_which_losses_sum_over_their_negatives():
    """Found through any number of `partial`s, and on whatever else one writes oneself."""

    def own(d_pos, d_neg, mask):
        return d_pos

    found = {name: sums_over_negatives(loss) for name, loss in ANCHOR_LOSSES.items()}
    assert found == {"nca": True, "softmax": True, "triplet": False, "contrastive": False}
    once = partial(own)
    once.note = "a partial that carries something is not flattened into the next"
    twice = partial(once, mask=None)
    assert isinstance(twice.func, partial)
    assert not sums_over_negatives(twice)
    own.sums_over_negatives = True
    assert sums_over_negatives(twice)


@pytest.mark.parametrize("include_positive", [False, True])
def test_nca_loss_at_large_scale(include_positive):
    """N_x·N_p = 1,000: exp(−d) underflows, yet every anchor keeps its loss and its gradient."""
    g = torch.Generator().manual_seed(0)
    points = torch.randn(64, 16, generator=g, dtype=torch.float64)
    centres = torch.randn(50, 16, generator=g, dtype=torch.float64)
    results = []
    for dtype in (torch.float64, torch.float32):
        x = points.to(dtype).clone().detach().requires_grad_()
        d = pairwise_distance(rescale(x, 1000**0.5), rescale(centres.to(dtype), 1000**0.5))
        assert (torch.exp(-d[:, 1:]).sum(1) == 0).any() or dtype == torch.float64
        loss = nca_loss(d[:, 0], d[:, 1:], include_positive=include_positive)
        loss.sum().backward()
        assert x.grad.isfinite().all()
        if not include_positive:  # with it, an anchor on its proxy rightly has none
            assert (x.grad.norm(dim=1) > 0).all()
        results.append(loss.detach().double())
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-2)


def test_an_anchor_without_negatives_gives_no_loss_and_no_gradient():
    d_pos, d_neg, mask = distances()
    d_pos.requires_grad_(), d_neg.requires_grad_()
    nca_loss(d_pos, d_neg, mask, include_positive=True).sum().backward()
    assert d_pos.grad[-1] == 0
    assert d_neg.grad[-1].eq(0).all()
    assert d_neg.grad[~mask].eq(0).all()


@pytest.mark.parametrize("squared", [True, False])
def test_pairwise_distance_equals_cdist(squared):
    g = torch.Generator().manual_seed(0)
    a = torch.randn(5, 7, generator=g, dtype=torch.float64)
    b = torch.randn(4, 7, generator=g, dtype=torch.float64)
    expected = torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(pairwise_distance(a, b, squared), expected ** (1 + squared))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_raised(dtype):
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(5, 7, generator=g).to(dtype), torch.randn(4, 7, generator=g)
    got = pairwise_distance(a, b)
    assert got.dtype == torch.float32
    assert torch.equal(got, pairwise_distance(a.float(), b))
    assert pairwise_distance(a.double(), b).dtype == torch.float64


def test_rescaled_points_have_that_length_and_their_direction():
    a = torch.tensor([[3.0, 4.0], [0.0, -0.1]])
    expected = torch.tensor([[1.2, 1.6], [0.0, -2.0]])
    torch.testing.assert_close(rescale(a, 2.0), expected)
    assert rescale(a, None) is a


def test_a_zero_vector_stays_zero_and_a_tiny_one_does_not():
    a = torch.tensor([[0.0, 0.0], [3e-20, 4e-20]], dtype=torch.float64, requires_grad=True)
    scaled = rescale(a, 2.0)
    torch.testing.assert_close(scaled.tolist(), [[0.0, 0.0], [1.2, 1.6]])
    scaled.sum().backward()
    assert a.grad.isfinite().all()


@pytest.mark.parametrize(("a", "b"), [((3, 2), (3, 4)), ((3,), (3, 3)), ((3, 2), (1, 3, 2))])
def test_distances_of_wrong_shapes(a, b):
    with pytest.raises(ValueError, match=r"expected a \(B, D\) and b \(K, D\), got"):
        pairwise_distance(torch.zeros(a), torch.zeros(b))


def test_equal_points_have_a_finite_gradient():
    a = torch.ones(2, 3, requires_grad=True)
    pairwise_distance(a, a, squared=False).sum().backward()
    assert a.grad.isfinite().all()


@pytest.mark.parametrize(
    ("d_pos", "d_neg", "mask", "message"),
    [
        (torch.zeros(3, 1), torch.zeros(3, 2), None, r"got \(3, 1\) and \(3, 2\)"),
        (torch.zeros(2), torch.zeros(3, 2), None, r"got \(2,\) and \(3, 2\)"),
        (torch.zeros(3), torch.zeros(3, 2), torch.ones(3, 2), r"expected \(3, 2\) bool"),
        (torch.zeros(3), torch.zeros(3, 2), torch.ones(2, 2) > 0, r"got \(2, 2\)"),
    ],
)
def test_wrong_shapes(d_pos, d_neg, mask, message):
    for loss in (
        ranking_loss,
        nca_loss,
        mean_triplet_loss,
        mean_contrastive_loss,
        lambda *args: triplet_loss(*args[:2], 1.0, *args[2:]),
        lambda *args: contrastive_loss(*args[:2], 1.0, *args[2:]),
    ):
        with pytest.raises(ValueError, match=message):
            loss(d_pos, d_neg, mask)

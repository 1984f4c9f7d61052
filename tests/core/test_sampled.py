"""Sampled negatives: the draw, both modes of the loss, and its sparse gradient."""

import copy
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from proxylib import (
    DynamicProxyLoss,
    ProxyLoss,
    ProxyNCA,
    assign_random,
    mean_triplet_loss,
    nca_loss,
)
from proxylib.proxies import draw_distinct

LABELS = torch.arange(10).repeat_interleave(6)
DIM = 4


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


ASSIGNMENTS = {
    "by label": lambda: LABELS,
    "random": lambda: assign_random(60, 8, rng()),
    "mixed": lambda: torch.where(LABELS < 4, torch.arange(60) % 9, LABELS + 5),
}


@pytest.mark.parametrize("n", [3, 10, 40, 1_000, 10_000_000])
@pytest.mark.parametrize("k", [1, 5, 10])
def test_distinct_numbers(n, k):
    drawn = draw_distinct(n, k, 7, rng())
    assert drawn.shape == (7, min(n, k)) and drawn.dtype == torch.int64
    assert all(len(row.unique()) == min(n, k) for row in drawn)
    assert drawn.min() >= 0 and drawn.max() < n
    assert torch.equal(draw_distinct(n, k, 7, rng()), drawn)
    assert n < 100 or not torch.equal(draw_distinct(n, k, 7, rng(1)), drawn)


@pytest.mark.parametrize("n", [6, 12])
def test_every_subset_is_as_likely(n):
    sets = draw_distinct(n, 3, 30_000, rng()).sort(1).values @ torch.tensor([n * n, n, 1])
    counts = sets.unique(return_counts=True)[1].double()
    assert len(counts) == math.comb(n, 3)
    expected = 30_000 / len(counts)
    chi2 = ((counts - expected) ** 2 / expected).sum().item()
    assert chi2 < len(counts) + 4 * math.sqrt(2 * len(counts))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("kind", [ProxyLoss, DynamicProxyLoss])
@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_negatives_are_taken_evenly_and_nothing_else(assignment, kind, drops, shared):
    """Each of an anchor's negatives equally often, their number exact; unused proxies never.

    The loss is watched: it gets a distance for each proxy taken, by which it is known again.
    """
    seen = []
    vector = ASSIGNMENTS[assignment]()
    n_proxies = int(vector.max()) + (4 if kind is DynamicProxyLoss else 1)  # three are unused
    options = {"n_negatives": 2, "shared_negatives": shared, "drop_positive": drops}
    objective = kind(vector, DIM, rng(), LABELS, n_proxies=n_proxies, loss=watched(seen), **options)
    objective._follow = lambda anchors, nearest: None  # the assignment stays
    anchors = torch.tensor([0, 7, 20, 59])
    x = torch.randn(4, DIM, generator=rng(1))
    with torch.no_grad():
        distances = objective.distances(x)
        _, mask = objective.roles(anchors, anchors, None)
        for _ in range(1500):
            objective(x, anchors, anchors)
    counts, shift = torch.zeros(4, n_proxies), mask.sum(1).float()
    for d_neg, taken in seen:
        weight = (shift / taken.sum(1).clamp_min(1)).log()[:, None]  # n / k' of n_negatives' text
        near = ((d_neg + weight)[:, :, None] - distances[:, None]).abs()  # (4, 2, P)
        assert (near.min(2).values[taken] < 1e-4).all()
        counts.scatter_add_(1, near.argmin(2), taken.float())
    assert torch.equal(counts > 0, mask)
    pool = len(objective.in_use) if shared else mask.sum(1, keepdim=True)
    assert ((counts * pool / 3000 - 1)[mask].abs() < 0.2).all()


def watched(seen):
    def loss(d_pos, d_neg, mask):
        seen.append((d_neg, mask))
        return d_pos

    loss.sums_over_negatives = True
    return loss


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("loss", [nca_loss, mean_triplet_loss])
def test_all_of_them_drawn_is_no_sampling(loss, shared):
    options = {"loss": loss, "drop_positive": True}
    vector = assign_random(60, 8, rng())
    x = torch.randn(9, DIM, generator=rng(1), dtype=torch.float64).requires_grad_()
    anchors = torch.randint(60, (9,), generator=rng(2))
    whole = ProxyLoss(vector, DIM, rng(), labels=LABELS, **options).double()
    part = copy.deepcopy(whole)
    part.n_negatives, part.shared_negatives, part.sparse = 8, shared, True  # all there are
    gradients = []
    for objective in (whole, part):
        objective(x, anchors, anchors // 6 * 6 + (anchors + 1) % 6).backward()
        gradients.append((x.grad.clone(), objective.proxies.grad))
        x.grad = None
    assert gradients[1][1].is_sparse
    torch.testing.assert_close(*(g[0] for g in gradients))
    torch.testing.assert_close(gradients[0][1], gradients[1][1].to_dense())


@pytest.mark.parametrize("shared", [False, True])
def test_the_sum_is_estimated_without_bias(shared):
    """exp(loss − d_pos) of one anchor, for those draws that have a negative."""
    loss_fn = ProxyNCA(8, DIM, rng(), embedding_norm=1, proxy_norm=1).double()
    x, label = torch.randn(1, DIM, generator=rng(1), dtype=torch.float64), torch.tensor([3])
    d_pos = loss_fn.distances(x)[0, 3].item()
    expected = math.exp(loss_fn(x, label).item() - d_pos)
    loss_fn.n_negatives, loss_fn.shared_negatives = 2, shared
    found = [math.exp(loss_fn(x, label).item() - d_pos) for _ in range(2000)]
    assert sum(found) / 2000 == pytest.approx(expected, rel=0.04)
    assert loss_fn.metrics()["anchors_without_negative"] == 0  # of two one is a negative


def test_an_anchor_whose_own_proxy_is_the_only_one_drawn_is_left_out():
    loss_fn = ProxyNCA(3, DIM, rng(), n_negatives=1, shared_negatives=True)  # of one each
    x, labels = torch.randn(3, DIM, generator=rng(1)), torch.arange(3)
    assert loss_fn(x, labels).isfinite()
    assert loss_fn.metrics()["anchors_without_negative"] == 1


def test_another_assignment_is_noticed():
    """By loading a state, which overwrites the vector in place."""
    first, second = (
        ProxyLoss(v, DIM, rng(), labels=LABELS, loss=nca_loss, n_negatives=5).double()
        for v in (assign_random(60, 8, rng(1)), torch.where(LABELS < 9, LABELS % 7, 7))
    )
    x, anchors = torch.randn(2, DIM, dtype=torch.float64), torch.tensor([0, 59])
    first(x, anchors, anchors - 1 + 2 * (anchors == 0).long())
    first.load_state_dict(second.state_dict())
    first.generator, second.generator = rng(5), rng(5)
    losses = [o(x, anchors, anchors - 1 + 2 * (anchors == 0).long()) for o in (first, second)]
    assert torch.equal(*losses)


class LargestMade(TorchDispatchMode):
    """The largest dense tensor made, views and tensors changed in place apart."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        def storages(tensors):
            tensors = [t for t in tensors if isinstance(t, torch.Tensor)]
            return {t.untyped_storage().data_ptr(): t for t in tensors if not t.is_sparse}

        out = func(*args, **(kwargs or {}))
        made = storages(out if isinstance(out, tuple | list) else [out])
        for place in made.keys() - storages(args).keys():
            self.numel = max(self.numel, made[place].numel())
        return out


@pytest.mark.parametrize("shared", [False, True])
def test_a_step_touches_what_was_drawn_and_makes_nothing_as_large_as_the_proxies(shared):
    options = {"n_negatives": 20, "shared_negatives": shared, "sparse": True}
    norms = {"embedding_norm": 1.0, "proxy_norm": 1.0}  # so that no gradient is too small
    loss_fn = ProxyNCA(50_000, DIM, rng(), **options, **norms)
    optimizer = torch.optim.SparseAdam(loss_fn.parameters(), lr=0.1)
    x, labels = torch.randn(8, DIM, generator=rng(1)), torch.arange(8)
    loss_fn(x, labels).backward()  # the moments are made once
    optimizer.step()
    before = loss_fn.proxies.detach().clone()
    with LargestMade() as largest:
        optimizer.zero_grad()
        loss_fn(x, labels).backward()
        optimizer.step()
    assert largest.numel < 4000
    moved = (loss_fn.proxies != before).any(1)
    rows = loss_fn.proxies.grad.coalesce().indices()[0]
    assert torch.equal(moved.nonzero().flatten(), rows)
    assert len(rows) <= 8 + (20 if shared else 160) and moved[:8].all()


def test_options_that_do_not_fit():
    class Own(ProxyNCA):
        def score(self, distances, positive, mask):
            return super().score(distances, positive, mask)

    for option in ("shared_negatives", "sparse"):
        with pytest.raises(ValueError, match="expected n_negatives with them"):
            ProxyNCA(5, DIM, **{option: True})
    with pytest.raises(TypeError, match="n_negatives: Own has its own score"):
        Own(5, DIM, n_negatives=2)

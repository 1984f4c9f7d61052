"""Sampled negatives: the draw, both modes of the loss, its sparse gradient, and LazyAdam."""

import copy
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from proxylib import LazyAdam, ProxyLoss, ProxyNCA, assign_random, mean_triplet_loss, nca_loss
from proxylib.proxies import (
    UNUSED,
    _draw_distinct,
    exclusive_label,
    negative_mask,
    rank_by_label,
    sample_negatives,
)

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
    drawn, valid = _draw_distinct(torch.full((7,), n), k, rng())
    assert drawn.shape == valid.shape == (7, k)
    assert valid.sum(1).eq(min(n, k)).all()
    for row, real in zip(drawn, valid, strict=True):
        assert len(set(row[real].tolist())) == real.sum()
        assert row[real].min() >= 0 and row[real].max() < n
    assert torch.equal(_draw_distinct(torch.full((7,), n), k, rng())[0], drawn)


@pytest.mark.parametrize("n", [6, 12])  # both ways to draw
def test_every_subset_is_as_likely(n):
    drawn, _ = _draw_distinct(torch.full((30_000,), n), 3, rng())
    sets = drawn.sort(1).values @ torch.tensor([n * n, n, 1])
    counts = sets.unique(return_counts=True)[1].double()
    assert len(counts) == math.comb(n, 3)
    expected = 30_000 / len(counts)
    chi2 = ((counts - expected) ** 2 / expected).sum().item()
    assert chi2 < len(counts) + 4 * math.sqrt(2 * len(counts))


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("drops", [False, True])
@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_negatives_are_drawn_evenly_and_nothing_else(assignment, drops, shared):
    """Each of an anchor's negatives equally often, its count exact; unused proxies never."""
    vector = ASSIGNMENTS[assignment]()
    n_proxies = int(vector.max()) + 4  # the last three are unused
    exclusive = exclusive_label(vector, LABELS, n_proxies)
    ranking = rank_by_label(exclusive, 10)
    anchors = torch.tensor([0, 7, 20, 59])
    labels, positive = LABELS[anchors], vector[anchors]
    mask = negative_mask(exclusive, labels)
    if drops:
        mask = mask.scatter(1, positive[:, None], False)
    counts, g = torch.zeros(4, n_proxies), rng()
    for _ in range(1500):
        chosen, valid, available = sample_negatives(
            ranking, labels, 2, g, positive if drops else None, shared
        )
        chosen = chosen.expand(4, -1)
        assert torch.equal(available, mask.sum(1))
        assert (chosen[:, 0] != chosen[:, 1]).all()
        counts.scatter_add_(1, chosen, valid.float())
    assert torch.equal(counts > 0, mask)
    pool = (exclusive != UNUSED).sum() if shared else mask.sum(1, keepdim=True)
    assert ((counts * pool / 3000 - 1)[mask].abs() < 0.2).all()


def test_an_anchor_with_few_negatives_keeps_them_all():
    exclusive = torch.tensor([0, 0, 0, 1, UNUSED])
    chosen, mask, available = sample_negatives(
        rank_by_label(exclusive, 2), torch.tensor([0, 1]), 3, rng()
    )
    assert available.tolist() == mask.sum(1).tolist() == [1, 3]
    assert chosen[0][mask[0]].tolist() == [3] and sorted(chosen[1].tolist()) == [0, 1, 2]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("loss", [nca_loss, mean_triplet_loss])
def test_all_of_them_drawn_is_no_sampling(loss, shared):
    options = {"loss": loss, "drop_positive": True}
    vector = assign_random(60, 8, rng())
    x = torch.randn(9, DIM, generator=rng(1), dtype=torch.float64).requires_grad_()
    anchors = torch.randint(60, (9,), generator=rng(2))
    whole = ProxyLoss(vector, DIM, rng(), labels=LABELS, **options).double()
    part = copy.deepcopy(whole)
    part.n_negatives, part.shared_negatives, part.sparse = 8, shared, True
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
    assert loss_fn.metrics()["anchors_without_negative"] == 0


def test_an_anchor_whose_own_proxy_is_the_only_one_drawn_is_left_out():
    loss_fn = ProxyNCA(3, DIM, rng(), n_negatives=1, shared_negatives=True)
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
    optimizer = LazyAdam(loss_fn.parameters(), lr=0.1)
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


def test_lazy_adam_is_adam_where_every_row_has_a_gradient():
    """Several steps, beside a dense parameter with weight decay, and with changing rates."""
    results = []
    for kind, sparse in ((torch.optim.Adam, False), (LazyAdam, True)):
        g = rng()
        rows = torch.nn.Parameter(torch.randn(5, DIM, generator=g))
        dense = torch.nn.Parameter(torch.randn(3, generator=g))
        groups = [{"params": [rows]}, {"params": [dense], "weight_decay": 0.1}]
        optimizer = kind(groups, lr=0.1)
        calls = []
        optimizer.register_step_pre_hook(lambda *_, calls=calls: calls.append(1))
        for step in range(4):
            index = torch.randperm(5, generator=g).repeat(2)
            weight = torch.randn(10, DIM, generator=g)
            optimizer.zero_grad()
            out = torch.nn.functional.embedding(index, rows, sparse=sparse)
            ((out * weight).sum() + dense.square().sum()).backward()
            optimizer.step()
            assert rows.grad.is_sparse == sparse and len(calls) == step + 1
            optimizer.param_groups[0]["lr"] *= 0.5
        results.append((rows, dense))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_lazy_adam_leaves_the_other_rows_alone_and_its_state_comes_back():
    rows = torch.nn.Parameter(torch.randn(6, DIM, generator=rng()))
    optimizer = LazyAdam([rows], lr=0.1)

    def step(index):
        optimizer.zero_grad()
        torch.nn.functional.embedding(torch.tensor(index), rows, sparse=True).sum().backward()
        optimizer.step()

    step([0, 1])
    before = rows.detach().clone()
    step([1, 2])
    assert torch.equal((rows != before).any(1), torch.tensor([False, True, True, *[False] * 3]))
    saved, values = copy.deepcopy(optimizer.state_dict()), rows.detach().clone()
    step([0, 2])
    expected = rows.detach().clone()
    optimizer = LazyAdam([rows], lr=0.5)
    optimizer.load_state_dict(saved)
    rows.data = values
    step([0, 2])
    assert torch.equal(rows, expected)


def test_lazy_adam_refuses_weight_decay_of_rows():
    rows = torch.nn.Parameter(torch.ones(3, DIM))
    optimizer = LazyAdam([rows], weight_decay=0.1)
    torch.nn.functional.embedding(torch.tensor([0]), rows, sparse=True).sum().backward()
    with pytest.raises(ValueError, match=r"weight_decay=0\.1: expected 0"):
        optimizer.step()

"""The fused loss against the readable path: `ProxyLoss.compare`, then `score`."""

from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from proxylib import (
    DynamicProxyLoss,
    ProxyLoss,
    ProxyNCA,
    assign_random,
    assign_static,
    mean_triplet_loss,
    nca_loss,
)
from proxylib.fused import Settings, _tiles, fused_loss, nearest_proxy
from proxylib.proxies import negative_mask
from proxylib.samplers import draw_triplets

LABELS = torch.arange(12).repeat_interleave(5)
DIM = 6


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(dtype, size=9):
    g = rng(1)
    anchors = torch.randint(60, (size,), generator=g)
    positives = anchors // 5 * 5 + (anchors + 1 + torch.randint(4, (size,), generator=g)) % 5
    return torch.randn(size, DIM, generator=g, dtype=torch.float64).to(dtype), anchors, positives


def make(assignment, **options):
    vector = ASSIGNMENTS[assignment]()
    kind = DynamicProxyLoss if assignment == "dynamic" else ProxyLoss
    known = {"triplets": draw_triplets(LABELS, 9, 4, rng())}
    known = known if assignment == "triplets" else {"labels": LABELS}
    return kind(vector, DIM, rng(), **known, **options).double()


def mixed():
    """Label 0 has three proxies; 1, 2 and a part of 3 share one; so do all labels from 6 on."""
    vector = LABELS.clone()
    vector[:3], vector[3] = 12, 13
    vector[10:17] = 1
    vector[30:] = 6
    return vector.unique(return_inverse=True)[1]


ASSIGNMENTS = {
    "by label": LABELS.clone,
    "fractional": lambda: assign_static(LABELS, 5, rng()),
    "several": lambda: assign_static(LABELS, 30, rng()),
    "random": lambda: assign_random(60, 13, rng()),
    "mixed": mixed,
    "one negative": lambda: (LABELS == 0).long(),
    "none": lambda: torch.zeros(60, dtype=torch.int64),
    "dynamic": lambda: assign_random(60, 20, rng()),
    "triplets": lambda: assign_random(60, 13, rng()),
}
OPTIONS = {
    "nca": {"loss": nca_loss},
    "include positive": {"loss": partial(nca_loss, include_positive=True)},
    "drop positive": {"loss": nca_loss, "drop_positive": True},
    "free": {"loss": nca_loss, "embedding_norm": None, "proxy_norm": None},
    "free proxies": {"loss": nca_loss, "embedding_norm": 2.0, "proxy_norm": None},
    "free points": {"loss": nca_loss, "embedding_norm": None, "drop_positive": True},
    "huge": {"loss": nca_loss, "embedding_norm": 20.0, "proxy_norm": 50.0},
    "hinge": {"loss": partial(mean_triplet_loss, margin=3.0)},
    "free hinge": {
        "loss": partial(mean_triplet_loss, margin=5.0),
        "embedding_norm": None,
        "proxy_norm": None,
        "drop_positive": True,
    },
}


def readable(objective, embeddings, anchors, positives, negatives):
    """Loss, gradients and the number of anchors without a negative, as `compare` and `score` do."""
    x = embeddings.clone().requires_grad_()
    distances, positive, mask = objective.compare(x, anchors, positives, negatives)
    loss = objective.score(distances, positive, mask)
    grads = torch.autograd.grad(loss, (x, objective.proxies), allow_unused=True)
    return loss.detach(), *grads, (~mask.any(1)).sum()


def fused(objective, embeddings, anchors, positives, negatives, tile):
    x = embeddings.clone().requires_grad_()
    settings = objective._fused_settings()._replace(tile=tile)
    objective._follow(anchors, lambda: nearest_proxy(x, objective.proxies, settings))
    settings = settings._replace(negatives=objective._negatives(anchors, negatives))
    positive = objective.assignment[positives]
    loss, without = fused_loss(x, objective.proxies, positive, settings)
    return loss.detach(), *torch.autograd.grad(loss, (x, objective.proxies)), without


@pytest.mark.parametrize("tile", [None, 4, 1])
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_equals_compare_and_score(assignment, options, tile):
    """In float64 to 1e-9 of each tensor's largest entry.

    In float32 to 1e-5, beyond what rounding does to `compare` and `score` themselves: where
    N_x N_p = 1000, a distance is only known to some 1e-4, and so is a softmax weight.
    """
    embeddings, anchors, positives = batch(torch.float64)
    negatives = None
    objective = make(assignment, **OPTIONS[options])
    if assignment == "triplets":
        negatives = torch.randint(60, (9, 4), generator=rng(2))
    with torch.no_grad():
        objective.proxies[-1] = objective.proxies[0]  # a tie
        objective.proxies[len(objective.proxies) // 2] = embeddings[0]  # a point on a proxy
        if len(objective.proxies) > 4:
            objective.proxies[3] = 0  # has no direction
        embeddings[2] = 0
    points = (anchors, positives, negatives)
    expected = readable(objective, embeddings, *points)
    double = fused(objective, embeddings, *points, tile)
    objective.float()
    rounded = readable(objective, embeddings.float(), *points)
    single = fused(objective, embeddings.float(), *points, tile)
    for got, tolerance in ((double, 1e-9), (single, 1e-5)):
        assert got[3] == expected[3]
        for ours, theirs, other in zip(got[:3], expected[:3], rounded[:3], strict=True):
            if theirs is None:  # no anchor has a negative
                theirs = other = torch.zeros(())
            allowed = tolerance * max(1, theirs.abs().max().item())
            if got is single:
                allowed += 2 * (other - theirs).abs().max().item()
            assert (ours - theirs).abs().max().item() <= allowed


@pytest.mark.parametrize("options", OPTIONS)
def test_forward_takes_the_fused_path_and_an_override_does_not(options):
    class Own(ProxyLoss):
        def score(self, distances, positive, mask):
            return super().score(distances, positive, mask)

    embeddings, anchors, positives = batch(torch.float64)
    losses = []
    for kind in (ProxyLoss, Own):
        objective = kind(mixed(), DIM, rng(), labels=LABELS, **OPTIONS[options]).double()
        losses.append(objective(embeddings, anchors, positives))
        is_fused = "FusedLoss" in type(losses[-1].grad_fn).__name__
        assert is_fused == (kind is ProxyLoss)
    torch.testing.assert_close(*losses, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "other",
    [
        {"loss": nca_loss, "squared": False},
        {"loss": lambda d_pos, d_neg, mask: d_pos},
        {"loss": nca_loss, "n_negatives": 2},
    ],
    ids=["unsquared", "another loss", "sampled"],
)
def test_what_is_not_fused(other):
    objective = ProxyLoss(LABELS, DIM, rng(), labels=LABELS, **other)
    assert objective._fused_settings() is None


@pytest.mark.parametrize("tile", [None, 3])
@pytest.mark.parametrize("options", OPTIONS)
def test_gradients(options, tile):
    if "huge" in options:
        pytest.skip("saturated: finite differences see nothing")
    objective = make("mixed", **OPTIONS[options])
    embeddings, anchors, positives = batch(torch.float64)
    whose = objective._negatives(anchors, None)
    settings = objective._fused_settings()._replace(negatives=whose, tile=tile)
    proxies = objective.proxies.detach().clone().requires_grad_()

    def loss(x, p):
        return fused_loss(x, p, objective.assignment[positives], settings)[0]

    assert torch.autograd.gradcheck(loss, (embeddings.requires_grad_(), proxies))


def test_only_the_gradients_asked_for():
    """A frozen side gets none; the other's is the same; twice from one graph is the same."""
    loss_fn = ProxyNCA(7, DIM, rng()).double()
    x, labels = torch.randn(5, DIM, generator=rng(), dtype=torch.float64), torch.arange(5)
    loss = loss_fn(x.requires_grad_(), labels)
    both = torch.autograd.grad(loss, (x, loss_fn.proxies), retain_graph=True)
    again = torch.autograd.grad(loss, (x, loss_fn.proxies))
    assert all(map(torch.equal, both, again))
    loss_fn(x.detach(), labels).backward()
    assert torch.equal(loss_fn.proxies.grad, both[1])
    loss_fn.requires_grad_(False)
    assert torch.equal(torch.autograd.grad(loss_fn(x, labels), x)[0], both[0])


def test_a_second_derivative_is_refused():
    loss_fn = ProxyNCA(7, DIM, rng())
    x = torch.randn(5, DIM, generator=rng()).requires_grad_()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(loss_fn(x, torch.arange(5)), x, create_graph=True)


@pytest.mark.parametrize("bad", ["embeddings", "proxies"])
@pytest.mark.parametrize("norm", [3.0, None])
@pytest.mark.parametrize("loss", [nca_loss, mean_triplet_loss])
def test_what_is_not_finite_shows_in_the_loss(loss, norm, bad):
    options = {"loss": loss, "embedding_norm": norm, "proxy_norm": norm}
    objective = ProxyLoss(LABELS, DIM, rng(), labels=LABELS, **options)
    embeddings, anchors, positives = batch(torch.float32)
    (embeddings if bad == "embeddings" else objective.proxies.data)[0] = torch.nan
    assert objective(embeddings, anchors, positives).isnan()
    assert objective.metrics()["anchors_without_negative"] == 0


def test_half_precision_and_autocast_compute_in_float32():
    loss_fn = ProxyNCA(7, DIM, rng())
    x, labels = torch.randn(5, DIM, generator=rng()), torch.arange(5)
    half = x.bfloat16().requires_grad_()
    loss = loss_fn(half, labels)
    loss.backward()
    assert loss.dtype == torch.float32 and half.grad.dtype == torch.bfloat16
    assert torch.equal(loss, loss_fn(half.float(), labels))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(loss_fn(x, labels), loss_fn(x.clone(), labels))
        inside = loss_fn(x, labels)
    assert torch.equal(inside, loss_fn(x, labels))


@pytest.mark.parametrize("n_proxies", [1, 10, 11, 100])
@pytest.mark.parametrize("tile", [1, 7, 10, 11])
def test_tiles_cover_every_proxy_and_find_each_positive(n_proxies, tile):
    positive = torch.randint(n_proxies, (9,), generator=rng())
    tiles = _tiles(positive, torch.empty(n_proxies, 1), tile)
    assert [t.part.start for t in tiles] == [0, *(t.part.stop for t in tiles[:-1])]
    assert tiles[-1].part.stop == n_proxies
    assert max(t.part.stop - t.part.start for t in tiles) <= tile
    anchors = torch.cat([t.anchors for t in tiles])
    assert torch.equal(anchors.sort().values, torch.arange(9))
    assert torch.equal(torch.cat([t.rows + t.part.start for t in tiles]), positive[anchors])


@pytest.mark.parametrize("tile", [None, 4])
def test_of_equally_near_proxies_the_first(tile):
    x, proxies = torch.randn(8, DIM, generator=rng()), torch.randn(5, DIM, generator=rng(1))
    settings = Settings(embedding_norm=3.0, proxy_norm=3.0, tile=tile)
    once = nearest_proxy(x, proxies, settings)
    assert torch.equal(nearest_proxy(x, proxies.repeat(4, 1), settings), once)
    unit = torch.nn.functional.normalize
    assert torch.equal(once, torch.cdist(unit(x), unit(proxies)).argmin(1))


class Largest(TorchDispatchMode):
    """The largest tensor made, but for what has the proxies' shape: their gradient."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.numel = shape, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor) and tensor._base is None:
                same = tensor.untyped_storage().nbytes() == 4 * self.shape.numel()
                self.numel = max(self.numel, 0 if same else tensor.numel())
        return out


@pytest.mark.parametrize("options", ["nca", "free", "include positive", "hinge"])
def test_memory_does_not_grow_with_the_proxies(options):
    """Each tensor made is of one tile, apart from the gradient; also when all are of one label."""
    exclusive, labels = torch.arange(20_000) % 3, torch.arange(8) % 3
    x, p = torch.randn(8, 16), torch.randn(20_000, 16)
    keywords = {k: v for k, v in OPTIONS[options].items() if k.endswith("norm")}
    keywords = {"embedding_norm": 3.0, "proxy_norm": 3.0} | keywords
    loss = OPTIONS[options]["loss"]
    keywords |= getattr(loss, "keywords", {})
    settings = Settings(lambda part: negative_mask(exclusive[part], labels), tile=500, **keywords)
    with Largest(p.shape) as largest:
        loss, _ = fused_loss(x.requires_grad_(), p.requires_grad_(), labels, settings)
        loss.backward()
    assert p.grad.abs().sum() > 0
    assert largest.numel <= 500 * 16  # (T, D); (B, T) is half of it

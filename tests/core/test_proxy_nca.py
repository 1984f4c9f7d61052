"""Proxy-NCA called with labels: the same as `ProxyLoss` with one proxy per label, and Eq. 4."""

import io
import math
from functools import partial

import pytest
import torch

from proxylib import ProxyLoss, ProxyNCA, assign_by_label, nca_loss

N_CLASSES, DIM = 6, 4
POINTS = torch.arange(N_CLASSES).repeat_interleave(5)  # labels of a training set


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(size=8, seed=1):
    """Embeddings (size, DIM) float64 and labels; some labels twice, one at least not at all."""
    g = rng(seed)
    labels = torch.randint(N_CLASSES - 1, (size,), generator=g)
    return torch.randn(size, DIM, generator=g, dtype=torch.float64), labels


OPTIONS = {
    "default": {},
    "free": {"embedding_norm": None, "proxy_norm": None},
    "norms": {"embedding_norm": 1.0, "proxy_norm": 4.0},
    "unsquared": {"squared": False},
    "include_positive": {"include_positive": True},
    "n_negatives": {"n_negatives": 2},
    "all of it": {
        "embedding_norm": None,
        "proxy_norm": 2.0,
        "include_positive": True,
        "n_negatives": 3,
    },
}
each = pytest.mark.parametrize("options", OPTIONS)


@each
def test_equals_proxy_loss_with_assignment_by_label(options):
    """Value and gradients to the bit, several times: sampled negatives come from one generator."""
    options = dict(OPTIONS[options])
    ours = ProxyNCA(N_CLASSES, DIM, rng(), **options).double()
    loss = partial(nca_loss, include_positive=options.pop("include_positive", False))
    theirs = ProxyLoss(assign_by_label(POINTS), DIM, rng(), POINTS, loss=loss, **options).double()
    assert torch.equal(ours.proxies, theirs.proxies)
    for seed in range(3):
        embeddings, labels = batch(seed=seed)
        anchors = labels * 5 + torch.randint(5, (8,), generator=rng(seed))
        positives = labels * 5 + (anchors + 1) % 5
        x, y = (embeddings.clone().requires_grad_() for _ in range(2))
        got, expected = ours(x, labels), theirs(y, anchors, positives)
        assert got.shape == () and torch.equal(got, expected)
        got.backward()
        expected.backward()
        assert x.grad.abs().min() > 0 and torch.equal(x.grad, y.grad)
        assert torch.equal(ours.proxies.grad, theirs.proxies.grad)


def slow(embeddings, labels, proxies, norm_x=3.0, norm_p=3.0, include_positive=False, power=2):
    """Eq. 4 with proxies, the mean over the batch, in Python floats."""

    def scaled(v, norm):
        return v if norm is None else [norm * a / math.hypot(*v) for a in v]

    x = [scaled(v, norm_x) for v in embeddings.tolist()]
    p = [scaled(v, norm_p) for v in proxies.tolist()]
    total = 0.0
    for i, label in enumerate(labels.tolist()):
        d = [math.dist(x[i], p_j) ** power for p_j in p]
        others = [d[j] for j in range(len(p)) if j != label or include_positive]
        total += d[label] + math.log(sum(math.exp(-d_j) for d_j in others))
    return total / len(labels)


@pytest.mark.parametrize(
    ("options", "slowly"),
    [
        ({}, {}),
        ({"embedding_norm": None, "proxy_norm": None}, {"norm_x": None, "norm_p": None}),
        ({"embedding_norm": 1, "proxy_norm": 2}, {"norm_x": 1, "norm_p": 2}),
        ({"squared": False}, {"power": 1}),
        ({"include_positive": True}, {"include_positive": True}),
        ({"n_negatives": N_CLASSES - 1}, {}),  # all there are
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [1, 8])
def test_equals_eq_4_as_a_loop(options, slowly, size):
    loss_fn = ProxyNCA(N_CLASSES, DIM, rng(), **options).double()
    embeddings, labels = batch(size)
    expected = slow(embeddings, labels, loss_fn.proxies, **slowly)
    assert loss_fn(embeddings, labels).item() == pytest.approx(expected, rel=1e-9)


def test_by_hand():
    """Unit vectors, two classes: d(x, p_y) = 0, d(x, p_z) = 4."""
    x, labels = torch.tensor([[3.0, 0.0]]), torch.tensor([0])
    for include_positive, expected in ((False, -4), (True, math.log(1 + math.exp(-4)))):
        loss_fn = ProxyNCA(2, 2, embedding_norm=1, proxy_norm=1, include_positive=include_positive)
        loss_fn.proxies.data = torch.tensor([[2.0, 0.0], [-5.0, 0.0]])
        assert loss_fn(x, labels).item() == pytest.approx(expected, rel=1e-4)


@each
def test_gradients(options):
    if "n_negatives" in OPTIONS[options]:  # each call would draw others: draw all instead
        options = {**OPTIONS[options], "n_negatives": N_CLASSES - 1}
    else:
        options = OPTIONS[options]
    loss_fn = ProxyNCA(N_CLASSES, DIM, rng(), **options).double()
    embeddings, labels = batch()
    proxies = loss_fn.proxies.detach().clone().requires_grad_()

    def loss(x, p):
        return torch.func.functional_call(loss_fn, {"proxies": p}, (x, labels))

    assert torch.autograd.gradcheck(loss, (embeddings.requires_grad_(), proxies))


def test_a_batch_is_the_mean_of_its_samples():
    loss_fn = ProxyNCA(N_CLASSES, DIM, rng()).double()
    embeddings, labels = batch()
    single = [loss_fn(embeddings[i : i + 1], labels[i : i + 1]).item() for i in range(8)]
    assert len(set(single)) == 8
    assert loss_fn(embeddings, labels).item() == pytest.approx(sum(single) / 8, rel=1e-12)


def test_one_step_moves_every_proxy():
    """Even from one sample: its own is pulled, all others are pushed; only they are learned."""
    loss_fn = ProxyNCA(N_CLASSES, DIM, rng(), embedding_norm=1, proxy_norm=1)
    assert [name for name, _ in loss_fn.named_parameters()] == ["proxies"]
    optimizer = torch.optim.SGD(loss_fn.parameters(), lr=0.1)
    x, label = torch.randn(1, DIM, generator=rng(2)), torch.tensor([3])
    before, distances = loss_fn.proxies.detach().clone(), loss_fn.distances(x).detach()[0]
    loss_fn(x, label).backward()
    optimizer.step()
    assert (loss_fn.proxies != before).any(1).all()
    nearer = (loss_fn.distances(x)[0] < distances).tolist()
    assert nearer == [j == 3 for j in range(N_CLASSES)]


def test_precision_follows_the_embeddings_but_never_falls_below_float32():
    loss_fn = ProxyNCA(N_CLASSES, DIM, rng())
    embeddings, labels = batch()
    single = loss_fn(embeddings.float(), labels)
    assert single.dtype == torch.float32
    half = loss_fn(embeddings.bfloat16(), labels)
    assert half.dtype == torch.float32 and half.item() == pytest.approx(single.item(), abs=0.1)
    double = loss_fn.double()(embeddings, labels)
    assert double.dtype == torch.float64 and loss_fn.proxies.dtype == torch.float64
    assert loss_fn.assignment.dtype == torch.int64
    assert double.item() == pytest.approx(single.item(), rel=1e-5)


def test_state_comes_back():
    loss_fn = ProxyNCA(N_CLASSES, DIM, rng())
    torch.nn.init.normal_(loss_fn.proxies, generator=rng(5))
    file = io.BytesIO()
    torch.save(loss_fn.state_dict(), file)
    file.seek(0)
    again = ProxyNCA(N_CLASSES, DIM, rng(1))
    embeddings, labels = batch()
    assert again(embeddings, labels) != loss_fn(embeddings, labels)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert again(embeddings, labels) == loss_fn(embeddings, labels)
    with pytest.raises(RuntimeError, match="size mismatch for proxies"):
        ProxyNCA(N_CLASSES + 1, DIM).load_state_dict(loss_fn.state_dict())


def test_the_random_start_is_seeded_by_the_generator_or_by_torch():
    assert torch.equal(ProxyNCA(5, DIM, rng(3)).proxies, ProxyNCA(5, DIM, rng(3)).proxies)
    assert not torch.equal(ProxyNCA(5, DIM, rng(3)).proxies, ProxyNCA(5, DIM, rng(4)).proxies)
    state = torch.get_rng_state()
    ProxyNCA(5, DIM, rng())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(3)
    assert torch.equal(ProxyNCA(5, DIM).proxies, ProxyNCA(5, DIM, rng(3)).proxies)


def call(embeddings=(8, DIM), labels=None):
    labels = torch.zeros(8, dtype=torch.int64) if labels is None else labels
    return ProxyNCA(N_CLASSES, DIM, rng())(torch.ones(embeddings), labels)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda: ProxyNCA(1, DIM), "n_classes=1: expected 2 or more"),
        (lambda: ProxyNCA(0, DIM), "n_classes=0: expected 2 or more"),
        (lambda: ProxyNCA(5, DIM, n_negatives=5), "n_negatives=5: expected 1 … 4"),
        (
            lambda: call((8, DIM + 1)),
            r"expected embeddings \(B, 4\) and labels \(B,\) int64, got \(8, 5\) and \(8,\)",
        ),
        (lambda: call((8,)), r"got \(8,\) and \(8,\)"),
        (lambda: call((8, 1, DIM)), r"got \(8, 1, 4\) and \(8,\)"),
        (lambda: call((7, DIM)), r"got \(7, 4\) and \(8,\)"),
        (lambda: ProxyNCA(3, DIM)(torch.ones(1, DIM).long(), torch.tensor([0])), "are torch.int64"),
        (
            lambda: call(labels=torch.zeros(8)),
            r"labels \(B,\) int64, got \(8, 4\) and \(8,\) torch.float32",
        ),
        (
            lambda: call(labels=torch.zeros(8, dtype=torch.int32)),
            r"labels \(B,\) int64, got \(8, 4\) and \(8,\) torch.int32",
        ),
        (
            lambda: call(labels=torch.zeros(8, 1, dtype=torch.int64)),
            r"expected embeddings \(B, 4\) and labels \(B,\) int64, got \(8, 4\) and \(8, 1\)",
        ),
        (lambda: call(labels=torch.full((8,), 6)), r"labels: expected 0 … 5, got \[6\]"),
        (lambda: call(labels=torch.full((8,), -1)), r"labels: expected 0 … 5, got \[-1\]"),
        (
            lambda: call(labels=torch.tensor([0, 6, 1, -1, 5, 7, 6, 0])),
            r"labels: expected 0 … 5, got \[-1, 6, 7\]",
        ),
    ],
)
def test_bad_input(wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong()


def test_the_loss_and_the_labels_are_not_options():
    with pytest.raises(TypeError):
        ProxyNCA(5, DIM, loss=nca_loss)
    with pytest.raises(TypeError):
        ProxyNCA(5, DIM, rng(), True)  # a setting without its name


def test_labels_without_a_dimension_are_refused():
    with pytest.raises(ValueError, match=r"expected embeddings \(B, 4\) and labels \(B,\)"):
        ProxyNCA(3, 4)(torch.randn(1, 4), torch.tensor(0))

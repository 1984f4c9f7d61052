"""Proxy objectives against explicit loops over (x, p(y), p(Z))."""

import itertools
import math
from functools import partial

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from proxylib import (
    ConvNet,
    DynamicProxyLoss,
    InstanceLoss,
    ProxyLoss,
    assign_by_label,
    assign_nearest,
    assign_random,
    assign_static,
    mean_contrastive_loss,
    mean_triplet_loss,
    nca_loss,
    rescale,
    train,
)
from proxylib.samplers import draw_triplets

LABELS = torch.arange(6).repeat_interleave(5)
DIM = 4


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(dtype=torch.float64, size=8, seed=1):
    g = rng(seed)
    anchors = torch.randint(30, (size,), generator=g)
    positives = anchors // 5 * 5 + (anchors + 1 + torch.randint(4, (size,), generator=g)) % 5
    return torch.randn(size, DIM, generator=g).to(dtype), anchors, positives


def slow_nca(d_pos, d_neg, include_positive=False):
    return d_pos + math.log(sum(math.exp(-d) for d in d_neg) + include_positive * math.exp(-d_pos))


def slow_triplet(d_pos, d_neg, margin):
    hinges = [d_pos + margin - d for d in d_neg if d_pos + margin - d > 0]
    return sum(hinges) / max(len(hinges), 1)


def slow_contrastive(d_pos, d_neg, margin):
    hinges = [(margin - d) ** 2 for d in d_neg if margin - d > 0]
    return d_pos**2 + sum(hinges) / max(len(hinges), 1)


SLOW = {
    nca_loss: slow_nca,
    mean_triplet_loss: slow_triplet,
    mean_contrastive_loss: slow_contrastive,
}


def slow_loss(objective, embeddings, anchors, positives, negatives_of):
    """Mean over the anchors with a negative of the loss over Python floats."""
    o, total, counted = objective, 0.0, 0
    fast = partial(o.loss)  # flat, if it was one already
    loss = partial(SLOW[fast.func], **fast.keywords)
    for i, anchor in enumerate(anchors.tolist()):

        def distance(j, x=embeddings[i]):
            p = o.proxies[j]
            x = x if o.embedding_norm is None else o.embedding_norm * x / x.norm()
            p = p if o.proxy_norm is None else o.proxy_norm * p / p.norm()
            d = math.sqrt(sum((a - b) ** 2 for a, b in zip(x.tolist(), p.tolist(), strict=True)))
            return d**2 if o.squared else d

        positive = o.assignment[positives[i]].item()
        proxies = {o.assignment[z].item() for z in negatives_of(i, anchor)}
        if o.drop_positive or fast.keywords.get("include_positive"):  # the loss adds it itself
            proxies.discard(positive)
        if not proxies:
            continue
        counted += 1
        total += loss(distance(positive), [distance(j) for j in proxies])
    return total / max(counted, 1)


def of_other_labels(_, anchor):
    return (LABELS[anchor] != LABELS).nonzero().flatten().tolist()


ASSIGNMENTS = {
    "by_label": lambda: assign_by_label(LABELS),
    "fractional": lambda: assign_static(LABELS, 3, rng()),
    "several": lambda: assign_static(LABELS, 15, rng()),
    "random": lambda: assign_random(30, 7, rng()),
    "one": lambda: torch.zeros(30, dtype=torch.int64),
}
OPTIONS = {
    "nca": {"loss": nca_loss},
    "include_positive": {"loss": partial(nca_loss, include_positive=True)},
    "drop_positive": {"loss": nca_loss, "drop_positive": True},
    "free": {"loss": nca_loss, "embedding_norm": None, "proxy_norm": None},
    "unsquared": {
        "loss": nca_loss,
        "embedding_norm": 2.0,
        "proxy_norm": 0.5,
        "squared": False,
    },
    "triplet": {"loss": partial(mean_triplet_loss, margin=3.0)},
    "contrastive": {"loss": partial(mean_contrastive_loss, margin=4.0), "squared": False},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_equals_loop(assignment, options):
    vector = ASSIGNMENTS[assignment]()
    objective = ProxyLoss(vector, DIM, rng(), labels=LABELS, **OPTIONS[options]).double()
    embeddings, anchors, positives = batch()
    expected = slow_loss(objective, embeddings, anchors, positives, of_other_labels)
    got = objective(embeddings, anchors, positives).item()
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("options", OPTIONS)
def test_triplets_equal_loop(options):
    triplets = draw_triplets(LABELS, 40, 3, rng())
    objective = ProxyLoss(
        assign_random(30, 7, rng()), DIM, rng(), triplets=triplets, **OPTIONS[options]
    )
    objective.double()
    anchors, positives, negatives = next(objective.batches(8, rng()))
    embeddings = batch()[0]
    expected = slow_loss(
        objective, embeddings, anchors, positives, lambda i, _: negatives[i].tolist()
    )
    got = objective(embeddings, anchors, positives, negatives).item()
    assert got == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("options", OPTIONS)
def test_gradients_reach_points_and_proxies(options):
    vector = assign_static(LABELS, 4, rng())
    objective = ProxyLoss(vector, DIM, rng(), labels=LABELS, **OPTIONS[options]).double()
    embeddings, anchors, positives = batch()
    proxies = objective.proxies.detach().clone().requires_grad_()

    def loss(x, p):
        return torch.func.functional_call(objective, {"proxies": p}, (x, anchors, positives))

    assert torch.autograd.gradcheck(loss, (embeddings.requires_grad_(), proxies))


def test_by_hand():
    """Two labels, unit vectors: d(x, p_y) = 0, d(x, p_z) = 4 → loss −4."""
    labels = torch.tensor([0, 0, 1, 1])
    objective = ProxyLoss(
        labels, 2, rng(), labels=labels, loss=nca_loss, embedding_norm=1, proxy_norm=1
    )
    objective.proxies.data = torch.tensor([[2.0, 0.0], [-5.0, 0.0]])
    x, anchors, positives = torch.tensor([[3.0, 0.0]]), torch.tensor([0]), torch.tensor([1])
    assert objective(x, anchors, positives).item() == pytest.approx(-4)
    objective.loss = partial(nca_loss, include_positive=True)
    got = objective(x, anchors, positives).item()
    assert got == pytest.approx(math.log(1 + math.exp(-4)), rel=1e-4)
    objective.loss = partial(mean_triplet_loss, margin=5.0)
    assert objective(x, anchors, positives).item() == pytest.approx(1)


@pytest.mark.parametrize("size", [1, 5])
def test_batch_of_one_class(size):
    objective = proxy_loss()
    anchors = torch.arange(size)
    loss = objective(torch.randn(size, DIM, generator=rng()), anchors, (anchors + 1) % 5)
    loss.backward()
    assert loss.isfinite()
    assert objective.proxies.grad.isfinite().all()


def test_anchors_without_negatives_are_counted():
    objective = proxy_loss(torch.zeros(30, dtype=torch.int64), drop_positive=True)
    embeddings, anchors, positives = batch(torch.float32)
    loss = objective(embeddings.requires_grad_(), anchors, positives)
    loss.backward()
    assert loss.item() == 0
    assert embeddings.grad.eq(0).all()
    assert objective.metrics() == {"proxies_in_use": 1, "anchors_without_negative": 8}
    assert objective.metrics()["anchors_without_negative"] == 0


@pytest.mark.parametrize("include_positive", [False, True])
def test_sampled_negatives_estimate_the_sum(include_positive):
    """exp(loss − d_pos), the sum of Eq. 4, is unbiased; all negatives sampled = no sampling."""
    embeddings, anchors, positives = (part[:1] for part in batch())
    loss = partial(nca_loss, include_positive=include_positive)
    objective = proxy_loss(loss=loss, embedding_norm=1, proxy_norm=1).double()
    full = objective(embeddings, anchors, positives).item()
    objective.n_negatives = 5
    assert objective(embeddings, anchors, positives).item() == pytest.approx(full, rel=1e-12)
    objective.n_negatives = 2
    losses = [objective(embeddings, anchors, positives).item() for _ in range(1000)]
    assert sum(map(math.exp, losses)) / 1000 == pytest.approx(math.exp(full), rel=0.03)
    assert sum(losses) / 1000 < full  # Jensen


def test_sampled_negatives_of_an_anchor_that_has_none():
    vector = torch.zeros(30, dtype=torch.int64)
    vector[0] = 1  # the only negative of labels 1 … 5; label 0 has none
    objective = proxy_loss(vector, drop_positive=True)
    objective.n_negatives = 2
    embeddings, anchors = POINTS[[1, 6]].clone().requires_grad_(), torch.tensor([1, 6])
    loss = objective(embeddings, anchors, anchors + 1)
    loss.backward()
    unit = torch.nn.functional.normalize
    d = (unit(POINTS[6], dim=0) - unit(objective.proxies, dim=1)).square().sum(1) * 9
    assert loss.item() == pytest.approx((d[0] - d[1]).item(), rel=1e-4)
    assert embeddings.grad[0].eq(0).all()
    assert embeddings.grad[1].isfinite().all()


@pytest.mark.parametrize("options", ["nca", "drop_positive", "include_positive"])
@pytest.mark.parametrize("assignment", [*ASSIGNMENTS, "mixed"])
def test_as_many_negatives_may_be_sampled_as_every_anchor_has(assignment, options):
    """The least over all anchors and positives, found by trying them."""
    if assignment == "mixed":  # label 0 has two proxies of its own; 1 and 2 share; 3 has both
        vector = LABELS.clone()
        vector[:2], vector[10:17] = 6, 1
    else:
        vector = ASSIGNMENTS[assignment]()
    drops, most = options != "nca", 30
    for x, y in itertools.product(range(30), repeat=2):
        if x != y and LABELS[x] == LABELS[y]:
            of_others = set(vector[LABELS[x] != LABELS].tolist())
            most = min(most, len(of_others - ({vector[y].item()} if drops else set())))
    if assignment == "mixed":
        vector = vector.unique(return_inverse=True)[1]  # proxy 2 is gone
    for n in {1, most} - {0}:
        if n <= most:
            proxy_loss(vector, n_negatives=n, **OPTIONS[options])
    with pytest.raises(ValueError, match=f"n_negatives={most + 1}: expected 1 … {most}, the"):
        proxy_loss(vector, n_negatives=most + 1, **OPTIONS[options])


def test_the_positive_is_never_in_the_sum_twice():
    """All on one proxy: the softmax of one class only, so there is nothing to learn."""
    everything_on_one = torch.zeros(30, dtype=torch.int64)
    objective = proxy_loss(everything_on_one, **OPTIONS["include_positive"])
    assert objective(*batch(torch.float32)).item() == 0
    assert objective.metrics()["anchors_without_negative"] == 8


def test_sampled_negatives_are_seeded():
    def losses():
        objective = ProxyLoss(LABELS, DIM, rng(3), labels=LABELS, loss=nca_loss, n_negatives=2)
        return [objective(*batch(torch.float32)).item() for _ in range(3)]

    assert losses() == losses()
    assert len(set(losses())) > 1


def test_only_a_loss_that_sums_is_corrected_for_the_negatives_not_drawn():
    embeddings, anchors, positives = batch()
    for sums in (False, True):
        seen = []

        def loss(d_pos, d_neg, mask, seen=seen):
            seen.append((d_pos, d_neg, mask))
            return d_pos

        loss.sums_over_negatives = sums
        objective = proxy_loss(loss=partial(loss), n_negatives=2).double()
        got = objective(embeddings, anchors, positives)
        distances, positive, all_negatives = objective.compare(embeddings, anchors, positives)
        (d_pos, d_neg, mask), *more = seen
        assert not more and mask.sum(1).eq(2).all()
        d_neg = d_neg[mask].view(-1, 2)
        torch.testing.assert_close(d_pos, distances[range(8), positive])
        assert got == d_pos.mean()
        whole = d_neg + math.log(5 / 2) * sums  # each of 2 drawn stands for 2.5 of 5
        close = (
            whole[:, :, None] - distances[:, None]
        ).abs() < 1e-6  # (8, 2, 6); the logarithm is float32
        assert close.sum(2).eq(1).all()
        assert all_negatives[close.any(1)].all()  # drawn among the negatives only
        assert close.any(1).sum() == 16  # and none twice


def test_forward_is_compare_then_score():
    objective = proxy_loss(assign_static(LABELS, 3, rng()))
    embeddings, anchors, positives = batch(torch.float32)
    distances, positive, mask = objective.compare(embeddings, anchors, positives)
    assert distances.shape == mask.shape == (8, 3)
    assert torch.equal(distances, objective.distances(embeddings))
    assert torch.equal(positive, objective.assignment[positives])
    for i, anchor in enumerate(anchors.tolist()):
        expected = {objective.assignment[z].item() for z in of_other_labels(i, anchor)}
        assert set(mask[i].nonzero().flatten().tolist()) == expected
    expected = objective.score(distances, positive, mask)  # the fused path rounds otherwise
    torch.testing.assert_close(objective(embeddings, anchors, positives), expected)


def test_equals_pytorch_metric_learning_where_both_are_defined():
    """Its ProxyNCALoss is the softmax variant on squared distances of rescaled points."""
    losses = pytest.importorskip("pytorch_metric_learning.losses")
    embeddings, anchors, positives = batch()
    loss = partial(nca_loss, include_positive=True)
    objective = proxy_loss(loss=loss, embedding_norm=3, proxy_norm=3).double()
    peer = losses.ProxyNCALoss(6, DIM, softmax_scale=9).double()
    peer.proxies.data = objective.proxies.data.clone()
    # softmax_scale multiplies ‖x̂ − p̂‖² there; N_x = N_p = 3 makes it 9 ‖x̂ − p̂‖² here.
    expected = peer(embeddings, LABELS[anchors])
    torch.testing.assert_close(objective(embeddings, anchors, positives), expected)


# --- dynamic assignment ---


def dynamic_loss(vector=None, **options):
    options = {"labels": LABELS, "n_proxies": 8, "loss": nca_loss, **options}
    vector = assign_random(30, 8, rng()) if vector is None else vector
    return DynamicProxyLoss(vector, DIM, rng(), **options)


POINTS = torch.randn(30, DIM, generator=rng(5))


def nearest(objective):
    unit = torch.nn.functional.normalize
    return assign_nearest(unit(POINTS), unit(objective.proxies.detach()))


@pytest.mark.parametrize("reassign_every", [0, 1, 100])
def test_initial_assignment_is_nearest(reassign_every):
    objective = dynamic_loss(reassign_every=reassign_every)
    assert not torch.equal(objective.assignment, nearest(objective))
    objective.before_step(1, lambda: POINTS)
    assert torch.equal(objective.assignment, nearest(objective))


def test_without_an_interval_only_the_first_step_embeds_all():
    objective = dynamic_loss(reassign_every=0)
    for step in range(2, 300):
        objective.before_step(step, lambda: pytest.fail("no need to embed"))
    assert torch.equal(objective.assignment, assign_random(30, 8, rng()))


def test_a_dynamic_assignment_may_leave_proxies_unused():
    everything_on_one = torch.zeros(30, dtype=torch.int64)
    options = {"labels": LABELS, "n_proxies": 8, "loss": nca_loss}
    objective = DynamicProxyLoss(everything_on_one, DIM, rng(), **options)
    assert objective.metrics()["proxies_in_use"] == 1
    DynamicProxyLoss(everything_on_one, DIM, rng(), n_negatives=8, **options)  # there may be 8
    with pytest.raises(ValueError, match="7 of 8 proxies are never assigned"):
        ProxyLoss(everything_on_one, DIM, rng(), **options)


def test_reassignment_at_an_interval():
    objective = dynamic_loss(reassign_every=10)
    objective.before_step(1, lambda: POINTS)
    objective.proxies.data = torch.randn(8, DIM, generator=rng(7))
    for step in range(2, 11):
        objective.before_step(step, lambda: pytest.fail("too early"))
    assert not torch.equal(objective.assignment, nearest(objective))
    objective.before_step(11, lambda: POINTS)
    assert torch.equal(objective.assignment, nearest(objective))
    expected = len(nearest(objective).unique())
    assert objective.metrics()["proxies_in_use"] == expected


@pytest.mark.parametrize("start", ["random", "by_label"])
def test_the_batch_is_reassigned_before_its_loss_and_the_negatives_follow(start):
    """By label no proxy is shared at first, and afterwards some are."""
    norms = {"embedding_norm": 1.0, "proxy_norm": 1.0}  # so that every negative counts
    objective = dynamic_loss(ASSIGNMENTS[start](), reassign_every=0, **norms)
    before = objective.assignment.clone()
    anchors, positives = next(objective.batches(6, rng()))
    assert torch.equal(anchors, positives.roll(3))  # so every positive is up to date
    got = objective(POINTS[anchors], anchors, positives).item()
    expected = before.clone()
    expected[anchors] = nearest(objective)[anchors]
    assert torch.equal(objective.assignment, expected)
    want = slow_loss(objective, POINTS[anchors], anchors, positives, of_other_labels)
    assert got == pytest.approx(want, rel=1e-5)


def test_triplets_follow_their_nearest_proxies():
    triplets = draw_triplets(LABELS, 40, 3, rng())
    objective = dynamic_loss(labels=None, triplets=triplets)
    objective.before_step(1, lambda: POINTS)
    objective.proxies.data = torch.randn(8, DIM, generator=rng(7))
    anchors, positives, negatives = next(objective.batches(6, rng()))
    expected = objective.assignment.clone()
    expected[anchors] = nearest(objective)[anchors]
    assert not torch.equal(objective.assignment, expected)
    got = objective(POINTS[anchors], anchors, positives, negatives).item()
    assert torch.equal(objective.assignment, expected)
    want = slow_loss(
        objective, POINTS[anchors], anchors, positives, lambda i, _: negatives[i].tolist()
    )
    assert got == pytest.approx(want, rel=1e-5)


def test_dead_proxies_restart_at_training_points():
    objective = dynamic_loss(restart_dead=True, reassign_every=5)
    points = POINTS.abs()
    objective.proxies.data[:] = -1
    objective.proxies.data[0] = 1  # the only one near the points
    before = objective.proxies.detach().clone()
    objective.before_step(5, lambda: pytest.fail("too early"))
    objective.before_step(6, lambda: points)
    moved = (objective.proxies != before).any(1)
    assert moved.tolist() == [False] + [True] * 7
    unit = torch.nn.functional.normalize
    cosine = unit(objective.proxies.detach()[1:]) @ unit(points).T
    assert cosine.max(1).values.min() > 1 - 1e-6
    assert cosine.argmax(1).unique().shape == (7,)  # no point twice
    length = objective.proxies[1:].norm(dim=1)  # that of a random start
    torch.testing.assert_close(length, torch.full((7,), DIM**0.5))
    assert objective.metrics()["proxies_in_use"] >= 7


def test_dead_proxies_with_free_norms_restart_at_the_points_themselves():
    objective = dynamic_loss(
        restart_dead=True, reassign_every=1, embedding_norm=None, proxy_norm=None
    )
    objective.proxies.data[:] = 100
    objective.proxies.data[0] = 0
    objective.before_step(2, lambda: POINTS)
    assert torch.equal(objective.proxies[0], torch.zeros(DIM))
    assert all((proxy == POINTS).all(1).any() for proxy in objective.proxies[1:])


def test_everything_on_one_proxy_is_a_trivial_optimum_once_the_positive_is_dropped():
    objective = dynamic_loss(drop_positive=True)
    objective.proxies.data[:] = -1
    objective.proxies.data[5] = 1
    objective.before_step(1, lambda: POINTS.abs())
    _, anchors, positives = batch()
    assert objective(POINTS[anchors].abs(), anchors, positives).item() == 0
    assert objective.metrics() == {"proxies_in_use": 1, "anchors_without_negative": 8}


# --- a loss that sums by proxy ---


class ProxyAnchor(ProxyLoss):
    """Proxy-Anchor (Kim et al. 2020, Eq. 4): of each proxy the batch's points, not the reverse."""

    def __init__(self, *args, alpha=32.0, delta=0.1, **options):
        super().__init__(*args, loss=None, embedding_norm=1.0, proxy_norm=1.0, **options)
        self.alpha, self.delta = alpha, delta

    def score(self, distances, positive, mask):
        cosine = 1 - distances / 2  # (B, P)
        is_positive = functional.one_hot(positive, self.n_proxies).bool()

        def by_proxy(logits, members):
            """log(1 + Σ_x exp) over the batch: (B, P) → (P,)."""
            logits = logits.masked_fill(~members, -torch.inf)
            return functional.pad(logits, (0, 0, 1, 0)).logsumexp(0)  # a row of 0 for the 1

        pulled = by_proxy(-self.alpha * (cosine - self.delta), is_positive)
        pushed = by_proxy(self.alpha * (cosine + self.delta), mask)
        return pulled.sum() / is_positive.any(0).sum() + pushed.mean()


def slow_proxy_anchor(objective, embeddings, anchors, positives, alpha, delta):
    """The mean over proxies with a positive in the batch, and over all proxies."""

    def cosine(i, j):
        x, p = embeddings[i].tolist(), objective.proxies[j].tolist()
        return sum(a * b for a, b in zip(x, p, strict=True)) / math.hypot(*x) / math.hypot(*p)

    assignment, pulled, pushed = objective.assignment.tolist(), [], []
    serves = [{assignment[z] for z in of_other_labels(0, anchor)} for anchor in anchors.tolist()]
    for j in range(objective.n_proxies):
        of_j = [i for i, y in enumerate(positives.tolist()) if assignment[y] == j]
        against_j = [i for i in range(len(anchors)) if j in serves[i]]
        if of_j:
            pulled.append(math.log1p(sum(math.exp(-alpha * (cosine(i, j) - delta)) for i in of_j)))
        pushed.append(math.log1p(sum(math.exp(alpha * (cosine(i, j) + delta)) for i in against_j)))
    return sum(pulled) / len(pulled) + sum(pushed) / len(pushed)


@pytest.mark.parametrize("settings", [{}, {"alpha": 2.0, "delta": 0.5}], ids=str)
@pytest.mark.parametrize("assignment", ASSIGNMENTS)
def test_proxy_anchor_equals_loop(assignment, settings):
    objective = ProxyAnchor(ASSIGNMENTS[assignment](), DIM, rng(), labels=LABELS, **settings)
    objective.double()
    points = batch()
    values = {"alpha": 32.0, "delta": 0.1, **settings}
    assert objective(*points).item() == pytest.approx(
        slow_proxy_anchor(objective, *points, **values), rel=1e-9
    )


def test_proxy_anchor_by_hand():
    """One point on its proxy, the other proxy opposite: cosines 1 and −1."""
    labels = torch.tensor([0, 0, 1, 1])
    objective = ProxyAnchor(labels, 2, rng(), labels=labels, alpha=2.0, delta=0.25).double()
    objective.proxies.data = torch.tensor([[2.0, 0.0], [-5.0, 0.0]]).double()
    got = objective(torch.tensor([[3.0, 0.0]]).double(), torch.tensor([0]), torch.tensor([1]))
    expected = math.log(1 + math.exp(-1.5)) + (math.log(1) + math.log(1 + math.exp(-1.5))) / 2
    assert got.item() == pytest.approx(expected, rel=1e-9)


def test_proxy_anchor_gradients_and_learning():
    objective = ProxyAnchor(LABELS, DIM, rng(), labels=LABELS, alpha=4.0).double()
    embeddings, anchors, positives = batch()  # some proxies have no positive in it
    assert len(LABELS[positives].unique()) < 6
    proxies = objective.proxies.detach().clone().requires_grad_()

    def loss(x, p):
        return torch.func.functional_call(objective, {"proxies": p}, (x, anchors, positives))

    assert torch.autograd.gradcheck(loss, (embeddings.requires_grad_(), proxies))
    torch.manual_seed(0)
    model = torch.nn.Linear(6, DIM).double()
    optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=0.05)
    inputs = torch.eye(6).double()[LABELS]
    batches = ((drawn, inputs[drawn[0]]) for drawn in objective.batches(12, rng()))
    losses = [
        step.loss.item()
        for step in itertools.islice(train(model, objective, optimizer, batches), 100)
    ]
    assert losses[-1] < losses[0] / 2
    assert torch.equal(objective.distances(model(inputs)).argmin(1), LABELS)


# --- size, and bad input ---


class LargestTensor(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


@pytest.mark.parametrize("n_proxies", [11_318, 5_659])
@pytest.mark.parametrize("n_negatives", [None, 100])
def test_memory_at_the_size_of_stanford_products(n_proxies, n_negatives):
    """Nothing above a few (batch, proxies) tensors; above all no (labels, proxies) matrix."""
    labels = torch.arange(11_318).repeat(5)
    with LargestTensor() as largest:
        vector = assign_static(labels, n_proxies, rng())
        objective = ProxyLoss(
            vector, 64, rng(), labels=labels, loss=nca_loss, n_negatives=n_negatives
        )
        anchors = torch.arange(32)
        embeddings = torch.randn(32, 64, generator=rng()).requires_grad_()
        objective(embeddings, anchors, anchors + 11_318).backward()
    assert largest.numel <= 2 * 32 * n_proxies  # the proxies themselves: 64 × n_proxies


def proxy_loss(vector=LABELS, **options):
    return ProxyLoss(vector, DIM, rng(), **{"labels": LABELS, "loss": nca_loss, **options})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: proxy_loss(labels=None), "either labels or triplets"),
        (lambda: proxy_loss(triplets=torch.tensor([[0, 1, 2]])), "either labels or triplets"),
        (
            lambda: proxy_loss(labels=None, triplets=torch.tensor([[0, 1, 30]])),
            r"outside 0 … 29, the first is row 0: \[0, 1, 30\]",
        ),
        (lambda: proxy_loss(labels=LABELS - 1), "labels: expected 0 or more, got -1"),
        (lambda: proxy_loss(labels=LABELS * 2), r"these never occur: \[1, 3, 5, 7, 9\]"),
        (
            lambda: proxy_loss(torch.where(LABELS == 3, -1, LABELS)),
            r"5 points \(labels \[3\]\) have no proxy",
        ),
        (lambda: proxy_loss(n_proxies=5), r"5 points \(labels \[5\]\) have no proxy"),
        (lambda: proxy_loss(n_proxies=8), r"2 of 8 proxies are never assigned.*\[6, 7\]"),
        (lambda: proxy_loss(LABELS[:7]), "assignment has 7 entries, but there are 30 labels"),
        (lambda: proxy_loss(n_negatives=6), "n_negatives=6: expected 1 … 5"),
        (lambda: proxy_loss(n_negatives=0), "n_negatives=0: expected 1 … 5"),
        (
            lambda: proxy_loss(labels=None, triplets=torch.tensor([[0, 1, 9]]), n_negatives=1),
            "triplets bring their own negatives",
        ),
        (lambda: dynamic_loss(n_negatives=9), "n_negatives=9: expected 1 … 8"),
        (lambda: dynamic_loss(reassign_every=-1), "reassign_every=-1: expected 0 or more"),
        (
            lambda: dynamic_loss(reassign_every=0, restart_dead=True),
            "1 or more for restart_dead",
        ),
        (
            lambda: dynamic_loss().before_step(1, lambda: POINTS * torch.nan),
            "30 of 30 embeddings are not finite",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("norm", [0, -1.0, float("nan"), float("inf")])
def test_norms_are_positive(norm):
    labels = torch.tensor([0, 0, 1, 1])
    for name in ("embedding_norm", "proxy_norm"):
        with pytest.raises(ValueError, match=f"{name}={norm}: expected a positive number"):
            ProxyLoss(labels, 4, labels=labels, loss=nca_loss, **{name: norm})
    with pytest.raises(ValueError, match=r"embedding_norm=.*: expected a positive number"):
        InstanceLoss(labels, loss=nca_loss, embedding_norm=norm)
    with pytest.raises(ValueError, match=r"norm=.*: expected a positive number"):
        rescale(torch.ones(2, 2), norm)


def test_sizes_are_positive():
    labels = torch.tensor([0, 0, 1, 1])
    for dim in (0, -1):
        with pytest.raises(ValueError, match=f"n_proxies=2, dim={dim}: expected 1 or more"):
            ProxyLoss(labels, dim, labels=labels, loss=nca_loss)
        with pytest.raises(ValueError, match=f"channels=1, dim={dim}: expected 1 or more"):
            ConvNet(channels=1, size=32, dim=dim)
    with pytest.raises(ValueError, match="assignment: expected"):
        ProxyLoss(labels[:0], 4, labels=labels, loss=nca_loss)

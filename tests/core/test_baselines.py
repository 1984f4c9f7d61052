"""Each tuple method against a slow explicit loop in float64, and by hand."""

import itertools
import math
from functools import partial

import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from proxylib import (
    InstanceLoss,
    LiftedStructure,
    NPairs,
    SemiHardTriplet,
    StructClust,
    mean_contrastive_loss,
    mean_triplet_loss,
    nca_loss,
)
from proxylib.baselines import Softmax
from proxylib.struct_clust import DECAY_STEPS, SWAPS, batch_nmi, worst_medoids

LABELS = torch.arange(6).repeat_interleave(4)


def batch(labels=LABELS, seed=0, dim=5):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(len(labels), dim, generator=g, dtype=torch.float64), labels


def table(embeddings, norm=None, power=2):
    x = embeddings if norm is None else norm * embeddings / embeddings.norm(dim=1, keepdim=True)
    x = x.tolist()
    return [[math.dist(a, b) ** power for b in x] for a in x]


def pairs(labels):
    n = range(len(labels))
    return [(a, p) for a in n for p in n if a != p and labels[a] == labels[p]]


def negatives(labels, a):
    return [z for z in range(len(labels)) if labels[z] != labels[a]]


INSTANCE = {
    "nca": {"loss": nca_loss},
    "softmax": {"loss": partial(nca_loss, include_positive=True)},
    "triplet": {"loss": partial(mean_triplet_loss, margin=1.5)},
    "contrastive": {"loss": partial(mean_contrastive_loss, margin=1.5), "squared": False},
}


def slow_instance(embeddings, labels, loss, margin, norm):
    d, values = table(embeddings, norm, 1 if loss == "contrastive" else 2), []
    for a, p in pairs(labels):
        d_neg = [d[a][z] for z in negatives(labels, a)]
        if loss in ("nca", "softmax"):
            summed = sum(math.exp(-x) for x in d_neg + [d[a][p]] * (loss == "softmax"))
            values.append(d[a][p] + math.log(summed))
        elif loss == "triplet":
            hinges = [d[a][p] + margin - x for x in d_neg if d[a][p] + margin - x > 0]
            values.append(sum(hinges) / max(1, len(hinges)))
        else:
            hinges = [(margin - x) ** 2 for x in d_neg if margin - x > 0]
            values.append(d[a][p] ** 2 + sum(hinges) / max(1, len(hinges)))
    return sum(values) / len(values)


@pytest.mark.parametrize("norm", [{}, {"embedding_norm": 0.5}, {"embedding_norm": None}], ids=str)
@pytest.mark.parametrize("loss", INSTANCE)
def test_instance_loss(loss, norm):
    objective = InstanceLoss(LABELS, **INSTANCE[loss], **norm)
    embeddings, labels = batch()
    expected = slow_instance(embeddings, labels, loss, 1.5, norm.get("embedding_norm", 3.0))
    assert objective(embeddings, torch.arange(24)).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("spread", [0.02, 3.0])
def test_semi_hard(spread):
    """Loose classes also have pairs that are farther apart than any negative."""
    embeddings, labels = batch()
    embeddings = spread * embeddings + torch.eye(6, 5, dtype=torch.float64)[labels] * 3
    d, values, fallbacks = table(embeddings, 1.0), [], 0
    for a, p in pairs(labels):
        beyond = [d[a][z] for z in negatives(labels, a) if d[a][z] > d[a][p]]
        fallbacks += not beyond
        n = min(beyond) if beyond else max(d[a][z] for z in negatives(labels, a))
        values.append(max(0, 0.5 + d[a][p] - n))  # the margin is 0.5
    assert fallbacks > 0 or spread < 3
    got = SemiHardTriplet(LABELS)(embeddings, torch.arange(24)).item()
    assert got == pytest.approx(sum(values) / len(values), rel=1e-6)


def test_semi_hard_by_hand():
    """Unit vectors at 0°, 60° (label 0), 90°, 180° (label 1): D = 1, 2, 4, 2 − √3, 3, 2."""
    angle = torch.tensor([0.0, 60.0, 90.0, 180.0], dtype=torch.float64).deg2rad()
    x = torch.stack([angle.cos(), angle.sin()], 1)
    # (0,60): 2; (60,0): nearest beyond 1 is 3; (90,180): beyond 2: none → farthest 2; (180,90): 3
    expected = (max(0, 0.2 + 1 - 2) + max(0, 0.2 + 1 - 3) + 0.2 + 0) / 4
    labels = torch.tensor([0, 0, 1, 1])
    got = SemiHardTriplet(labels, margin=0.2)(x, torch.arange(4)).item()
    assert got == pytest.approx(expected, rel=1e-9)


def test_lifted_structure():
    embeddings, labels = batch()
    embeddings = embeddings / 3
    d, values = table(embeddings, power=1), []
    for i, j in pairs(labels):
        if i < j:
            both = [math.exp(1 - d[i][k]) for k in negatives(labels, i)]
            both += [math.exp(1 - d[j][k]) for k in negatives(labels, j)]
            values.append(max(0, math.log(sum(both)) + d[i][j]) ** 2)
    got = LiftedStructure(LABELS)(embeddings, torch.arange(24)).item()
    assert got == pytest.approx(sum(values) / (2 * len(values)), rel=1e-6)


def test_npairs():
    embeddings, labels = batch(torch.arange(6).repeat_interleave(2))
    f, f_pos = embeddings[::2].tolist(), embeddings[1::2].tolist()

    def dot(a, b):
        return sum(x * y for x, y in zip(a, b, strict=True))

    total = 0.0
    for i in range(6):
        others = sum(
            math.exp(dot(f[i], f_pos[j]) - dot(f[i], f_pos[i])) for j in range(6) if j != i
        )
        total += math.log(1 + others)
    size = sum(dot(x, x) for x in embeddings.tolist()) / 12
    got = NPairs(labels, l2=0.3)(embeddings, torch.arange(12)).item()
    assert got == pytest.approx(total / 6 + 0.3 * size, rel=1e-6)


def test_npairs_wants_pairs():
    with pytest.raises(ValueError, match="expected anchor, positive, anchor, positive"):
        NPairs(torch.tensor([0, 1, 0, 1]))(torch.zeros(4, 2), torch.arange(4))


# --- Struct Clust ---


def facility(d, points, medoids):
    return -sum(min(d[i][j] for j in medoids) for i in points)


def clusters_of(d, medoids):
    return [min(range(len(medoids)), key=lambda k: d[i][medoids[k]]) for i in range(len(d))]


def augmented(d, labels, medoids, gamma):
    nmi = normalized_mutual_info_score(labels, clusters_of(d, medoids))
    return facility(d, range(len(d)), medoids) + gamma * (1 - nmi)


def slow_medoids(d, labels, gamma, swaps):
    n, k = len(d), len(set(labels))

    def best(others, slot):
        free = [j for j in range(n) if j not in others]
        tried = [[*others[:slot], j, *others[slot:]] for j in free]
        scores = [augmented(d, labels, medoids, gamma) for medoids in tried]
        return next(m for m, s in zip(tried, scores, strict=True) if s > max(scores) - 1e-5)

    medoids = []
    for slot in range(k):
        medoids = best(medoids, slot)
    for _ in range(swaps):
        for slot in range(k):
            trial = best(medoids[:slot] + medoids[slot + 1 :], slot)
            if augmented(d, labels, trial, gamma) > augmented(d, labels, medoids, gamma) + 1e-5:
                medoids = trial
    return medoids


@pytest.mark.parametrize("gamma", [0.0, 1.0, 30.0])
@pytest.mark.parametrize("swaps", [0, 1, 2])
def test_medoids_equal_the_loop(gamma, swaps):
    labels = torch.arange(4).repeat_interleave(3)
    for seed in range(3):
        embeddings, _ = batch(labels, seed)
        d = table(embeddings, 1.0, 1)
        got = worst_medoids(torch.tensor(d, dtype=torch.float64), labels, gamma, swaps).tolist()
        expected = slow_medoids(d, labels.tolist(), gamma, swaps)
        assert len(set(got)) == 4
        values = [augmented(d, labels.tolist(), medoids, gamma) for medoids in (got, expected)]
        assert values[0] == pytest.approx(values[1], rel=1e-5)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 30.0])
def test_struct_clust(gamma):
    labels = torch.arange(4).repeat_interleave(3)
    objective = StructClust(labels, gamma=gamma)
    for seed in range(3):
        embeddings, _ = batch(labels, seed)
        d = table(embeddings, 1.0, 1)
        medoids = slow_medoids(d, labels.tolist(), gamma, SWAPS)
        oracle = 0.0
        for k in range(4):
            members = [i for i in range(12) if labels[i] == k]
            oracle += max(facility(d, members, [j]) for j in members)
        expected = max(0.0, augmented(d, labels.tolist(), medoids, gamma) - oracle)
        got = objective(embeddings, torch.arange(12)).item()
        assert got == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_greedy_inference_is_near_the_true_maximum():
    labels = torch.arange(3).repeat_interleave(3)
    for seed in range(3):
        embeddings, _ = batch(labels, seed)
        d = torch.tensor(table(embeddings, 1.0, 1))
        found = worst_medoids(d, labels, 1.0, swaps=3).tolist()
        best = max(
            augmented(d.tolist(), labels.tolist(), list(s), 1.0)
            for s in itertools.combinations(range(9), 3)
        )
        assert augmented(d.tolist(), labels.tolist(), found, 1.0) >= best - 0.3


def test_struct_clust_gradient_leaves_the_assignment_alone():
    labels = torch.arange(3).repeat_interleave(3)
    embeddings, _ = batch(labels)
    objective = StructClust(labels, gamma=3.0)

    def loss(x):
        return objective(x, torch.arange(9))

    assert loss(embeddings) > 0
    assert torch.autograd.gradcheck(loss, embeddings.requires_grad_())


def test_gamma_decays():
    objective = StructClust(LABELS, gamma=2.0, gamma_decay=0.5)
    gammas = []
    for step in (1, DECAY_STEPS, DECAY_STEPS + 1, 2 * DECAY_STEPS + 1):
        objective.before_step(step, lambda: None)
        gammas.append(objective.current_gamma)
    assert gammas == [2.0, 2.0, 1.0, 0.5]


def test_nmi_equals_scikit_learn():
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (20,), generator=g)
    clusters = torch.randint(4, (20, 6), generator=g)
    clusters[:, 0], clusters[:, 1] = 0, (labels + 1) % 4
    expected = [normalized_mutual_info_score(labels, clusters[:, r]) for r in range(6)]
    got = batch_nmi(clusters, labels, 4)
    assert got.tolist() == pytest.approx(expected, abs=1e-5)
    assert batch_nmi(torch.zeros(3, 1).long(), torch.zeros(3).long(), 1).item() == 1


# --- classification ---


def test_softmax_is_the_cross_entropy_of_a_linear_classifier():
    objective, points = Softmax(LABELS, 5).double(), torch.tensor([1, 9, 22])
    embeddings, _ = batch(LABELS[points])
    weight, bias = (part.tolist() for part in objective.classifier.parameters())
    expected = []
    for x, label in zip(embeddings.tolist(), LABELS[points].tolist(), strict=True):
        scores = [
            sum(w * v for w, v in zip(row, x, strict=True)) + b
            for row, b in zip(weight, bias, strict=True)
        ]
        expected.append(math.log(sum(map(math.exp, scores))) - scores[label])
    assert objective(embeddings, points).item() == pytest.approx(sum(expected) / 3, rel=1e-12)
    assert len(weight) == 6


# --- all of them ---

OBJECTIVES = {
    **{name: partial(InstanceLoss, **options) for name, options in INSTANCE.items()},
    "semihard": SemiHardTriplet,
    "lifted": LiftedStructure,
    "npairs": NPairs,
    "struct_clust": StructClust,
    "classification": lambda labels: Softmax(labels, 5).double(),
}
each = pytest.mark.parametrize("name", OBJECTIVES)


@each
def test_batch_of_one_class(name):
    """No negative anywhere: a finite loss (0 but for N-pairs' l2 term) and finite gradients."""
    embeddings, _ = batch(LABELS[:4])
    loss = OBJECTIVES[name](LABELS)(embeddings.requires_grad_(), torch.arange(4))
    loss.backward()
    assert embeddings.grad.isfinite().all()
    if name in (*INSTANCE, "semihard", "lifted"):
        assert loss.item() == 0


@each
def test_batch_without_a_pair(name):
    if name == "npairs":
        return  # its batches are pairs
    embeddings, _ = batch(LABELS[::4])
    loss = OBJECTIVES[name](LABELS)(embeddings.requires_grad_(), torch.arange(0, 24, 4))
    loss.backward()
    assert embeddings.grad.isfinite().all()
    if name not in ("struct_clust", "classification"):
        assert loss.item() == 0


@each
@pytest.mark.parametrize("scale", [0.0, 1000**0.5])
def test_equal_points_and_large_norms(name, scale):
    objective = OBJECTIVES[name](LABELS)
    if name in ("nca", "softmax"):
        objective.embedding_norm = 1000**0.5
    embeddings = (scale * batch()[0]).float().requires_grad_()
    if name == "classification":
        objective.float()
    loss = objective(embeddings, torch.arange(24))
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad.isfinite().all()


@each
def test_nan_is_never_hidden(name):
    embeddings, _ = batch()
    embeddings[7] = torch.nan
    assert OBJECTIVES[name](LABELS)(embeddings, torch.arange(24)).isnan()


@pytest.mark.parametrize("name", ["nca", "softmax", "lifted", "npairs"])
def test_gradients_where_smooth(name):
    objective = OBJECTIVES[name](LABELS)
    embeddings = batch()[0].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: objective(x, torch.arange(24)), embeddings)

"""The bounds: each quantity against a naive loop, each claim by property tests and examples."""

import math
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from proxylib.bounds import (
    Triplets,
    all_triplets,
    allowance,
    bound_statistics,
    epsilon_by_class,
    expected_ranking_bound,
    gather_triplets,
    group_triplets,
    grouped_total,
    nca_bound,
    proxy_errors,
    ranking_bound,
    triplet_bound,
    unit,
)
from proxylib.losses import nca_loss, ranking_loss, triplet_loss
from proxylib.study.bound_search import flip_example, tight_example

CONSTANTS = ("corrected", "own", "shared")
EPSILONS = st.floats(1e-8, 2.0)
FAST = settings(max_examples=60, deadline=None, derandomize=True)


def random_triplets(seed, batch, dim, negatives, spread, kind, dtype):
    """Points and proxies on the unit sphere, with the degenerate cases by name."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return unit(torch.randn(*shape, generator=generator, dtype=torch.float64))

    def near(points):
        noise = torch.randn(points.shape, generator=generator, dtype=torch.float64)
        return unit(points + spread * noise)

    x, y, z = draw(batch, dim), draw(batch, dim), draw(batch, negatives, dim)
    p_y, p_z = near(y), near(z)
    if kind == "proxy = point":
        p_y, p_z = y, z
    elif kind == "antipodal":
        p_y, p_z = -y, -z
    elif kind == "duplicates":
        y = x.clone()
        z = x[:, None].expand_as(z)
        p_z = p_y[:, None].expand_as(z)
    elif kind == "along the anchor":  # the worst direction, embedded in more dimensions
        example = tight_example(min(4.0, spread**2), negatives)
        wide = (torch.nn.functional.pad(part, (0, dim - 2)) for part in example)
        x, y, z, p_y, p_z = (part.expand(batch, *part.shape[1:]) for part in wide)
    return Triplets(*(part.to(dtype) for part in (x, y, z, p_y, p_z)))


TRIPLETS = st.builds(
    random_triplets,
    seed=st.integers(0, 2**31),
    batch=st.integers(1, 4),
    dim=st.integers(2, 8),
    negatives=st.integers(1, 6),
    spread=st.floats(1e-3, 2.0),
    kind=st.sampled_from(
        ["random", "proxy = point", "antipodal", "duplicates", "along the anchor"]
    ),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
# N_x and N_p with a product of at least 1, also where one of them is below 1.
NORMS = st.tuples(st.floats(0.2, 20), st.floats(1, 50)).map(lambda t: (t[0], t[1] / t[0]))


@FAST
@given(TRIPLETS, NORMS, st.floats(0, 10), st.sampled_from(["squared", "half"]))
def test_corrected_bounds_hold(triplets, norms, margin, distance):
    # float32 points are brought to unit length in float64, so one tolerance (1e-9) serves both.
    norms = {"embedding_norm": norms[0], "proxy_norm": norms[1]}
    for constant in CONSTANTS:
        common = {"distance": distance, "constant": constant}
        assert ranking_bound(triplets, **common).holds.all()
        assert expected_ranking_bound(triplets, **common).holds
        assert nca_bound(triplets, **norms, **common).holds.all()
        assert triplet_bound(triplets, margin=margin, **norms, **common).holds.all()


@FAST
@given(TRIPLETS)
def test_printed_ranking_constant_holds_for_the_unsquared_distance(triplets):
    for constant in ("published", "corrected", "own"):
        assert ranking_bound(triplets, distance="plain", constant=constant).holds.all()
        assert expected_ranking_bound(triplets, distance="plain", constant=constant).holds


@FAST
@given(TRIPLETS, NORMS, st.floats(0, 10))
def test_printed_nca_and_triplet_constants_hold_for_half_the_squared_distance(
    triplets, norms, margin
):
    common = {"embedding_norm": norms[0], "proxy_norm": norms[1]}
    common |= {"distance": "half", "constant": "published"}
    assert nca_bound(triplets, **common).holds.all()
    assert nca_bound(triplets, epsilon_as="half", **common).holds.all()
    assert triplet_bound(triplets, margin=margin, **common).holds.all()


@FAST
@given(EPSILONS, st.integers(1, 5), NORMS)
def test_tight_example_attains_the_corrected_and_breaks_the_published_constants(
    epsilon, negatives, norms
):
    example = tight_example(epsilon, negatives)
    norms = {"embedding_norm": norms[0], "proxy_norm": norms[1]}
    margin = 2 * math.sqrt(epsilon) * norms["embedding_norm"] * norms["proxy_norm"] + 0.1
    for bound, worst in (
        (ranking_bound, 2 / math.sqrt(epsilon)),
        (partial(nca_bound, **norms), math.sqrt(2)),
        (partial(triplet_bound, margin=margin, **norms), 2.0),
    ):
        corrected = bound(example)
        assert corrected.epsilon == pytest.approx(epsilon, rel=1e-12)
        assert corrected.slack == pytest.approx(0, abs=1e-9)
        assert corrected.left - corrected.right + corrected.allowance == pytest.approx(
            4 * math.sqrt(epsilon), abs=1e-9
        )
        published = bound(example, constant="published")
        assert published.ratio == pytest.approx(worst, rel=1e-4)
        if epsilon > 1e-6:  # below, the violation itself is of the order of the tolerance
            assert not published.holds.any()


@FAST
@given(EPSILONS.filter(lambda e: 1e-6 < e < 1.999))
def test_flip_example_breaks_the_published_expected_ranking_bound(epsilon):
    example = flip_example(epsilon)
    d = ranking_bound(example)
    assert d.epsilon == pytest.approx(epsilon, rel=1e-9)
    published = expected_ranking_bound(example, constant="published")
    assert (published.left, published.right) == (1, 0)
    assert expected_ranking_bound(example).holds
    x, _, _, p_y, p_z = example
    flipped = (x - p_z[:, 0]).square().sum() - (x - p_y).square().sum()
    assert flipped.item() == pytest.approx(4 * math.sqrt(epsilon - epsilon**2 / 4), abs=1e-6)


def test_bounds_against_a_naive_loop():
    triplets = random_triplets(3, 3, 4, 5, 0.4, "random", torch.float64)
    n_x, n_p, margin = 1.7, 2.1, 0.8
    alpha = 1 / (n_x * n_p)

    def d(a, b):
        return sum((s - t) ** 2 for s, t in zip(a.tolist(), b.tolist(), strict=True))

    ranking = ranking_bound(triplets)
    nca = nca_bound(triplets, embedding_norm=n_x, proxy_norm=n_p, constant="own")
    hinge = triplet_bound(triplets, margin=margin, embedding_norm=n_x, proxy_norm=n_p)
    errors, wrong, wrong_proxy = [], [], []
    for b, (x, y, zs, p_y, p_zs) in enumerate(zip(*triplets, strict=True)):
        e_y, e_zs = d(y, p_y) ** 0.5, [d(z, p) ** 0.5 for z, p in zip(zs, p_zs, strict=True)]
        errors += [e_y, *e_zs]
        # Scaled for real here: only the product of the norms matters.
        far_y, far_zs = d(n_x * x, n_p * p_y), [d(n_x * x, n_p * p) for p in p_zs]
        for k, z in enumerate(zs):
            gap = abs(d(x, y) - d(x, z) - d(x, p_y) + d(x, p_zs[k]))
            assert ranking.left[b, k].item() == pytest.approx(gap)
            assert hinge.left[b, k].item() == pytest.approx(max(0, d(x, y) + margin - d(x, z)))
            right = alpha * max(0, far_y + margin - far_zs[k]) + (1 - alpha) * margin
            assert (hinge.right - hinge.allowance)[b, k].item() == pytest.approx(right)
            wrong.append(d(x, y) > d(x, z))
            wrong_proxy.append(d(x, p_y) > d(x, p_zs[k]))
        left = d(x, y) + math.log(sum(math.exp(-d(x, z)) for z in zs))
        right = alpha * (far_y + math.log(sum(math.exp(-f) for f in far_zs)))
        right += (1 - alpha) * math.log(5) + 2 * (e_y + max(e_zs))
        assert nca.left[b].item() == pytest.approx(left)
        assert nca.right[b].item() == pytest.approx(right)
    assert ranking.epsilon == pytest.approx(max(errors) ** 2)
    assert ranking.allowance[0, 0].item() == pytest.approx(4 * max(errors))
    expected = expected_ranking_bound(triplets)
    assert expected.left == pytest.approx(sum(wrong) / 15)
    assert (expected.right - expected.allowance) == pytest.approx(sum(wrong_proxy) / 15)
    row = hinge.summary()
    assert row["checked"] == 15 and row["violations"] == 0 and row["constant"] == "corrected"


@pytest.mark.parametrize(
    ("name", "distance", "epsilon_as", "factor"),
    [
        ("ranking", "squared", None, 2 * 0.09),
        ("ranking", "plain", None, 2 * 0.3),
        ("ranking", "squared", "half", 0.09),
        ("nca", "half", None, 2 * math.sqrt(2) * 0.3),
        ("nca", "half", "half", 2 * 0.3),  # exactly the corrected one
        ("triplet", "squared", None, 2 * 0.3),
    ],
)
def test_published_constants(name, distance, epsilon_as, factor):
    assert allowance(name, "published", distance, 0.09, epsilon_as) == pytest.approx(factor)


def test_proxy_errors():
    points = torch.tensor([[3.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    proxies, assignment = torch.tensor([[1.0, 0.0]]), torch.zeros(3, dtype=torch.int64)
    errors = proxy_errors(points, proxies, assignment)
    assert errors.tolist() == pytest.approx([0, 2, 4]) and errors.dtype == torch.float64
    plain = proxy_errors(points, proxies, assignment, normalize=False, squared=False)
    assert plain.tolist() == pytest.approx([2, math.sqrt(5), 2])
    assert epsilon_by_class(errors, torch.tensor([1, 0, 1])).tolist() == pytest.approx([2, 4])


def dataset(seed, n_proxies=6, sizes=(5, 1, 4, 6), spread=0.5, dim=3):
    """Small clusters of several sizes, one of a single point, with duplicates in it."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    proxies = 2 * torch.randn(n_proxies, dim, generator=generator, dtype=torch.float64)
    assignment = torch.randint(n_proxies, labels.shape, generator=generator)
    noise = torch.randn(len(labels), dim, generator=generator, dtype=torch.float64)
    points = proxies[assignment] + spread * noise
    points[3] = points[7]
    points[5] = proxies[assignment[5]]
    return points, labels, proxies, assignment


def naive_statistics(points, labels, proxies, assignment, margin, n_x, n_p, distance):
    """The same quantities from the triplet-wise bounds, over explicitly listed triplets."""
    indices = all_triplets(labels)
    triplets = gather_triplets(points, proxies, assignment, indices)
    epsilon = proxy_errors(points, proxies, assignment).max().item()
    norms = {"embedding_norm": n_x, "proxy_norm": n_p}
    common = {"distance": distance, "epsilon": epsilon}
    pairs = torch.unique(indices[:, :2], dim=0).tolist()
    negatives = [[z for z in range(len(labels)) if labels[z] != labels[x]] for x, _ in pairs]
    tuples = [
        gather_triplets(points, proxies, assignment, torch.tensor([[x, y, *z]]))
        for (x, y), z in zip(pairs, negatives, strict=True)
    ]
    row = {"triplets": len(indices), "epsilon": epsilon}
    for constant in ("published", "corrected"):
        ranking = ranking_bound(triplets, constant=constant, **common)
        hinge = triplet_bound(triplets, constant=constant, margin=margin, **norms, **common)
        nca = [nca_bound(t, constant=constant, **norms, **common) for t in tuples]
        expected = expected_ranking_bound(triplets, constant=constant, **common)
        row |= {
            f"ranking_violations_{constant}": (~ranking.holds).sum().item(),
            f"ranking_allowed_{constant}": ranking.allowance[0, 0].item(),
            "ranking_gap": ranking.left.mean().item(),
            "ranking_gap_max": ranking.left.max().item(),
            "order_left": expected.left.item(),
            "order_proxy": (expected.right - expected.allowance).item(),
            f"order_right_{constant}": expected.right.item(),
            "nca_left": sum(b.left.item() for b in nca) / len(nca),
            f"nca_right_{constant}": sum(b.right.item() for b in nca) / len(nca),
            f"nca_slack_{constant}": sum(b.slack.item() for b in nca) / len(nca),
            f"nca_min_slack_{constant}": min(b.slack.item() for b in nca),
            f"nca_violations_{constant}": sum(not b.holds for b in nca),
            "triplet_left": hinge.left.mean().item(),
            f"triplet_right_{constant}": hinge.right.mean().item(),
            f"triplet_slack_{constant}": hinge.slack.mean().item(),
            f"triplet_min_slack_{constant}": hinge.slack.min().item(),
            f"triplet_violations_{constant}": (~hinge.holds).sum().item(),
        }
    x, y, z, p_y, p_z = triplets
    difference = (x - p_z[:, 0]).square().sum(1) - (x - p_y).square().sum(1)
    e_y, e_z = (y - p_y).norm(dim=1), (z - p_z)[:, 0].norm(dim=1)

    def angle(a, b):
        return 2 * ((a - b).norm(dim=1) / 2).clamp_max(1).arcsin()

    sharp = angle(x, p_y) + angle(y, p_y) < angle(x, p_z[:, 0]) - angle(z[:, 0], p_z[:, 0]) - 1e-7
    factor = {"squared": 2, "half": 1}[distance]
    return row | {
        "ranking_allowed_own": factor * (e_y + e_z).mean().item(),
        "certified_worst": (difference > 4 * math.sqrt(epsilon)).double().mean().item(),
        "certified_own": (difference > 2 * (e_y + e_z)).double().mean().item(),
        "certified_angle": sharp.double().mean().item(),
    }


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("n_x", "n_p"), [(1.0, 1.0), (3.0, 0.8)])
def test_statistics_against_listed_triplets(seed, n_x, n_p, monkeypatch):
    data = dataset(seed, spread=(0.02, 0.1, 0.5)[seed % 3])
    distance, margin = ("squared", "half")[seed % 2], (0.0, 0.2, 1.0)[seed % 3]
    monkeypatch.setattr("proxylib.bounds.statistics._CHUNK", 40)  # two anchors at once
    row = bound_statistics(
        *data, margin=margin, embedding_norm=n_x, proxy_norm=n_p, distance=distance
    )
    naive = naive_statistics(*data, margin, n_x, n_p, distance)
    assert {key: row[key] for key in naive} == pytest.approx(naive, abs=1e-9)
    assert row["exact"] == 1 and row["ranking_violations_corrected"] == 0
    assert row["certified_worst"] <= row["certified_own"] <= row["certified_angle"]
    assert row["certified_angle"] <= 1 - row["order_left"]


def test_statistics_count_violations_of_the_published_constants():
    x, y, z, p_y, p_z = tight_example(0.2)
    points, proxies = torch.cat([x, y, y, z[:, 0]]), torch.cat([x, p_y, p_z[:, 0]])
    labels, assignment = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 1, 2])
    row = bound_statistics(points, labels, proxies, assignment, margin=3.0)
    naive = naive_statistics(points, labels, proxies, assignment, 3.0, 1, 1, "squared")
    assert {key: row[key] for key in naive} == pytest.approx(naive, abs=1e-9)
    for name, violations in (("ranking", 2), ("nca", 2), ("triplet", 2)):
        assert row[f"{name}_violations_published"] >= violations
        assert row[f"{name}_violations_corrected"] == 0


@FAST
@given(st.integers(0, 10**6), NORMS)
def test_bound_on_the_loss_with_each_negative_proxy_once(seed, norms):
    points, labels, proxies, assignment = dataset(seed)
    norms = {"embedding_norm": norms[0], "proxy_norm": norms[1]}
    row = bound_statistics(points, labels, proxies, assignment, **norms)
    assert row["nca_left"] <= row["nca_right_distinct"] + 1e-9
    # With α = 1 and ε = 0 the printed log|Z| term is 0, yet copies of a proxy count in Z only.
    row = bound_statistics(proxies[assignment], labels, proxies, assignment)
    assert row["nca_slack_corrected"] == pytest.approx(0, abs=1e-6)


def test_sampled_statistics():
    points, labels, proxies, assignment = dataset(0, sizes=(30, 40, 30))
    exact = bound_statistics(points, labels, proxies, assignment)
    sampled = [
        bound_statistics(points, labels, proxies, assignment, max_anchors=40, seed=s)
        for s in (0, 0, 1)
    ]
    assert sampled[0] == sampled[1] != sampled[2]
    assert (sampled[0]["exact"], sampled[0]["anchors"], exact["anchors"]) == (0, 40, 100)
    assert sampled[0]["epsilon"] == exact["epsilon"]
    assert sampled[0]["nca_left"] == pytest.approx(exact["nca_left"], abs=0.3)
    assert bound_statistics(points, labels, proxies, assignment, max_anchors=100) == exact
    assert all(type(value) is float for value in exact.values())


def test_statistics_of_free_norms_are_those_of_the_unit_sphere():
    points, labels, proxies, assignment = dataset(1)
    exact = bound_statistics(points, labels, proxies, assignment)
    scaled = bound_statistics(7 * points, labels, unit(proxies), assignment)
    assert scaled == pytest.approx(exact, abs=1e-9)
    single = bound_statistics(points.float(), labels, proxies.float(), assignment)
    for key in ("nca_left", "triplet_left", "triplet_right_corrected", "ranking_gap"):
        assert single[key] == pytest.approx(exact[key], abs=1e-6)  # of unit vectors in float32


def test_all_triplets_counts_figure_2():
    for n, k in ((8, 2), (12, 3), (12, 4)):
        labels = torch.arange(k).repeat_interleave(n // k)
        assert len(all_triplets(labels)) == n * n * (n - k) * (k - 1) // k**2
    triplets = all_triplets(torch.tensor([0, 1, 0, 1]))
    assert triplets.tolist()[:2] == [[0, 2, 1], [0, 2, 3]]
    # FIG. 2B: with a proxy for each concept, 8 comparisons stand for the 96.
    labels = torch.tensor([0] * 4 + [1] * 4)
    groups, counts = group_triplets(all_triplets(labels), labels)
    assert counts.tolist() == [12] * 8 and len(groups) == 8


@FAST
@given(st.integers(0, 10**6), st.floats(0, 3))
def test_grouping_is_an_identity(seed, margin):
    points, labels, proxies, assignment = dataset(seed)
    triplets = all_triplets(labels)
    groups, counts = group_triplets(triplets, assignment)
    assert counts.sum() == len(triplets)
    x, y, z = triplets.T
    d_pos = (points[x] - proxies[assignment[y]]).square().sum(1)
    d_neg = (points[x] - proxies[assignment[z]]).square().sum(1)[:, None]
    for loss in (ranking_loss, nca_loss, partial(triplet_loss, margin=margin)):
        total = grouped_total(loss, points, proxies, groups, counts)
        assert total.item() == pytest.approx(loss(d_pos, d_neg).sum().item(), rel=1e-12)
    # Whole numbers are summed without rounding.
    assert grouped_total(ranking_loss, points, proxies, groups, counts) == (
        ranking_loss(d_pos, d_neg).sum()
    )


def test_errors():
    example = tight_example(0.5)
    for bound in (ranking_bound, nca_bound, partial(triplet_bound, margin=1.0)):
        with pytest.raises(ValueError, match=r"positive: expected vectors of length 1.*off by 1"):
            bound(example._replace(positive=2 * example.positive))
        with pytest.raises(ValueError, match="0 negatives: expected one or more"):
            bound(
                example._replace(
                    negatives=example.negatives[:, :0],
                    negative_proxies=example.negative_proxies[:, :0],
                )
            )
        with pytest.raises(ValueError, match=r"expected \(B, D\) anchors"):
            bound(example._replace(negatives=example.negatives[:, 0]))
        with pytest.raises(ValueError, match=r"errors up to 0\.5"):
            bound(example, epsilon=0.4)
        with pytest.raises(ValueError, match="constant='right': expected one of"):
            bound(example, constant="right")
    with pytest.raises(ValueError, match="expected distance 'squared' or 'half'"):
        nca_bound(example, distance="plain")
    for bound in (nca_bound, partial(triplet_bound, margin=1.0)):
        with pytest.raises(ValueError, match=r"α = 1/\(N_x·N_p\) = 2 .*need α ≤ 1"):
            bound(example, embedding_norm=0.5)
        for norm in (-3.0, 0.0, math.inf, math.nan):
            with pytest.raises(ValueError, match=r"proxy_norm=.+: expected a positive number"):
                bound(example, proxy_norm=norm)
    for margin in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="expected M ≥ 0"):
            triplet_bound(example, margin=margin)
    for epsilon in (0, 4.01):
        with pytest.raises(ValueError, match="expected 0 < ε ≤ 4"):
            tight_example(epsilon)
    with pytest.raises(ValueError, match="less than 2"):
        flip_example(2)


def test_errors_of_statistics():
    points, labels, proxies, assignment = dataset(0)
    check = partial(bound_statistics, points, labels, proxies, assignment)
    with pytest.raises(ValueError, match="α ≤ 1"):
        check(embedding_norm=0.5)
    with pytest.raises(ValueError, match="M ≥ 0"):
        check(margin=-1)
    with pytest.raises(ValueError, match="max_anchors=0: expected 1 or more"):
        check(max_anchors=0)
    with pytest.raises(ValueError, match="distance='plain'"):
        check(distance="plain")
    with pytest.raises(ValueError, match="no triplets: 16 points in 1 labels"):
        bound_statistics(points, 0 * labels, proxies, assignment)
    with pytest.raises(ValueError, match="no triplets: 16 points in 16 labels"):
        bound_statistics(points, torch.arange(16), proxies, assignment)
    with pytest.raises(ValueError, match="no proxy: expected entries of 0 … 5"):
        bound_statistics(points, labels, proxies, assignment + 1)
    with pytest.raises(ValueError, match=r"expected embeddings \(N, D\)"):
        bound_statistics(points, labels[1:], proxies, assignment)
    with pytest.raises(ValueError, match=r"expected embeddings \(N, D\)"):
        bound_statistics(points, labels, proxies[0], assignment)
    with pytest.raises(ValueError, match=r"expected entries of 0 … 5, got \[-1\]"):
        proxy_errors(points, proxies, torch.full_like(labels, -1))
    with pytest.raises(ValueError, match="expected 16 entries in assignment, got 15"):
        proxy_errors(points, proxies, assignment[1:])
    with pytest.raises(ValueError, match="embeddings: expected finite vectors"):
        bound_statistics(points * torch.tensor([0.0]), labels, proxies, assignment)


def test_the_refused_cases_are_false():
    # Proxies equal to their points, so ε = 0 and the constants are 0; α = 2, then M = −1.
    d_pos, d_neg = torch.tensor([1.0]), torch.tensor([[0.5, 2.0]])
    alpha = 2.0
    nca = alpha * nca_loss(d_pos / alpha, d_neg / alpha) + (1 - alpha) * math.log(2)
    assert nca_loss(d_pos, d_neg) > nca + 0.05
    hinge = alpha * triplet_loss(d_pos / alpha, d_neg / alpha, 0.6) + (1 - alpha) * 0.6
    assert (triplet_loss(d_pos, d_neg, 0.6) > hinge + 0.05).any()
    alpha, margin = 0.5, -1.0
    hinge = alpha * triplet_loss(d_pos / alpha, d_neg / alpha, margin) + (1 - alpha) * margin
    assert (triplet_loss(d_pos, d_neg, margin) > hinge + 0.05).all()

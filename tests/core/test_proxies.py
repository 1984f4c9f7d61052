"""Ways to fill the assignment vector, and the negatives that follow from it."""

import pytest
import torch

from proxylib.proxies import (
    UNUSED,
    assign_by_label,
    assign_nearest,
    assign_random,
    assign_static,
    check_assignment,
    exclusive_label,
    negative_mask,
    negative_mask_of_points,
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


LABELS = torch.arange(10).repeat_interleave(6)


def test_one_proxy_per_label():
    assert torch.equal(assign_by_label(LABELS), LABELS)
    assert torch.equal(assign_static(LABELS, 10, rng()), LABELS)


@pytest.mark.parametrize("n_proxies", [1, 3, 5, 9])
def test_fractional_assignment(n_proxies):
    """Points of a label stay together; proxies get equally many labels; every proxy is used."""
    assignment = assign_static(LABELS, n_proxies, rng())
    proxy_of_label = assignment.view(10, 6)
    assert (proxy_of_label == proxy_of_label[:, :1]).all()
    served = proxy_of_label[:, 0].bincount(minlength=n_proxies)
    assert served.min() >= 1
    assert served.max() - served.min() <= 1
    assert torch.equal(assignment, assign_static(LABELS, n_proxies, rng()))
    if n_proxies > 1:
        others = [assign_static(LABELS, n_proxies, rng(seed)) for seed in range(1, 4)]
        assert any(not torch.equal(assignment, other) for other in others)


@pytest.mark.parametrize("n_proxies", [11, 20, 26, 60])
def test_several_proxies_per_label(n_proxies):
    """A proxy serves one label; points are spread evenly over the label's proxies."""
    assignment = assign_static(LABELS, n_proxies, rng())
    check_assignment(assignment, n_proxies, LABELS, all_used=True)
    assert (exclusive_label(assignment, LABELS, n_proxies) >= 0).all()
    for label in range(10):
        served = assignment[label == LABELS].bincount()
        served = served[served > 0]
        assert len(served) in (n_proxies // 10, n_proxies // 10 + 1)
        assert served.max() - served.min() <= 1
    assert torch.equal(assignment, assign_static(LABELS, n_proxies, rng()))


def test_a_proxy_more_goes_to_labels_that_have_a_point_for_it():
    """Whatever the order: labels 0 and 3 have one point and get one proxy, two others get two."""
    labels, given = torch.tensor([0, 1, 1, 1, 2, 2, 3, 4, 4]), set()
    for seed in range(20):
        assignment = assign_static(labels, 7, rng(seed))
        check_assignment(assignment, 7, labels, all_used=True)
        served = tuple(len(assignment[labels == label].unique()) for label in range(5))
        assert served[0] == served[3] == 1 and sum(served) == 7 and max(served) == 2
        given.add(served)
    assert len(given) == 3


def test_random_assignment_uses_every_proxy():
    served = assign_random(60, 7, rng()).bincount()
    assert len(served) == 7
    assert served.max() - served.min() <= 1


def test_nearest_assignment_is_exact():
    g = rng()
    points = torch.randn(50, 4, generator=g, dtype=torch.float64)
    proxies = torch.randn(9, 4, generator=g, dtype=torch.float64)
    expected = [
        min(range(9), key=lambda j: ((points[i] - proxies[j]) ** 2).sum().item()) for i in range(50)
    ]
    assert assign_nearest(points, proxies).tolist() == expected


def test_nearest_assignment_far_from_the_origin():
    points, proxies = torch.randn(50, 4, generator=rng()), torch.randn(9, 4, generator=rng(1))
    far_points, far_proxies = points + 3000, proxies + 3000
    gap = (far_points.double()[:, None] - far_proxies.double()).square().sum(2)
    assert torch.equal(assign_nearest(far_points, far_proxies), gap.argmin(1))


def test_nearest_assignment_takes_the_first_of_equals():
    assert assign_nearest(torch.zeros(2, 3), torch.ones(4, 3)).tolist() == [0, 0]


@pytest.mark.parametrize("n_proxies", [1, 4, 10, 23])
@pytest.mark.parametrize("random", [False, True])
def test_negatives_are_the_proxies_of_points_of_other_labels(n_proxies, random):
    """{assignment[z] for z in Z}, by the letter of Algorithm 1."""
    assignment = (
        assign_random(60, n_proxies, rng()) if random else assign_static(LABELS, n_proxies, rng())
    )
    mask = negative_mask(exclusive_label(assignment, LABELS, n_proxies), torch.arange(10))
    for label in range(10):
        expected = set(assignment[label != LABELS].tolist())
        assert set(mask[label].nonzero().flatten().tolist()) == expected


def test_unused_proxies_are_nobodys_negatives():
    exclusive = exclusive_label(torch.tensor([0, 0, 2]), torch.tensor([0, 1, 1]), 4)
    assert exclusive[[1, 3]].eq(UNUSED).all()
    assert negative_mask(exclusive, torch.tensor([0, 1])).int().tolist() == [
        [1, 0, 1, 0],
        [1, 0, 0, 0],
    ]


def test_negatives_of_triplets():
    assignment = torch.tensor([0, 1, 1, 3])
    mask = negative_mask_of_points(assignment, torch.tensor([[1, 2], [0, 3]]), 4)
    assert mask.int().tolist() == [[0, 1, 0, 0], [1, 0, 0, 1]]


def test_triplets_with_all_other_points_equal_labels():
    assignment = assign_random(60, 8, rng())
    every_z = torch.stack([(label != LABELS).nonzero().flatten() for label in range(10)])
    from_points = negative_mask_of_points(assignment, every_z, 8)
    from_labels = negative_mask(exclusive_label(assignment, LABELS, 8), torch.arange(10))
    assert torch.equal(from_points, from_labels)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: assign_by_label(torch.tensor([0, -1])), "expected 0 or more, got -1"),
        (lambda: assign_by_label(torch.tensor([0, 3])), r"these never occur: \[1, 2\]"),
        (lambda: assign_by_label(torch.tensor([0.0])), r"expected \(N,\) int64, got \(1,\)"),
        (lambda: assign_static(LABELS, 0, rng()), "n_proxies=0: expected 1 or more"),
        (lambda: assign_static(torch.tensor([0, 0, 0, 1]), 4, rng()), r"labels \[1\] have \[1\]"),
        (lambda: assign_random(5, 6, rng()), "n_proxies=6: expected 1 … 5"),
        (
            lambda: assign_nearest(torch.tensor([[0.0], [torch.nan]]), torch.ones(1, 1)),
            r"1 of 2 embeddings are not finite: \[1\]",
        ),
        (
            lambda: assign_nearest(torch.ones(1, 1), torch.tensor([[torch.inf]])),
            "1 of 1 proxies are not finite",
        ),
        (
            lambda: check_assignment(torch.tensor([0, -1]), 1, torch.tensor([0, 7])),
            r"1 points \(labels \[7\]\) have no proxy.*got \[-1\] at points \[1\]",
        ),
        (lambda: exclusive_label(torch.tensor([0, 2]), torch.tensor([0, 1]), 2), "got \\[2\\]"),
        (
            lambda: check_assignment(torch.tensor([0, 2]), 4, all_used=True),
            r"2 of 4 proxies are never assigned to a point: \[1, 3\]",
        ),
        (
            lambda: check_assignment(torch.tensor([0]), 1, torch.tensor([0, 0])),
            "assignment has 1 entries, but there are 2 labels",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()

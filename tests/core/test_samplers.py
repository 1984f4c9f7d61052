"""Which points make a batch."""

import itertools

import pytest
import torch

from proxylib.samplers import (
    anchor_batches,
    check_triplets,
    class_batches,
    draw_triplets,
    pair_batches,
    triplet_batches,
)

LABELS = torch.arange(10).repeat_interleave(6)[torch.randperm(60, generator=torch.Generator())]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def take(batches, n):
    return list(itertools.islice(batches, n))


def test_anchors_go_round_and_positives_are_even():
    batches = take(anchor_batches(LABELS, 20, rng()), 300)
    anchors, positives = (torch.cat([batch[i] for batch in batches]) for i in (0, 1))
    assert anchors.bincount().eq(100).all()  # 6,000 anchors, 60 points
    assert torch.equal(LABELS[anchors], LABELS[positives])
    assert (anchors != positives).all()
    of_first = positives[anchors == 0].bincount(minlength=60)
    assert (of_first > 0).sum() == 5
    assert of_first.max() < 40


def test_pairs_hold_every_positive():
    anchors, positives = next(pair_batches(LABELS, 12, rng()))
    assert torch.equal(anchors[:6], positives[6:])
    assert torch.equal(anchors[6:], positives[:6])
    assert torch.equal(LABELS[anchors], LABELS[positives])
    assert (anchors != positives).all()


def test_class_batches_hold_whole_classes():
    batches = take(class_batches(LABELS, 12, 4, rng()), 500)
    seen = torch.zeros(60)
    for (points,) in batches:
        labels = LABELS[points].view(3, 4)
        assert (labels == labels[:, :1]).all()
        assert len(labels[:, 0].unique()) == 3
        assert len(points.unique()) == 12
        seen[points] += 1
    assert seen.min() > 60  # 100 expected
    assert seen.max() < 140


def test_class_batches_with_unequal_classes():
    labels = torch.tensor([0, 0, 1, 1, 1, 1, 2, 2, 2])
    for (points,) in take(class_batches(labels, 6, 2, rng()), 50):
        assert labels[points].bincount().tolist() == [2, 2, 2]
        assert len(points.unique()) == 6


def test_drawn_triplets_obey_the_labels():
    triplets = draw_triplets(LABELS, 3000, 4, rng())
    x, y, z = triplets[:, 0], triplets[:, 1], triplets[:, 2:]
    assert torch.equal(LABELS[x], LABELS[y])
    assert (x != y).all()
    assert (LABELS[z] != LABELS[x, None]).all()
    assert x.bincount().eq(50).all()
    assert z[LABELS[x] == 0].flatten().bincount(minlength=60)[LABELS != 0].min() > 5
    assert torch.equal(triplets, draw_triplets(LABELS, 3000, 4, rng()))


def test_triplet_batches_go_round():
    triplets = draw_triplets(LABELS, 40, 3, rng())
    rows = [
        torch.cat([x[:, None], y[:, None], z], 1)
        for x, y, z in take(triplet_batches(triplets, 10, rng()), 4)
    ]
    assert sorted(torch.cat(rows).tolist()) == sorted(triplets.tolist())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: next(anchor_batches(LABELS, 61, rng())), "batch_size=61: expected 1 … 60"),
        (
            lambda: next(anchor_batches(torch.tensor([0, 0, 1]), 2, rng())),
            r"labels \[1\] have one point only",
        ),
        (lambda: next(pair_batches(LABELS, 5, rng())), "batch_size=5: expected an even number"),
        (lambda: next(class_batches(LABELS, 10, 4, rng())), "batch_size=10, per_class=4"),
        (lambda: next(class_batches(LABELS, 4, 4, rng())), "expected 2 … 10 classes"),
        (lambda: next(class_batches(LABELS, 44, 4, rng())), "expected 2 … 10 classes"),
        (lambda: next(class_batches(LABELS, 28, 7, rng())), "fewer than per_class=7"),
        (lambda: draw_triplets(LABELS, 5, 0, rng()), "n_negatives=0: expected 1 or more"),
        (lambda: draw_triplets(torch.zeros(4).long(), 5, 1, rng()), "one label only"),
        (lambda: next(triplet_batches(torch.zeros(3, 3).long(), 4, rng())), "batch_size=4"),
        (lambda: check_triplets(torch.zeros(3, 2).long(), 5), r"got \(3, 2\)"),
        (lambda: check_triplets(torch.tensor([[0, 1, 5]]), 5), r"row 0: \[0, 1, 5\]"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()

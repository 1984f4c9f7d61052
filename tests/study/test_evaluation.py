"""Recall, NMI and neighbours of a data set, with and without queries of its own."""

import dataclasses

import pytest
import torch

from proxylib.datasets import Dataset
from proxylib.retrieval import nearest_neighbors, nmi, recall_at_k
from proxylib.study.evaluation import quality, search


@pytest.fixture
def made():
    """4 classes of 6 images with embeddings that mix the classes a little."""
    labels = torch.arange(24) % 4
    images = torch.zeros(24, 1, 8, 8, dtype=torch.uint8)
    noise = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    return Dataset("made", images, labels, tuple("abcd")), labels[:, None] + noise


def test_without_queries_of_its_own_all_images_are_queries_and_gallery(made):
    dataset, x = made
    labels = dataset.labels
    assert quality(x, dataset) == recall_at_k(x, labels) | {"nmi": nmi(x, labels)}
    assert quality(x, dataset, clusters=False) == recall_at_k(x, labels)
    queries, found, distances = search(x, dataset, 5)
    assert queries.tolist() == list(range(24))
    neighbors, expected = nearest_neighbors(x, 5)
    assert torch.equal(found, neighbors) and torch.equal(distances, expected)
    assert search(x, dataset, 99)[1].shape == (24, 23)


def test_queries_are_searched_for_in_the_gallery_and_they_alone_are_clustered(made):
    dataset, x = made
    asked = torch.arange(24) % 3 == 1
    dataset, labels = dataclasses.replace(dataset, queries=asked), dataset.labels
    queries, found, distances = search(x, dataset, 4)
    assert queries.tolist() == [i for i in range(24) if i % 3 == 1]
    gallery = [i for i in range(24) if i % 3 != 1]
    for query, row, values in zip(queries.tolist(), found.tolist(), distances, strict=True):
        by_hand = sorted(gallery, key=lambda i: float((x[i] - x[query]).norm()))
        assert row == by_hand[:4]
        torch.testing.assert_close(values, (x[row] - x[query]).norm(dim=1))
    hit = labels[found] == labels[queries][:, None]
    result = quality(x, dataset)
    for k in (1, 2, 4):
        assert result[f"recall_at_{k}"] == hit[:, :k].any(1).double().mean().item()
    assert result["nmi"] == nmi(x[asked], labels[asked])
    assert "nmi" not in quality(x, dataset, clusters=False)
    assert search(x, dataset, 99)[1].shape == (8, 16)


def test_a_twin_among_the_queries_does_not_count(made):
    """As with bursts: two photographs of one moment, both of them queries."""
    dataset, x = made
    asked = torch.zeros(24, dtype=torch.bool)
    asked[[0, 4]] = True  # both of class a
    x = x.index_fill(0, torch.tensor([0, 4]), 99.0)
    x[23] = 98.0  # the image of the gallery next to them, of class d
    assert quality(x, dataset, clusters=False)["recall_at_1"] > 0
    split = dataclasses.replace(dataset, queries=asked)
    assert quality(x, split, clusters=False)["recall_at_1"] == 0

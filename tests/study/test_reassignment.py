"""Clusters and the oracle, and what watching them gives."""

import dataclasses

import numpy as np
import pytest
import torch

from proxylib.losses import nca_loss
from proxylib.proxies import assign_random
from proxylib.study.occupancy import occupancy
from proxylib.study.reassignment import ClusterProxyLoss, OracleProxyLoss
from proxylib.study.runs import RunConfig, fingerprint, run, sweep

LABELS = torch.arange(6).repeat_interleave(5)
TRIPLETS = torch.tensor([[0, 1, 9], [9, 8, 20], [20, 21, 2]])


def rng():
    return torch.Generator().manual_seed(0)


def groups(n=3):
    """Points close to n axes, two labels of five at each of three."""
    centers = torch.eye(8)[LABELS % n]
    return 4 * (centers + 0.01 * torch.randn(30, 8, generator=rng()))


def objective(kind, n_proxies=3, **options):
    given = {"triplets": TRIPLETS, "n_proxies": n_proxies, "loss": nca_loss} | options
    return kind(assign_random(30, n_proxies, rng()), 8, rng(), **given)


def test_clusters_put_every_proxy_among_points():
    clusters = objective(ClusterProxyLoss)
    clusters.reassign(groups())
    assert len(clusters.assignment.unique()) == 3
    for proxy in range(3):
        assert len((LABELS[clusters.assignment == proxy] % 3).unique()) == 1
    cosine = torch.nn.functional.cosine_similarity(
        clusters.proxies[clusters.assignment], torch.eye(8)[LABELS % 3]
    )
    assert cosine.min() > 0.999
    lengths = clusters.proxies.norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((3,), 8**0.5))


def test_clusters_with_free_norms_are_the_centres_themselves():
    clusters = objective(ClusterProxyLoss, proxy_norm=None, embedding_norm=None)
    clusters.reassign(groups())
    means = torch.stack([groups()[clusters.assignment == p].mean(0) for p in range(3)])
    torch.testing.assert_close(clusters.proxies.detach(), means)


def test_clusters_come_again_at_every_interval_and_repeat():
    clusters = objective(ClusterProxyLoss, reassign_every=2)
    clusters.before_step(1, groups)
    start = clusters.proxies.detach().clone()
    clusters.proxies.data.zero_().add_(torch.arange(8.0))
    clusters.before_step(2, groups)
    assert torch.equal(clusters.proxies[0], torch.arange(8.0))
    clusters.before_step(3, groups)
    assert torch.equal(clusters.proxies, start)


def test_the_oracle_keeps_labels_together_at_their_nearest_proxy():
    oracle = objective(OracleProxyLoss, n_proxies=4, truth=LABELS)
    assert oracle.labels is None
    with torch.no_grad():
        oracle.proxies[:3] = torch.eye(8)[:3]
        oracle.proxies[3] = -torch.ones(8)
    points = groups()
    points[0] = 4 * torch.eye(8)[1]  # the nearest proxy of this one is not that of its label
    oracle.reassign(points)
    assert torch.equal(oracle.assignment, LABELS % 3)
    oracle(points[TRIPLETS[:, 0]], *TRIPLETS[:, :2].T, TRIPLETS[:, 2:])
    assert torch.equal(oracle.assignment, LABELS % 3)


SMALL = {
    "data_options": {"n_classes": 8, "n_images": 4},
    "method": "dynamic",
    "steps": 6,
    "batch_size": 8,
    "eval_every": 3,
}


def small(**options):
    given = {"ratio": 0.5, "n_triplets": 50, "n_triplet_negatives": 3, "reassign_every": 2}
    return RunConfig(**SMALL, options={**given, **options})


def test_occupancy_is_that_of_the_run(home):
    configs = [small(assignment=kind) for kind in ("dynamic", "clusters", "oracle")]
    seen = sweep(configs, jobs=1, progress=False, work=occupancy)
    for config, one in zip(configs, seen, strict=True):
        same = run(config)
        assert np.array_equal(one.result.embeddings, same.embeddings)
        assert np.array_equal(one.points[-1], np.bincount(same.assignment, minlength=2))
        table = one.table()
        assert table["step"].tolist() == [3, 6]
        assert table["recall_at_1"].tolist() == same.history["recall_at_1"].tolist()[1:]
        assert one.points.shape == (2, 2) and (one.points.sum(1) == 16).all()
        used = same.history["proxies_in_use"][1:]
        assert np.allclose(table["dead"], 1 - used / 2)
        assert np.allclose(table["largest"], one.points.max(1) / 16)
        assert table["together"].between(0.5, 1).all()
    assert seen[2].table()["together"].eq(1).all()
    assert seen[0].table()["together"].lt(1).any()


def test_occupancy_comes_from_the_cache_and_is_true_to_its_key(home, monkeypatch):
    config = small()
    [first] = sweep([config], jobs=1, progress=False, work=occupancy)
    monkeypatch.setattr("proxylib.study.occupancy.execute", None)
    [again] = sweep([config], jobs=1, progress=False, work=occupancy)
    assert np.array_equal(first.points, again.points)
    with pytest.raises(RuntimeError, match="restart the kernel"):
        occupancy(config, fingerprint(dataclasses.replace(config, method="npairs", options={})))


def test_an_unknown_assignment_names_those_there_are():
    with pytest.raises(ValueError, match="expected one of static, dynamic, clusters, oracle"):
        small(assignment="nearest")

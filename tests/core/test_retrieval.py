import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from proxylib import assign_nearest, embed, nearest_neighbors, nmi, recall_at_k, retrieval
from proxylib.study.experiments import raw_pixels


def points(n, dim=5, seed=0):
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed))


def slow_neighbors(queries, gallery, k, itself):
    result = []
    for i, q in enumerate(queries):
        d = ((gallery - q) ** 2).sum(1)
        order = [j for j in np.argsort(d.numpy(), kind="stable") if not (itself and j == i)]
        result.append(order[:k])
    return torch.tensor(np.array(result))


@pytest.fixture(params=[(1, 1), (4, 8), (16, 512)])
def tiles(request, monkeypatch):
    """Points in a group, and in a tile."""
    for name, size in zip(("GROUP", "TILE"), request.param, strict=True):
        monkeypatch.setattr(retrieval, name, size)


def test_neighbors_equal_the_loop_whatever_the_tiles(tiles):
    x, y = points(40), points(30, seed=1)
    index, distance = nearest_neighbors(x, 6)
    assert torch.equal(index, slow_neighbors(x, x, 6, True))
    torch.testing.assert_close(distance[:, 0], (x - x[index[:, 0]]).norm(dim=1))
    index, _ = nearest_neighbors(x, 30, gallery=y)
    assert torch.equal(index, slow_neighbors(x, y, 30, False))


def test_ties_go_to_the_smaller_index():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):  # integers: distances are exact, and many are equal
        x = torch.randint(0, 3, (40, 2), generator=generator).float()
        for k in (1, 3, 8, 39):
            index, _ = nearest_neighbors(x, k)
            assert torch.equal(index, slow_neighbors(x, x, k, True))


@pytest.mark.parametrize(("n", "dim"), [(23, 8), (32, 64), (17, 64), (17, 5)])
def test_equal_points_are_ties_whatever_the_tiles(n, dim, tiles):
    """Duplicates of anything, not only of integers, also where a tile holds a single query."""
    x = points(n, dim).repeat(2, 1)
    index, distance = nearest_neighbors(x[:n], 2 * n, gallery=x)
    pairs = index.view(n, n, 2)
    assert torch.equal(pairs[:, :, 0] + n, pairs[:, :, 1])
    assert torch.equal(distance[:, ::2], distance[:, 1::2])
    assert torch.equal(pairs[:, 0, 0], torch.arange(n))
    itself, _ = nearest_neighbors(x, 1)
    assert torch.equal(itself.flatten(), torch.arange(2 * n).roll(n))


def test_points_far_from_the_origin_keep_their_order():
    x = points(40) + 3000
    index, _ = nearest_neighbors(x, 6)
    assert torch.equal(index, slow_neighbors(x.double(), x.double(), 6, True))
    index, _ = nearest_neighbors(x[:7], 6, gallery=x[7:])
    assert torch.equal(index, slow_neighbors(x[:7].double(), x[7:].double(), 6, False))


def in_tiles(monkeypatch, group, tile, block, *arguments):
    for name, value in (("GROUP", group), ("TILE", tile), ("BLOCK", block)):
        monkeypatch.setattr(retrieval, name, value)
    return nearest_neighbors(*arguments)


@pytest.mark.parametrize("kind", ["random", "duplicates", "integers", "far", "zeros", "outlier"])
@pytest.mark.parametrize("n", [15, 70, 1100])
def test_neighbors_are_those_of_all_distances_to_the_bit(kind, n, monkeypatch):
    """Distances of differences, all of them, sorted: the same bits, in whatever tiles."""
    x = points(n, 16)
    if kind == "duplicates":  # across groups and tiles
        x = x[torch.randint(0, n // 5, (n,), generator=torch.Generator().manual_seed(1))]
    elif kind == "integers":
        x = x.round().to(torch.int32)
    elif kind == "far":
        x = x + 1000
    elif kind == "zeros":
        x[::3] = 0
    elif kind == "outlier":
        x[7] *= 1e6
    real = x.float()
    for k in (1, 8, n - 1):
        for arguments, d in (
            ((x, k), (real[:, None] - real).norm(dim=2).fill_diagonal_(torch.inf)),
            ((x[:9], k, x), (real[:9, None] - real).norm(dim=2)),
        ):
            distance, index = d.sort(dim=1, stable=True)
            for sizes in ((16, 512, 128), (2, 8, 3), (8, 64, 1)):
                near, value = in_tiles(monkeypatch, *sizes, *arguments)
                assert torch.equal(near, index[:, :k])
                assert torch.equal(value, distance[:, :k])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_neighbors_equal_a_loop_in_float64(dtype):
    """The only points that may come in another order are those that differ by rounding."""
    x = functional.normalize(points(700, 64)).to(dtype)
    index, distance = nearest_neighbors(x, 8)
    assert distance.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    exact = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    expected = exact.fill_diagonal_(torch.inf).sort(dim=1, stable=True)
    tolerance = 1e-14 if dtype == torch.float64 else 1e-6
    torch.testing.assert_close(
        exact.gather(1, index), expected.values[:, :8], rtol=0, atol=tolerance
    )
    assert (index == expected.indices[:, :8]).float().mean() > 0.999


def test_what_a_product_cannot_tell_apart_is_not_lost():
    """Neighbours nearer to each other than the product is exact, in different groups."""
    x = functional.normalize(points(1, 64)) + 1e-5 * points(600, 64, seed=1)
    x = torch.cat([x, -x])
    distance = (x[:600, None] - x[:600]).norm(dim=2).fill_diagonal_(torch.inf)
    index, value = nearest_neighbors(x, 3)
    assert torch.equal(value[:600], distance.sort(dim=1, stable=True).values[:, :3])
    assert torch.equal(index[:600], distance.sort(dim=1, stable=True).indices[:, :3])


def test_the_query_is_left_out_by_index_so_its_duplicate_counts():
    x = torch.tensor([[0.0], [0.0], [9.0]])
    index, distance = nearest_neighbors(x, 1)
    assert index.flatten().tolist() == [1, 0, 0]
    assert distance[0, 0] == 0


def test_neighbors_refuse_k_out_of_range():
    with pytest.raises(ValueError, match="k=3: expected 1 … 2"):
        nearest_neighbors(points(3), 3)
    with pytest.raises(ValueError, match="k=0: expected 1 … 4"):
        nearest_neighbors(points(3), 0, gallery=points(4))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (points(5) * math.nan, r"5 of 5 \w+( points)? are not finite: \[0, 1, 2, 3, 4\]"),
        (points(5)[0], r"expected \(N, D\) float, got \(5,\) torch.float32"),
        (points(5)[:0], r"expected \(N, D\) float, got \(0, 5\)"),
    ],
)
def test_what_are_no_points_is_refused(bad, message):
    labels = torch.zeros(5, dtype=torch.int64)
    for call in (
        lambda: nearest_neighbors(bad, 1),
        lambda: nearest_neighbors(points(3), 1, bad),
        lambda: assign_nearest(bad, points(3)),
        lambda: assign_nearest(points(3), bad),
        lambda: recall_at_k(bad, labels),
        lambda: nmi(bad, labels),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_measures_want_a_label_for_each_point_and_some_neighbours():
    for measure in (recall_at_k, nmi):
        with pytest.raises(ValueError, match=r"each of the 5 embeddings, got labels \(4,\)"):
            measure(points(5), torch.zeros(4, dtype=torch.int64))
    for ks in ((), (0,), (1, -1)):
        with pytest.raises(ValueError, match=r"ks=\(.*\): expected one or more"):
            recall_at_k(points(5), torch.zeros(5, dtype=torch.int64), ks)


def test_recall_by_hand():
    x = torch.tensor([[0.0], [1.0], [1.9], [5.0], [5.5]])
    labels = torch.tensor([0, 1, 1, 0, 2])
    # nearest others: 0→1✗, 1→2✓, 2→1✓, 3→4✗, 4→3✗(label 2 is alone)
    recall = recall_at_k(x, labels, ks=(1, 2, 4, 8))
    assert recall["recall_at_1"] == pytest.approx(2 / 5)
    assert recall["recall_at_4"] == recall["recall_at_8"] == pytest.approx(4 / 5)


def test_recall_in_a_gallery_by_hand():
    x, labels = torch.tensor([[0.0], [2.0], [5.0]]), torch.tensor([0, 1, 7])
    gallery = torch.tensor([[0.4], [1.8], [0.5], [2.5]]), torch.tensor([1, 1, 0, 0])
    # nearest: 0.0 → 0.4✗ 0.5✓, 2.0 → 1.8✓, 5.0 → none is of label 7
    recall = recall_at_k(x, labels, gallery=gallery)
    assert recall["recall_at_1"] == pytest.approx(1 / 3)
    assert recall["recall_at_2"] == recall["recall_at_8"] == pytest.approx(2 / 3)
    # a query that is in the gallery too is found there: it is another point
    assert recall_at_k(x, labels, (1,), (x, labels)) == {"recall_at_1": 1.0}


def test_recall_in_a_gallery_of_one():
    x, labels = points(6), torch.tensor([0, 0, 0, 1, 1, 1])
    recall = recall_at_k(x, labels, gallery=(points(1), torch.tensor([1])))
    assert set(recall.values()) == {0.5}


def test_a_collapsed_embedding_scores_no_better_than_chance():
    labels = torch.arange(20).repeat_interleave(5)
    assert recall_at_k(torch.ones(100, 4), labels, ks=(1,))["recall_at_1"] <= 1 / 20


def test_nmi_of_separate_and_of_mixed_clusters():
    labels = torch.arange(4).repeat_interleave(10)
    apart = 100.0 * labels[:, None].float() + 0.01 * points(40, 1)
    assert nmi(apart, labels) == pytest.approx(1.0)
    assert nmi(points(40, 3), labels) < 0.5
    assert nmi(apart, labels, seed=3) == nmi(apart, labels[torch.arange(40)], seed=3)


def test_nmi_is_a_number_of_python():
    """A checkpoint holds it, and whoever reads checkpoints unpickles nothing else."""
    assert type(nmi(points(6), torch.arange(6) // 3)) is float


def test_nmi_without_scikit_learn_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(
        ImportError, match=r"nmi needs scikit-learn: pip install 'proxylib\[study\]'"
    ):
        nmi(points(4), torch.tensor([0, 0, 1, 1]))


class Doubling(nn.Module):
    def __init__(self, value=2.0):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(value))

    def forward(self, images):
        assert not self.training
        return self.factor * images.flatten(1).float()


def some_images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 255, (10, 1, 2, 2), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("training", [True, False])
def test_embed_keeps_order_mode_and_dtype(training):
    images = some_images()
    model = Doubling().train(training)
    whole = embed(model, images, normalize=False, batch_size=3)
    assert torch.equal(whole, 2 * images.flatten(1).float())
    assert model.training == training
    assert not whole.requires_grad
    torch.testing.assert_close(embed(model, images).norm(dim=1), torch.ones(10))


def test_embed_takes_batches_or_whatever_splits():
    """A list, a generator, or something that is no tensor and reads its parts itself."""
    images, sizes = some_images(), []

    class Files:
        def split(self, size):
            sizes.append(size)
            return iter(images.split(size))

    whole = embed(Doubling(), images)
    parts = [images[:1], images[1:7], images[7:]]
    assert torch.equal(embed(Doubling(), parts), whole)
    assert torch.equal(embed(Doubling(), (part for part in parts)), whole)
    assert torch.equal(embed(Doubling(), Files(), batch_size=4), whole)
    assert sizes == [4]


def test_embed_never_sees_more_than_a_batch():
    sizes, model = [], Doubling()
    model.register_forward_pre_hook(lambda module, inputs: sizes.append(len(inputs[0])))
    embed(model, some_images(), batch_size=4)
    assert sizes == [4, 4, 2]


def test_raw_pixels_are_shrunk_to_a_side():
    small = some_images()
    assert torch.equal(raw_pixels(small), small.flatten(1).float())
    large = torch.arange(300 * 3 * 4 * 4).view(300, 3, 4, 4).float()  # more than one part
    blocks = large.view(300, 3, 2, 2, 2, 2).mean((3, 5))  # of 2 × 2 pixels
    torch.testing.assert_close(raw_pixels(large, side=2), blocks.flatten(1))


def test_embed_refuses_a_diverged_model():
    with pytest.raises(ValueError, match="3 of 3 embeddings are not finite"):
        embed(Doubling(float("nan")), torch.ones(3, 1, 2, 2))


def test_memory_of_neighbors_is_bounded():
    """20,000 points: a matrix of all distances would be 1.6 GB."""
    code = """
import resource
import torch
from proxylib import nearest_neighbors
torch.set_num_threads(1)
x = torch.randn(20_000, 16)
nearest_neighbors(x[:2000], 9)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = peak()
nearest_neighbors(x, 9)
print(peak() - before)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 150_000 * (1024 if sys.platform == "darwin" else 1)  # kB, or bytes

"""Images of the batches: from memory or from files, read ahead or not."""

from itertools import islice

import pytest
import torch

from proxylib import retrieval
from proxylib.baselines import Softmax
from proxylib.datasets import ImageFiles
from proxylib.models import ConvNet
from proxylib.study.runs import distributed
from proxylib.study.runs.augmentation import Augmentation
from proxylib.study.runs.loading import Batches, embed, read

LABELS = torch.arange(6).repeat_interleave(5)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def files(home, image_tree):
    return ImageFiles(sorted(image_tree.rglob("*.png")), 16)


def batches(images, workers=0, size=4, source=None, **augment):
    torch.manual_seed(0)
    objective = Softmax(LABELS, 8)
    change = Augmentation(**augment)
    return Batches(objective, images, size, source or generator(), change, workers=workers)


def taken(stream, n):
    return [(batch, pixels) for batch, pixels in islice(stream, n)]


def same(a, b):
    for (batch, pixels), (other, others) in zip(a, b, strict=True):
        assert torch.equal(pixels, others)
        assert all(torch.equal(x, y) for x, y in zip(batch, other, strict=True))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_files_are_read_in_the_order_asked_for(files, workers):
    wanted = [torch.tensor([7, 7, 0]), torch.tensor([29]), torch.arange(10, 20)]
    whole = files[:]
    assert len(whole.unique(dim=0)) > 25
    for images in (files, whole):
        found = list(read(images, iter(wanted), workers))
        assert len(found) == 3
        assert all(torch.equal(a, whole[b]) for a, b in zip(found, wanted, strict=True))


def test_reading_ahead_draws_nothing_from_torch_itself(files):
    """Dropout draws from there, and must not depend on who reads."""
    before = torch.get_rng_state()
    list(read(files, [torch.arange(3)] * 4, workers=2))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("normalize", [True, False])
def test_embeddings_do_not_depend_on_who_reads(files, normalize):
    torch.manual_seed(0)
    model = ConvNet(3, 16, 8).normalize_like(files)
    expected = retrieval.embed(model, files[:], normalize)
    assert model.training
    for images, workers in ((files, 0), (files, 2), (files[:], 0)):
        torch.testing.assert_close(embed(model, images, normalize, workers), expected)
    assert model.training


def test_a_large_set_is_embedded_in_order(files):
    images = torch.randint(256, (600, 1, 16, 16), generator=generator(), dtype=torch.uint8)
    torch.manual_seed(0)
    model = ConvNet(1, 16, 8).normalize_like(images)
    whole = retrieval.embed(model, images, normalize=False, batch_size=600)
    torch.testing.assert_close(embed(model, images, normalize=False), whole)


def test_the_images_are_those_of_the_points(files):
    whole = files[:]
    for images in (files, whole):
        for (points, *_), pixels in taken(batches(images), 9):
            assert torch.equal(pixels, whole[points])


def test_workers_change_nothing(files):
    expected = taken(batches(files, affine=True, flip=True), 6)
    for workers in (1, 2):
        same(taken(batches(files, workers, affine=True, flip=True), 6), expected)


def test_files_have_an_order_of_their_own_for_it_is_drawn_ahead(files):
    """So the order does not depend on what the augmentation draws in between; in memory it does."""
    orders = []
    for images in (files, files[:]):
        plain, changed = (taken(batches(images, flip=flip), 12) for flip in (False, True))
        pairs = zip(plain, changed, strict=True)
        orders.append(all(torch.equal(a[0], b[0]) for (a, _), (b, _) in pairs))
    assert orders == [True, False]


@pytest.mark.parametrize("kind", ["memory", "files", "ahead"])
def test_batches_go_on_from_the_last_one_taken(files, kind):
    images, workers = (files[:] if kind == "memory" else files), 2 * (kind == "ahead")
    source = generator()
    stream = batches(images, workers, source=source, affine=True)
    going = iter(stream)
    taken(going, 9)
    state, drawn = stream.state_dict(), source.get_state()
    state = {name: value.clone() for name, value in state.items()}
    expected = taken(going, 5)
    source = generator(99)
    again = batches(images, workers, source=source, affine=True)
    source.set_state(drawn)
    again.load_state_dict(state)
    same(taken(again, 5), expected)


def test_each_process_reads_its_part_of_every_batch(files, monkeypatch):
    whole = taken(batches(files, affine=True), 5)
    monkeypatch.setattr(distributed, "size", lambda: 2)
    parts = []
    for rank in (0, 1):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(taken(batches(files, affine=True), 5))
    for (batch, pixels), *both in zip(whole, *parts, strict=True):
        assert all(torch.equal(batch[0], other[0]) for other, _ in both)
        assert [len(part) for _, part in both] == [2, 2]
        torch.testing.assert_close(torch.cat([part for _, part in both]), pixels)
    with pytest.raises(ValueError, match="batch_size=5: expected a multiple of the 2 processes"):
        batches(files, size=5)

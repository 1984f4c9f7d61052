import pytest
import torch
from torch import nn

from proxylib.datasets import Dataset
from proxylib.models import ConvNet
from proxylib.objectives import ProxyLoss
from proxylib.training import random_affine, train


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(n_classes=4, per_class=6):
    labels = torch.arange(n_classes).repeat_interleave(per_class)
    noise = torch.randint(0, 30, (len(labels), 1, 16, 16), generator=generator())
    images = (noise + 50 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    return Dataset("tiny", images, labels, tuple(map(str, range(n_classes))))


def parts(dataset, lr=1e-2):
    torch.manual_seed(0)
    model = ConvNet(1, 16, dim=8).normalize_like(dataset.images)
    objective = ProxyLoss(dataset.labels, 8, generator(), labels=dataset.labels)
    both = [*model.parameters(), *objective.parameters()]
    return model, objective, torch.optim.Adam(both, lr=lr)


def test_random_affine_is_the_identity_at_strength_zero():
    images = tiny().images
    same = random_affine(images, generator(), degrees=0, shear=0, scale=0, shift=0)
    torch.testing.assert_close(same, images.float(), atol=1e-3, rtol=0)


def test_random_affine_treats_each_image_by_itself_and_continues_the_border():
    images = torch.full((8, 1, 16, 16), 255, dtype=torch.uint8)
    assert random_affine(images, generator()).min() > 254.9  # no black corners
    images[:, :, 6:9, 4:12] = 0
    changed = random_affine(images, generator())
    assert len({tuple(image.flatten().tolist()) for image in changed}) == 8
    assert torch.equal(changed, random_affine(images, generator()))


def test_random_affine_shift_moves_by_the_stated_share():
    images = torch.zeros(400, 1, 33, 33)
    images[:, :, 16, 16] = 1000.0
    moved = random_affine(images, generator(), degrees=0, shear=0, scale=0, shift=0.1)
    weight = moved / moved.sum((2, 3), keepdim=True)
    x = (weight.sum(2).squeeze(1) * torch.arange(33)).sum(1)
    assert 0.08 < (x - 16).std() / 33 < 0.1  # 0.1, less what the cut at 2σ takes


def test_training_learns_and_writes_a_tidy_history():
    dataset = tiny()
    model, objective, optimizer = parts(dataset)
    before = objective.proxies.detach().clone()
    table = train(
        model,
        objective,
        dataset,
        optimizer,
        steps=50,
        batch_size=8,
        generator=generator(),
        evaluate=lambda step: {"twice": 2.0 * step},
        eval_every=20,
    )
    counts = ["proxies_in_use", "anchors_without_negative"]
    assert list(table) == ["step", "samples", "seconds", "loss", *counts, "twice"]
    assert table["step"].tolist() == [0, 20, 40, 50]
    assert table["samples"].tolist() == [0, 160, 320, 400]
    assert table["twice"].tolist() == [0, 40, 80, 100]
    assert table["seconds"].is_monotonic_increasing
    assert table["loss"].isna().tolist() == [True, False, False, False]
    assert table["loss"].iloc[-1] < table["loss"].iloc[1]
    assert not torch.equal(before, objective.proxies)


def test_zero_steps_only_evaluate():
    dataset = tiny()
    table = train(
        *parts(dataset)[:2],
        dataset,
        torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1),
        steps=0,
        batch_size=8,
        generator=generator(),
        evaluate=lambda step: {"seen": 1.0},
    )
    assert table["step"].tolist() == [0]


def test_a_loss_that_is_not_finite_stops_the_run():
    dataset = tiny()
    model, objective, optimizer = parts(dataset)
    with torch.no_grad():
        objective.proxies.fill_(float("inf"))
    with pytest.raises(FloatingPointError, match="at step 1: lower the learning rates"):
        train(model, objective, dataset, optimizer, steps=5, batch_size=8, generator=generator())


def test_network_refuses_images_smaller_than_its_poolings():
    with pytest.raises(ValueError, match="size=8: 4 poolings need at least 16 pixels"):
        ConvNet(1, 8)


@pytest.mark.parametrize(("channels", "size"), [(1, 16), (3, 33), (1, 64)])
def test_network_takes_other_sizes_and_channels(channels, size):
    images = torch.randint(0, 255, (2, channels, size, size), dtype=torch.uint8)
    assert ConvNet(channels, size, dim=7).normalize_like(images)(images).shape == (2, 7)

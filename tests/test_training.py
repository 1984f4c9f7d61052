import pytest
import torch
from torch import nn

from proxylib.augmentation import Augmentation, random_affine, random_crop
from proxylib.datasets import Dataset
from proxylib.models import ConvNet
from proxylib.objectives import ProxyLoss
from proxylib.training import SCHEDULES, train


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


def test_random_crop_cuts_from_everywhere_and_stays_inside():
    places = torch.arange(36).view(1, 1, 6, 6).expand(500, -1, -1, -1)
    cut = random_crop(places, 4, generator(), total=500)
    assert set(cut[:, 0, 0, 0].tolist()) == {0, 1, 2, 6, 7, 8, 12, 13, 14}
    assert torch.equal(cut[:, 0, 3, 3] - cut[:, 0, 0, 0], torch.full((500,), 21))
    with pytest.raises(ValueError, match="crop=7: the images are only 6×6 pixels"):
        random_crop(places, 7, generator(), total=500)


def test_parts_of_a_batch_are_changed_as_the_whole():
    images, change = tiny().images, Augmentation(affine=True, crop=12, flip=True)
    whole = change(images, generator(), len(images))
    parts = [
        change(images[part], generator(), len(images), part) for part in (slice(0, 9), slice(9, 24))
    ]
    torch.testing.assert_close(torch.cat(parts), whole)
    assert Augmentation()(images, generator(), len(images)) is images


def test_about_half_are_mirrored():
    images = torch.arange(4.0).view(1, 1, 1, 4).expand(1000, -1, -1, -1)
    changed = Augmentation(flip=True)(images, generator(), 1000)
    first = changed[:, 0, 0, 0]
    assert set(first.tolist()) == {0.0, 3.0} and 0.45 < (first == 3).double().mean() < 0.55


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_computes_in_it_and_learns(precision):
    dataset = tiny()
    model, objective, optimizer = parts(dataset)
    seen = []
    model.features[0].register_forward_hook(lambda m, x, y: seen.append((m.training, y.dtype)))
    table = train(
        model,
        objective,
        dataset,
        optimizer,
        steps=30,
        batch_size=8,
        generator=generator(),
        precision=precision,
        eval_every=15,
    )
    assert {d for training, d in seen if training} == {getattr(torch, precision)}
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert table["loss"].iloc[-1] < table["loss"].iloc[1]


def test_schedules_reach_the_optimizer_and_gradients_are_clipped():
    dataset = tiny()
    model, objective, _ = parts(dataset)
    groups = [{"params": model.parameters(), "lr": 0.1}, {"params": [objective.proxies], "lr": 1.0}]
    optimizer = torch.optim.SGD(groups)
    rates, norms, step = [], [], optimizer.step

    def watched():
        rates.append([group["lr"] for group in optimizer.param_groups])
        norms.append(nn.utils.get_total_norm([p.grad for p in model.parameters()]).item())
        step()

    optimizer.step = watched
    train(
        model,
        objective,
        dataset,
        optimizer,
        steps=4,
        batch_size=8,
        generator=generator(),
        schedule="linear",
        clip_grad=0.01,
    )
    assert rates == [[pytest.approx(0.1 * f), pytest.approx(f)] for f in (1, 0.75, 0.5, 0.25)]
    assert max(norms) <= 0.01001
    assert SCHEDULES["cosine"](0) == 1 and SCHEDULES["cosine"](1) == pytest.approx(0)


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

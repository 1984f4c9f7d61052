"""The study's loop around Algorithm 1: history, evaluations, optimiser, schedule, precision."""

import dataclasses
import math
import time
from functools import partial

import pytest
import torch
from torch import nn

from proxylib.baselines import NPairs
from proxylib.datasets import Dataset
from proxylib.losses import mean_triplet_loss, nca_loss
from proxylib.models import ConvNet
from proxylib.objectives import ProxyLoss
from proxylib.study.runs import fit as module
from proxylib.study.runs.config import PRECISIONS, RunConfig
from proxylib.study.runs.execution import Machine
from proxylib.study.runs.fit import build_optimizer, fit
from proxylib.study.runs.loading import embed

SKIPPED = pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny(n_classes=4, per_class=6):
    labels = torch.arange(n_classes).repeat_interleave(per_class)
    noise = torch.randint(0, 30, (len(labels), 1, 16, 16), generator=generator())
    images = (noise + 50 * labels.view(-1, 1, 1, 1)).to(torch.uint8)
    return Dataset("tiny", images, labels, tuple(map(str, range(n_classes))))


def settings(**changes):
    return RunConfig(**{"batch_size": 8, "eval_every": 0, "lr": 1e-2, "proxy_lr": 1e-2} | changes)


def parts(loss=nca_loss):
    dataset = tiny()
    torch.manual_seed(0)
    model = ConvNet(1, 16, dim=8).normalize_like(dataset.images)
    objective = ProxyLoss(dataset.labels, 8, generator(), labels=dataset.labels, loss=loss)
    return model, objective, dataset


class Small(nn.Module):
    """A network that takes images of any size; remembers those it was trained on."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen = nn.Linear(4, 8), []

    def forward(self, images):
        if self.training:
            self.seen.append(images)
        return self.layer(nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(1))


# history


def test_training_learns_and_writes_a_tidy_history():
    model, objective, dataset = parts()
    before = objective.proxies.detach().clone()
    table = fit(
        settings(steps=50, eval_every=20),
        Machine(),
        model,
        objective,
        dataset,
        generator(),
        lambda step: {"twice": 2.0 * step},
    )
    counts = ["proxies_in_use", "anchors_without_negative"]
    assert list(table) == ["step", "samples", "seconds", "loss", *counts, "twice"]
    assert table["step"].tolist() == [0, 20, 40, 50]
    assert table["samples"].tolist() == [0, 160, 320, 400]
    assert table["twice"].tolist() == [0, 40, 80, 100]
    assert table["seconds"].is_monotonic_increasing and table["seconds"][0] == 0
    assert table["loss"].isna().tolist() == [True, False, False, False]
    assert table["loss"].iloc[-1] < table["loss"].iloc[1]
    assert not torch.equal(before, objective.proxies)


def test_the_loss_is_the_mean_since_the_last_evaluation():
    each, some, ends = (
        fit(settings(steps=7, eval_every=every), Machine(), *parts(), generator())
        for every in (1, 3, 0)
    )
    losses = each["loss"].tolist()[1:]
    assert len(set(losses)) == 7
    means = [sum(losses[:3]) / 3, sum(losses[3:6]) / 3, losses[6]]
    assert some["step"].tolist() == [0, 3, 6, 7] and ends["step"].tolist() == [0, 7]
    assert some["loss"].tolist()[1:] == pytest.approx(means)
    assert ends["loss"].tolist()[1:] == pytest.approx([sum(losses) / 7])


def test_seconds_are_of_training_only():
    def slow(step):
        time.sleep(0.5)
        return {}

    table = fit(settings(steps=4, eval_every=1), Machine(), *parts(), generator(), slow)
    began = time.perf_counter()
    fit(settings(steps=4), Machine(), *parts(), generator())
    assert 0 < table["seconds"].iloc[-1] < time.perf_counter() - began + 1.5  # the pauses: 2.5


def test_zero_steps_only_evaluate():
    model, objective, dataset = parts()
    before = [p.detach().clone() for p in (*model.parameters(), *objective.parameters())]
    table = fit(
        settings(steps=0),
        Machine(),
        model,
        objective,
        dataset,
        generator(),
        lambda s: {"seen": 1.0},
    )
    assert table["step"].tolist() == [0] and table["seen"].tolist() == [1.0]
    after = [*model.parameters(), *objective.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_batch_that_is_too_large_does_not_matter_without_steps():
    table = fit(settings(steps=0, batch_size=999), Machine(), *parts(), generator())
    assert table["step"].tolist() == [0]
    with pytest.raises(ValueError, match=r"batch_size=999: expected 1 … 24"):
        fit(settings(steps=1, batch_size=999), Machine(), *parts(), generator())


def test_it_repeats_bit_for_bit():
    results = []
    for seed in (0, 0, 1):
        model, objective, dataset = parts()
        table = fit(settings(steps=6), Machine(), model, objective, dataset, generator(seed))
        results.append((table["loss"].tolist()[1:], model.embedding.weight, objective.proxies))
    (a, first, proxies), (b, second, others), (c, third, _) = results
    assert a == b and torch.equal(first, second) and torch.equal(proxies, others)
    assert a != c and not torch.equal(first, third)


def test_how_often_is_evaluated_changes_nothing():
    ends = []
    for every in (0, 1):
        model, objective, dataset = parts()
        evaluate = partial(looking, model, dataset)
        config = settings(steps=5, eval_every=every)
        fit(config, Machine(), model, objective, dataset, generator(), evaluate)
        assert model.training
        ends.append([*model.state_dict().values(), objective.proxies])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def looking(model, dataset, step):
    return {"size": embed(model, dataset.images).sum().item()}


def test_a_bar_is_shown_if_the_machine_says_so(capsys):
    for progress in (False, True):
        fit(settings(steps=3), Machine(progress=progress), *parts(), generator())
        assert ("3/3" in capsys.readouterr().err) == progress


def test_a_loss_that_is_not_finite_stops_the_run():
    model, objective, dataset = parts()
    with torch.no_grad():
        objective.proxies.fill_(float("inf"))
    with pytest.raises(FloatingPointError) as caught:
        fit(settings(steps=5), Machine(), model, objective, dataset, generator())
    message = str(caught.value)
    assert "at step 1: lower the learning rates" in message
    assert "of the run RunConfig(" in message and "checkpoint" not in message


# images


@pytest.mark.parametrize(
    ("changes", "affine", "mirrored", "side"),
    [
        ({"augment": False}, False, 0, 16),
        ({"augment": True}, True, 0, 16),
        ({"augment": False, "flip": True}, False, 0.5, 16),
        ({"augment": False, "crop": 12, "backbone": "resnet18"}, False, 0, 12),
    ],
    ids=str,
)
def test_training_images_are_changed_as_the_run_says(changes, affine, mirrored, side):
    _, objective, dataset = parts()
    model = Small()
    fit(settings(steps=25, **changes), Machine(), model, objective, dataset, generator())
    images = torch.cat(model.seen)
    assert images.shape == (200, 1, side, side)
    known = {image.numpy().tobytes() for image in dataset.images.float()}
    if side < 16:
        blocks = dataset.images.float().unfold(2, side, 1).unfold(3, side, 1)
        known = {b.contiguous().numpy().tobytes() for b in blocks.flatten(0, 3)}
    share = [image.numpy().tobytes() in known for image in images.float()]
    if affine:
        assert not any(share)
    else:
        assert abs(sum(share) / 200 - (1 - mirrored)) < (0.15 if mirrored else 1e-9)


@pytest.mark.parametrize("batch_size", [4, 24])
def test_every_step_sees_a_batch(batch_size):
    _, objective, dataset = parts()
    model = Small()
    config = settings(steps=3, batch_size=batch_size)
    fit(config, Machine(), model, objective, dataset, generator())
    assert [len(images) for images in model.seen] == [batch_size] * 3


# optimiser


def watched(monkeypatch, config, model, objective, dataset):
    """Rates, and norms of the gradients of model and proxies, as each step finds them."""
    rates, norms = [], []

    def note(optimizer, *_):
        rates.append([group["lr"] for group in optimizer.param_groups])
        norms.append(
            [
                nn.utils.get_total_norm([p.grad for p in part.parameters()]).item()
                for part in (model, objective)
            ]
        )

    def building(*arguments):
        optimizer = build_optimizer(*arguments)
        optimizer.register_step_pre_hook(note)
        return optimizer

    monkeypatch.setattr(module, "build_optimizer", building)
    fit(config, Machine(), model, objective, dataset, generator())
    return rates, norms


SHARES = {
    "constant": [1, 1, 1, 1],
    "linear": [1, 0.75, 0.5, 0.25],
    "cosine": [(1 + math.cos(math.pi * k / 4)) / 2 for k in range(4)],
}


@pytest.mark.parametrize("schedule", SHARES)
def test_schedules_reach_the_optimizer(monkeypatch, schedule):
    config = settings(steps=4, schedule=schedule, optimizer="SGD", lr=0.1, proxy_lr=1.0)
    rates, _ = watched(monkeypatch, config, *parts())
    assert rates == [[pytest.approx(0.1 * f), pytest.approx(f)] for f in SHARES[schedule]]


@SKIPPED
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_gradient_of_the_model_is_clipped(monkeypatch, precision):
    """What is clipped is the gradient itself, not as it is scaled up for float16."""
    config = settings(steps=20, optimizer="SGD", precision=precision)
    _, free = watched(monkeypatch, config, *parts())
    # float16 begins with steps that are skipped, until the scale of the gradients fits
    assert 5 < len(free) < 20 if precision == "float16" else len(free) == 20
    assert all(of_model > 1 for of_model, _ in free)
    rates, norms = watched(monkeypatch, dataclasses.replace(config, clip_grad=0.01), *parts())
    assert len(rates) > 5 and rates == [[0.01, 0.01]] * len(rates)
    assert all(of_model == pytest.approx(0.01, rel=1e-3) for of_model, _ in norms)
    assert all(of_proxies > 0.02 for _, of_proxies in norms)  # is left as it is


def test_network_and_proxies_have_settings_of_their_own():
    model, objective, dataset = parts()
    frozen = model.features[0].weight.requires_grad_(False)
    config = settings(optimizer="AdamW", lr=1e-4, proxy_lr=1e-2, weight_decay=0.3)
    optimizer = build_optimizer(config, model, objective)
    assert type(optimizer) is torch.optim.AdamW
    network, proxies = optimizer.param_groups
    assert (network["lr"], network["weight_decay"]) == (1e-4, 0.3)
    assert (proxies["lr"], proxies["weight_decay"]) == (1e-2, 0.0)
    assert len(network["params"]) == len(list(model.parameters())) - 1
    assert not any(p is frozen for p in network["params"])
    assert [p is objective.proxies for p in proxies["params"]] == [True]
    [alone] = build_optimizer(config, model, NPairs(dataset.labels)).param_groups
    assert alone["lr"] == 1e-4


def test_weight_decay_shrinks_the_network_only():
    ends = []
    for decay in (0.0, 0.5):
        model, objective, dataset = parts()
        config = settings(steps=1, optimizer="SGD", lr=1e-1, weight_decay=decay)
        fit(config, Machine(), model, objective, dataset, generator())
        ends.append((model.embedding.weight.detach(), objective.proxies.detach()))
    (free, proxies), (shrunk, others) = ends
    assert torch.equal(proxies, others)
    start = parts()[0].embedding.weight.detach()
    torch.testing.assert_close(shrunk, free - 0.1 * 0.5 * start)


# precision


@SKIPPED
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_computes_in_it_and_learns(precision):
    model, objective, dataset = parts()
    seen, losses = [], []
    model.features[0].register_forward_hook(lambda m, x, y: seen.append((m.training, y.dtype)))
    objective.register_forward_hook(lambda m, x, y: losses.append((x[0].dtype, y.dtype)))
    config = settings(steps=30, eval_every=15, precision=precision)
    table = fit(config, Machine(), model, objective, dataset, generator())
    assert {d for training, d in seen if training} == {getattr(torch, precision)}
    assert set(losses) == {(torch.float32, torch.float32)}
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert table["loss"].iloc[-1] < table["loss"].iloc[1]


def test_float32_is_float32():
    model, objective, dataset = parts(partial(mean_triplet_loss, margin=0.5))
    seen = []
    model.features[0].register_forward_hook(lambda m, x, y: seen.append(y.dtype))
    fit(settings(steps=2), Machine(), model, objective, dataset, generator())
    assert set(seen) == {torch.float32}

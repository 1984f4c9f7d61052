"""Algorithm 1: what a step does, in which order, and what it leaves alone."""

import copy
import itertools
import random

import numpy as np
import pytest
import torch
from torch import nn

from proxylib import (
    ConvNet,
    DynamicProxyLoss,
    Objective,
    ProxyLoss,
    assign_random,
    embed,
    nca_loss,
    train,
)

LABELS = torch.arange(4).repeat_interleave(6)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny():
    """Images (24, 1, 16, 16) of four shades, one a label."""
    noise = torch.randint(0, 30, (24, 1, 16, 16), generator=generator())
    return (noise + 50 * LABELS.view(-1, 1, 1, 1)).to(torch.uint8)


def parts(images, lr=1e-2, objective=None):
    torch.manual_seed(0)
    model = ConvNet(1, 16, dim=8).normalize_like(images)
    if objective is None:
        objective = ProxyLoss(LABELS, 8, generator(), labels=LABELS, loss=nca_loss)
    both = [*model.parameters(), *objective.parameters()]
    return model, objective, torch.optim.Adam(both, lr=lr)


def with_images(objective, images, size=8):
    """Endless batches of an objective, with the images of their points."""
    return ((batch, images[batch[0]]) for batch in objective.batches(size, generator()))


def take(steps, n):
    return list(itertools.islice(steps, n))


def test_training_learns():
    """Network and proxies: in the end every image lies nearest to the proxy of its label."""
    images = tiny()
    model, objective, optimizer = parts(images)

    def nearest_proxy():
        return objective.distances(embed(model, images, normalize=False)).argmin(1)

    before = objective.proxies.detach().clone()
    assert (nearest_proxy() == LABELS).double().mean() <= 0.5
    steps = take(train(model, objective, optimizer, with_images(objective, images)), 100)
    losses = [step.loss.item() for step in steps]
    assert [step.number for step in steps] == list(range(1, 101))
    assert all(step.seconds > 0 and step.loss.ndim == 0 for step in steps)
    assert not any(step.loss.requires_grad for step in steps)
    assert sum(losses[-10:]) / 10 < sum(losses[:10]) / 10 - 2
    assert torch.equal(nearest_proxy(), LABELS)
    assert (objective.proxies != before).any(1).all()


def test_steps_are_those_of_a_loop_written_out():
    """To the bit: network, its statistics, proxies and losses."""
    images = tiny()
    model, objective, optimizer = parts(images)
    model_2, objective_2, optimizer_2 = copy.deepcopy((model, objective, optimizer))
    trained = train(
        model,
        objective,
        optimizer,
        with_images(objective, images),
        embed_all=lambda: pytest.fail("the assignment is static"),
    )
    losses = [step.loss for step in take(trained, 5)]
    model_2.train()
    for loss, (batch, pixels) in zip(losses, with_images(objective_2, images), strict=False):
        expected = objective_2(model_2(pixels), *batch)
        optimizer_2.zero_grad()
        expected.backward()
        optimizer_2.step()
        assert torch.equal(loss, expected.detach())
    for one, two in ((model, model_2), (objective, objective_2)):
        names = one.state_dict()
        assert all(torch.equal(value, two.state_dict()[name]) for name, value in names.items())


class Recorder(Objective):
    """Notes what is called; a loss with one parameter."""

    def __init__(self, log):
        super().__init__(None)
        self.log, self.factor = log, nn.Parameter(torch.tensor(2.0))
        self.factor.register_hook(lambda gradient: log.append("backward"))

    def before_step(self, step, embed_all):
        self.log.append(f"before step {step}")

    def forward(self, embeddings, points):
        self.log.append("loss")
        return (embeddings * self.factor).square().mean()


def recorded(log, lr=0.01):
    """(model, objective, optimizer, batches) that write into the log."""
    torch.manual_seed(0)
    model, objective = nn.Linear(3, 2), Recorder(log)
    model.register_forward_hook(lambda *_: log.append("model"))
    optimizer = torch.optim.SGD([*model.parameters(), *objective.parameters()], lr=lr)
    optimizer.register_step_pre_hook(lambda *_: log.append("step"))

    def batches():
        while True:
            log.append("batch")
            yield (torch.arange(4),), torch.ones(4, 3)

    return model, objective, optimizer, batches()


def test_the_order_within_a_step_and_the_callers_turn_between_steps():
    log = []
    for step in itertools.islice(train(*recorded(log)), 2):
        log.append(f"caller {step.number}")
    one = ["batch", "model", "loss", "backward", "step"]
    assert log == ["before step 1", *one, "caller 1", "before step 2", *one, "caller 2"]


def test_nothing_happens_before_the_first_step_is_asked_for():
    log = []
    model, *rest = recorded(log)
    trained = train(model.eval(), *rest)
    assert log == [] and not model.training
    next(trained)
    assert model.training


@pytest.mark.parametrize("n", [0, 1, 3])
def test_a_finite_iterable_ends_it(n):
    log = []
    model, objective, optimizer, batches = recorded(log)
    steps = list(train(model, objective, optimizer, take(batches, n)))
    assert [step.number for step in steps] == list(range(1, n + 1))
    assert log.count("step") == n


def test_the_first_step_may_have_another_number():
    log = []
    steps = take(train(*recorded(log), first=11), 3)
    assert [step.number for step in steps] == [11, 12, 13]
    assert [entry for entry in log if "before" in entry] == [
        f"before step {n}" for n in (11, 12, 13)
    ]


def test_forward_stands_in_for_model_and_objective():
    log, seen = [], []
    model, objective, optimizer, batches = recorded(log)
    before = objective.factor.item()

    def forward(images, *batch):
        seen.append((images, batch))
        return objective.factor * 3, images

    (step,) = take(train(model, objective, optimizer, batches, forward=forward), 1)
    assert log == ["before step 1", "batch", "backward", "step"]
    ((images, batch),) = seen
    assert torch.equal(images, torch.ones(4, 3))
    assert len(batch) == 1 and torch.equal(batch[0], torch.arange(4))
    assert step.loss.item() == 3 * before
    assert objective.factor.item() == pytest.approx(before - 0.01 * 3)


def test_a_scaler_scales_the_gradient_and_takes_it_back():
    results = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=1024.0)):
        model, objective, optimizer, batches = recorded([])
        gradients = []
        objective.factor.register_hook(lambda g, into=gradients: into.append(g.item()))
        steps = take(train(model, objective, optimizer, batches, scaler=scaler), 3)
        weights = [p.detach().clone() for p in [*model.parameters(), objective.factor]]
        results.append(([step.loss.item() for step in steps], gradients, weights))
    (losses, gradients, weights), (losses_2, gradients_2, weights_2) = results
    assert losses == losses_2  # 1,024 is a power of two: no rounding
    assert gradients_2 == [1024 * g for g in gradients]
    assert all(torch.equal(a, b) for a, b in zip(weights, weights_2, strict=True))


def test_a_scaler_skips_a_step_that_overflows_and_lowers_its_scale():
    model, objective, optimizer, _ = recorded([])
    batches = [((torch.arange(4),), torch.full((4, 3), 100.0))]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    before = copy.deepcopy(model.state_dict())
    (step,) = take(train(model, objective, optimizer, batches, scaler=scaler), 1)
    assert step.loss.isfinite()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert objective.factor.item() == 2
    assert scaler.get_scale() == 2.0**126


@pytest.mark.parametrize(
    ("every", "expected"), [(10, [1, 11, 21]), (0, [1]), (1, list(range(1, 26)))]
)
def test_dynamic_assignment_embeds_all_at_its_interval(every, expected):
    images, calls, done = tiny(), [], []
    start = assign_random(24, 6, generator())
    objective = DynamicProxyLoss(
        start, 8, generator(), labels=LABELS, loss=nca_loss, reassign_every=every
    )
    model, _, optimizer = parts(images, objective=objective)

    def embed_all():
        calls.append(len(done) + 1)
        return embed(model, images, normalize=False)

    batches = with_images(objective, images)
    for step in itertools.islice(
        train(model, objective, optimizer, batches, embed_all=embed_all), 25
    ):
        done.append(step)
        assert model.training  # `embed` has put it back
    assert calls == expected
    assert not torch.equal(objective.assignment, start)


def test_the_callers_global_state_stays():
    def state():
        return (
            torch.get_rng_state().tolist(),
            random.getstate(),
            np.random.get_state()[1].tolist(),
            torch.is_grad_enabled(),
            torch.get_default_dtype(),
            torch.get_num_threads(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_autocast_enabled("cpu"),
        )

    images = tiny()
    model, objective, optimizer = parts(images)
    kept, before = images.clone(), state()
    trained = train(model, objective, optimizer, with_images(objective, images))
    for _ in itertools.islice(trained, 3):
        assert state() == before
    trained.close()
    assert state() == before
    assert torch.equal(images, kept) and torch.equal(objective.labels, LABELS)
    assert optimizer.param_groups[0]["lr"] == 1e-2


def test_a_loss_that_is_not_finite_stops_the_run():
    images = tiny()
    model, objective, optimizer = parts(images)
    with torch.no_grad():
        objective.proxies.fill_(float("inf"))
    before = copy.deepcopy(model.state_dict())
    message = (
        "the loss is nan at step 7: lower the learning rates, or fix the norms of embeddings and "
        "proxies"
    )
    with pytest.raises(FloatingPointError) as error:
        next(train(model, objective, optimizer, with_images(objective, images), first=7))
    assert str(error.value) == message
    weights = [name for name, _ in model.named_parameters()]
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in weights)


@pytest.mark.parametrize("n_bad", [1, 7])
def test_the_points_whose_embeddings_are_not_finite_are_named(n_bad):
    model, objective, optimizer, _ = recorded([])
    points, images = torch.arange(30, 40), torch.ones(10, 3)
    images[2 : 2 + n_bad] = torch.nan
    with pytest.raises(FloatingPointError) as error:
        next(train(model, objective, optimizer, [((points,), images)]))
    named = [32, 33, 34, 35, 36][:n_bad]
    assert f"at step 1 (embeddings of training points {named} are not finite): " in str(error.value)


def test_network_refuses_images_smaller_than_its_poolings():
    with pytest.raises(ValueError, match="size=8: 4 poolings need at least 16 pixels"):
        ConvNet(1, 8)


@pytest.mark.parametrize(("channels", "size"), [(1, 16), (3, 33), (1, 64)])
def test_network_takes_other_sizes_and_channels(channels, size):
    images = torch.randint(0, 255, (2, channels, size, size), dtype=torch.uint8)
    assert ConvNet(channels, size, dim=7).normalize_like(images)(images).shape == (2, 7)


def test_a_list_of_batches_ends_it_without_a_further_re_assignment():
    """Else the assignment would change after the last step, for a step that never comes."""
    labels = torch.arange(4).repeat(3)
    points = torch.randn(12, 6, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Linear(6, 3)
    start = assign_random(12, 4, torch.Generator().manual_seed(0))
    objective = DynamicProxyLoss(start, 3, labels=labels, loss=nca_loss, reassign_every=5)
    stream = objective.batches(4, torch.Generator().manual_seed(0))
    batches = [(batch, points[batch[0]]) for batch in itertools.islice(stream, 5)]
    embedded = []

    def embed_all():
        embedded.append(1)
        return model(points).detach()

    optimizer = torch.optim.SGD([*model.parameters(), *objective.parameters()], lr=0.1)
    steps = list(train(model, objective, optimizer, batches, embed_all=embed_all))
    assert [step.number for step in steps] == [1, 2, 3, 4, 5]
    assert len(embedded) == 1  # before step 1, not before a step 6
    with pytest.raises(ValueError, match="give `train` an `embed_all`"):
        next(train(model, objective, optimizer, batches))

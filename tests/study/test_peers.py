"""Losses of pytorch-metric-learning as methods. All but the first tests need the package."""

from importlib import metadata

import numpy as np
import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from proxylib import ProxyNCA
from proxylib.study import peers, tuning
from proxylib.study.cli import app
from proxylib.study.methods import (
    BASELINES,
    BENCHMARK,
    METHODS,
    SUCCESSORS,
    build_objective,
    complete_options,
)
from proxylib.study.runs import RunConfig, execution, fingerprint, run, sweep
from proxylib.study.runs.execution import execute

LABELS = torch.arange(10).repeat_interleave(4)
SMALL = {"data_options": {"n_classes": 8, "n_images": 4}, "batch_size": 8}
needs_package = pytest.mark.usefixtures("package")


@pytest.fixture
def package():
    return pytest.importorskip("pytorch_metric_learning.losses")


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def small(method, **changes):
    options = {"per_class": 2} if "per_class" in METHODS[method].options else {}
    return RunConfig(method=method, **SMALL | {"options": options, "steps": 12} | changes)


# without the package


@pytest.fixture
def absent(monkeypatch):
    """As if it were not installed, whether it is or not."""

    version = metadata.version

    def without(name):
        return version("not-" + name if name == "pytorch-metric-learning" else name)

    monkeypatch.setattr(metadata, "version", without)


ADVICE = r"needs pytorch-metric-learning: pip install 'proxylib\[peers\]'"


@pytest.mark.parametrize("method", SUCCESSORS)
def test_without_the_package_the_error_says_what_to_install(absent, home, method):
    for task in (
        lambda: build_objective(method, LABELS, 8, rng()),
        lambda: sweep([small(method)], jobs=1, progress=False),
        lambda: execute(small(method)),
    ):
        with pytest.raises(ImportError, match=ADVICE):
            task()
    RunConfig(method=method)  # a configuration needs no package


def test_the_command_says_it_too(absent, home, tmp_path):
    command = ["train", "--method", "supcon", "--out", str(tmp_path / "out"), "-p", "steps", "2"]
    done = CliRunner().invoke(app, [*command, "-d", "n_classes", "8", "-d", "n_images", "8"])
    assert done.exit_code == 1
    assert "pip install 'proxylib[peers]'" in done.output and "Traceback" not in done.output


def test_they_are_a_group_of_their_own():
    assert len(SUCCESSORS) == 7 and not {*SUCCESSORS} & {*BENCHMARK, *BASELINES}
    for start in ("random", "pretrained"):
        assert not {*SUCCESSORS} & tuning.axes(start).keys()
    for name in SUCCESSORS:
        learns = "per_class" not in METHODS[name].options
        assert METHODS[name].has_proxies == learns and not METHODS[name].axes


def test_runs_of_other_methods_stay_what_they_are(home, monkeypatch):
    """Neither the entries nor the version of that package is in their fingerprints."""
    others = [name for name in METHODS if name not in SUCCESSORS]
    before = {name: fingerprint(small(name)) for name in others}
    monkeypatch.setattr(peers, "version", lambda: "99")
    assert "99" in fingerprint(small("supcon")).split()
    for name in SUCCESSORS:
        monkeypatch.delitem(METHODS, name)
    assert {name: fingerprint(small(name)) for name in others} == before


@pytest.mark.parametrize(
    ("method", "options", "error", "message"),
    [
        ("supcon", {"temperature": 0}, ValueError, "temperature=0.0: expected more than 0"),
        ("soft_triple", {"centers_per_class": 0}, ValueError, "centers_per_class=0: expected at"),
        ("sub_center_arcface", {"sub_centers": 2.0}, TypeError, "sub_centers=2.0: expected int"),
        ("multi_similarity", {"per_class": 1}, ValueError, "per_class=1: expected at least 2"),
        (
            "proxy_anchor",
            {"scale": 1},
            ValueError,
            "proxy_anchor has no option scale; it has alpha",
        ),
    ],
)
def test_their_options_are_checked(method, options, error, message):
    with pytest.raises(error, match=message):
        complete_options(method, options)


def test_our_bounds_are_not_recorded_for_them():
    with pytest.raises(ValueError, match="proxy_anchor has no proxies that we know bounds for"):
        RunConfig(method="proxy_anchor", record_bounds=True)


# with it


@needs_package
@pytest.mark.parametrize("method", SUCCESSORS)
def test_options_arrive_and_the_start_is_the_generators(method, package):
    given = {name: value + 1 for name, value in METHODS[method].options.items()}
    built = [build_objective(method, LABELS, 8, rng(seed), **given) for seed in (0, 0, 1)]
    for objective in built:
        assert type(objective.loss) is getattr(package, METHODS[method].objective.keywords["loss"])
        assert METHODS[method].has_proxies == bool(list(objective.parameters()))
    for name, value in given.items():
        kept = getattr(built[0].loss, name, getattr(built[0], name, None))
        expected = (
            np.radians(value) if (method, name) == ("sub_center_arcface", "margin") else value
        )
        assert kept == expected, name
    if METHODS[method].has_proxies:
        n = given.get("centers_per_class", given.get("sub_centers", 1))
        assert built[0].proxies.shape == (10 * n, 8)
        assert torch.equal(built[0].proxies, built[1].proxies)
        assert not torch.equal(built[0].proxies, built[2].proxies)


@needs_package
def test_making_one_leaves_torchs_generator_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    build_objective("soft_triple", LABELS, 8, rng())
    assert torch.equal(torch.get_rng_state(), before)


@needs_package
@pytest.mark.parametrize("method", SUCCESSORS)
def test_batches_are_what_the_loss_wants(method):
    objective = build_objective(method, LABELS, 8, rng())
    points, *positives = next(iter(objective.batches(8, rng())))
    if METHODS[method].has_proxies:  # as Proxy-NCA's
        assert torch.equal(LABELS[points], LABELS[positives[0]])
    else:
        assert not positives
        assert sorted(LABELS[points].bincount().tolist())[-3:] == [0, 4, 4]


@needs_package
@pytest.mark.parametrize("method", SUCCESSORS)
def test_it_learns_and_is_found_again(method, home, monkeypatch):
    first = run(small(method, eval_every=6))
    losses = first.history["loss"].tolist()
    assert losses[2] < losses[1]
    assert first.proxies.shape[1] == 64 and bool(len(first.proxies)) == METHODS[method].has_proxies
    monkeypatch.setattr(execution, "fit", None)  # it is not trained again
    again = run(small(method, eval_every=6))
    assert np.array_equal(again.embeddings, first.embeddings)
    monkeypatch.setattr(peers, "version", lambda: "99")
    with pytest.raises(TypeError, match="not callable"):  # but with another version
        run(small(method, eval_every=6))


@needs_package
@pytest.mark.parametrize("method", SUCCESSORS)
def test_proxies_have_their_own_learning_rate(method, home):
    slow, fast = (execute(small(method, proxy_lr=rate)) for rate in (1e-4, 1e-1))
    if not METHODS[method].has_proxies:
        assert np.array_equal(slow.embeddings, fast.embeddings)
        return
    start = execute(small(method, steps=0)).proxies
    assert np.abs(slow.proxies - start).max() < 2e-3 < 0.1 < np.abs(fast.proxies - start).max()


@needs_package
@pytest.mark.parametrize("method", SUCCESSORS)
def test_a_stopped_run_goes_on_bit_for_bit(method, home, tmp_path, monkeypatch):
    config = small(method, steps=24, eval_every=4)
    whole, calls, original = execute(config), [], execution.quality

    def killed(*args, **options):
        calls.append(1)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return original(*args, **options)

    monkeypatch.setattr(execution, "quality", killed)
    with pytest.raises(KeyboardInterrupt):
        execute(config, folder=tmp_path, checkpoint_every=3)
    monkeypatch.setattr(execution, "quality", original)
    assert 12 <= torch.load(tmp_path / "checkpoint.pt")["step"] < 24
    resumed = execute(config, folder=tmp_path, checkpoint_every=3)
    tables = [result.history.drop(columns="seconds") for result in (whole, resumed)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert np.array_equal(whole.embeddings, resumed.embeddings)
    assert np.array_equal(whole.proxies, resumed.proxies)


# our Proxy-NCA and theirs


def both(package, scale, x, labels, proxies):
    """Value and gradients of ours with N_x = N_p = √scale, and of theirs; in the type of x."""
    norms = dict.fromkeys(("embedding_norm", "proxy_norm"), scale**0.5)
    ours = ProxyNCA(10, 8, include_positive=True, **norms)
    for loss in (ours, package.ProxyNCALoss(10, 8, softmax_scale=scale)):
        loss.proxies.data = proxies.to(x)
        points = x.clone().requires_grad_()
        value = loss(points, labels)
        yield value.detach(), *torch.autograd.grad(value, (points, loss.proxies))


@pytest.mark.parametrize("scale", [1.0, 9.0, 16.0])
def test_ours_with_the_positive_in_the_sum_is_theirs(package, scale):
    """N_x · N_p is their `softmax_scale`."""
    x, proxies = (torch.randn(10, 8, generator=rng(i), dtype=torch.float64) for i in (1, 2))
    ours, theirs = both(package, scale, x, torch.arange(10).roll(3), proxies)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_theirs_drops_the_anchors_that_are_worst_off(package):
    """Where the softmax underflows, some e^−125 here, an anchor has neither value nor gradient."""
    proxies = torch.eye(10, 8)
    proxies[2], proxies[8:] = -proxies[0], 1
    x = torch.stack([proxies[2] + 0.2 * proxies[5], proxies[1]])  # far from its proxy; at it
    ours, theirs = both(package, 32.0, x, torch.tensor([0, 1]), proxies)
    assert 60 < ours[0] < 64 and theirs[0] == pytest.approx(0, abs=1e-6)
    assert ours[1][0].norm() > 1 and theirs[1][0].norm() == 0
    ours, theirs = both(package, 32.0, x.double(), torch.tensor([0, 1]), proxies)
    torch.testing.assert_close(ours, theirs)

import dataclasses
import functools
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

from proxylib.datasets import caching
from proxylib.retrieval import embed
from proxylib.study.methods import METHODS, SUCCESSORS
from proxylib.study.runs import (
    DASK,
    RunConfig,
    cache,
    describe,
    execution,
    fingerprint,
    history,
    pretraining,
    run,
    sweep,
    timm_weights,
)

OURS = [name for name in METHODS if name not in SUCCESSORS]  # those: test_peers.py
SMALL = {"data_options": {"n_classes": 8, "n_images": 4}, "steps": 6, "batch_size": 8}


def small(**changes):
    return RunConfig(**SMALL | {"eval_every": 3} | changes)


def same(a, b):
    numbers = [column for column in a.history if column != "seconds"]
    pd.testing.assert_frame_equal(a.history[numbers], b.history[numbers], check_exact=True)
    assert np.array_equal(a.embeddings, b.embeddings)
    assert np.array_equal(a.proxies, b.proxies)
    assert all(np.array_equal(w, b.weights[name]) for name, w in a.weights.items())


# configuration


def test_config_is_hashable_and_normal():
    a = RunConfig(data_options={"n_classes": 8, "distortion": 1.0}, lr=1)
    b = RunConfig(data_options=(("distortion", 1.0), ("n_classes", 8)), lr=1.0)
    assert a == b and hash(a) == hash(b)
    assert describe(a)["data_options"] == {"distortion": 1.0, "n_classes": 8}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"stepz": 3}, TypeError, "stepz"),
        ({"steps": "3"}, TypeError, "steps='3': expected <class 'int'>"),
        ({"steps": 3.0}, TypeError, "steps=3.0"),
        ({"augment": 1}, TypeError, "augment=1"),
        ({"dim": None}, TypeError, "dim=None"),
        ({"lr": True}, TypeError, "lr=True"),
        ({"steps": -1}, ValueError, "steps=-1: expected 0 or more"),
        ({"batch_size": 0}, ValueError, "batch_size=0: expected 1 or more"),
        ({"lr": 0.0}, ValueError, "lr=0.0: expected a positive number"),
        ({"lr": float("nan")}, ValueError, "lr=nan"),
        (
            {"method": "proxy_ncaa"},
            ValueError,
            "unknown method 'proxy_ncaa', expected one of proxy_nca,",
        ),
        ({"options": {"rati": 1}}, ValueError, "proxy_nca has no option rati; it has assignment,"),
        ({"method": "npairs", "record_bounds": True}, ValueError, "npairs has no proxies"),
        ({"init": "imagenet"}, ValueError, "init='imagenet': expected one of random, pretrained"),
        ({"split": "train"}, ValueError, "split='train': expected one of test, validation"),
        ({"optimizer": "Adamm"}, ValueError, "optimizer='Adamm'"),
        ({"optimizer": "lr_scheduler"}, ValueError, "optimizer='lr_scheduler'"),
        ({"head": "linear"}, TypeError, "head"),
        ({"options": {"start": "nearest"}}, ValueError, "proxy_nca has no option start; it has"),
        ({"method": "struct_clust", "options": {"swaps": 2}}, ValueError, "has no option swaps"),
        ({"backbone": "resnet81"}, ValueError, "backbone='resnet81': .*did you mean 'resnet1"),
        ({"frozen": "block1"}, ValueError, "frozen='block1': the study's own network has no"),
        ({"embedding_start": "pca"}, ValueError, "embedding_start='pca': the study's own"),
        (
            {"backbone": "resnet18", "frozen": "layer3"},
            ValueError,
            "augment=True: what the frozen part makes of the images is kept, .* augment=False",
        ),
        (
            {"backbone": "resnet18", "frozen": "layer3", "augment": False, "crop": 8},
            ValueError,
            "crop=8: what .* crop=0, or frozen=None",
        ),
        ({"schedule": "cosin"}, ValueError, "did you mean 'cosine'"),
        ({"precision": "float8"}, ValueError, "precision='float8': expected one of float32, bfl"),
        ({"crop": 24}, ValueError, "crop=24: the study's own network has no such thing"),
        ({"dropout": 0.5}, ValueError, "dropout=0.5: the study's own network has no such thing"),
        ({"freeze_batch_norm": True}, ValueError, "freeze_batch_norm=True: the study's own"),
        ({"backbone": "resnet18", "crop": -1}, ValueError, "crop=-1: expected 0 or more"),
        ({"backbone": "resnet18", "dropout": 1.0}, ValueError, "dropout=1.0: expected less than"),
        ({"weight_decay": float("nan")}, ValueError, "weight_decay=nan"),
        ({"clip_grad": -1.0}, ValueError, "clip_grad=-1.0: expected 0.0 or more"),
    ],
)
def test_config_refuses_what_is_wrong(changes, error, message):
    with pytest.raises(error, match=message):
        RunConfig(**changes)


def test_what_is_not_said_comes_from_the_method():
    a, b = RunConfig(method="lifted"), RunConfig(method="lifted", options={"margin": 1.0}, lr=2e-3)
    assert a == b
    assert (a.lr, dict(a.options)["margin"]) == (2e-3, 1.0)
    dynamic = RunConfig(method="dynamic")
    assert (dynamic.batch_norm, dynamic.augment, dynamic.proxy_lr) == (True, False, 0.02)
    assert RunConfig(method="dynamic", batch_norm=False) == small_change(dynamic, batch_norm=False)
    assert RunConfig() == RunConfig(batch_norm=False, augment=True, batch_size=32, proxy_lr=0.1)


def small_change(config, **changes):
    return dataclasses.replace(config, **changes)


@pytest.mark.parametrize("method", OURS)
def test_every_method_runs(home, method):
    options = {"per_class": 2} if "per_class" in METHODS[method].options else {}
    result = run(small(method=method, options=options))
    assert result.history["loss"].iloc[1:].notna().all()
    has_proxies = METHODS[method].has_proxies
    assert result.proxies.shape == (4 if has_proxies else 0, 64)
    assert result.assignment.shape == (16 if has_proxies else 0,)
    assert result.embeddings.shape == (16, 64) and result.embeddings.dtype == np.float32
    lengths = np.linalg.norm(result.embeddings, axis=1)
    assert np.allclose(lengths, 1, atol=1e-5) == (method != "lifted")


def test_bounds_are_recorded_at_every_evaluation(home):
    table = run(small(record_bounds=True)).history
    assert table["epsilon"].between(0, 4).all()
    assert (table["nca_violations_corrected"] == 0).all()
    assert (table["triplet_right_corrected"] >= table["triplet_left"]).all()


def test_validation_split_never_sees_the_test_classes(home):
    _, test = small().data()
    fit, validation = small(split="validation").data()
    assert not set(test.class_names) & set(fit.class_names + validation.class_names)


# runs


def test_same_seed_same_numbers_whatever_the_jobs(home, monkeypatch):
    configs = [small(seed=seed) for seed in (0, 1, 2)]
    monkeypatch.setenv("PROXYLIB_HOME", str(home / "a"))
    one = sweep(configs, jobs=1, progress=False)
    monkeypatch.setenv("PROXYLIB_HOME", str(home / "b"))
    two = sweep(reversed(configs), jobs=2, progress=False)
    for a, b in zip(one, reversed(two), strict=True):
        assert a.config == b.config
        same(a, b)
    assert not np.array_equal(one[0].embeddings, one[1].embeddings)


def test_a_dask_cluster_gives_the_same(home, monkeypatch):
    distributed = pytest.importorskip("distributed")
    configs = [small(seed=seed) for seed in (0, 1, 2)]
    here = sweep(configs, jobs=1, progress=False)
    monkeypatch.setenv("PROXYLIB_HOME", str(home / "cluster"))
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=None
    ) as cluster:
        monkeypatch.setenv(DASK, cluster.scheduler_address)
        there = sweep(configs, progress=False)
        assert all(caching.is_cached(cache.train_run, c, fingerprint(c)) for c in configs)
    for a, b in zip(here, there, strict=True):
        assert a.config == b.config
        same(a, b)
    monkeypatch.setenv(DASK, "tcp://127.0.0.1:1")
    with pytest.raises(OSError, match=r"127\.0\.0\.1:1"):
        sweep([small(seed=7)], progress=False)


def test_a_finished_run_is_read_and_only_under_its_own_key(home, monkeypatch):
    first = run(small())
    trained = []
    original = execution.fit

    def counting(*args, **kwargs):
        trained.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(execution, "fit", counting)
    same(run(small()), first)
    [again] = sweep([small()], progress=False)
    assert again.history["seconds"].equals(first.history["seconds"])
    assert not trained
    run(small(seed=5))
    run(small(data_options={"n_classes": 8, "n_images": 4, "distortion": 0.5}))
    assert len(trained) == 2
    monkeypatch.setattr(cache, "code_of", lambda *definitions: "other code")
    run(small())
    assert len(trained) == 3


# what decides a result beside the configuration


def test_the_fingerprint_of_a_run_knows_code_data_and_versions(home, monkeypatch):
    first = fingerprint(small())
    assert fingerprint(small(seed=3, lr=0.5)) == first  # those are in the configuration
    assert fingerprint(small(method="nca")) != first
    assert fingerprint(small(data_options={"n_classes": 8, "n_images": 5})) != first
    assert fingerprint(small(split="validation")) != first
    for library in (torch, np):
        with monkeypatch.context() as patch:
            patch.setattr(library, "__version__", "0.0.1")
            assert fingerprint(small()) != first, library
    installed, backbone = cache.version, fingerprint(small(backbone="resnet18"))
    for library in ("scikit-learn", "torchvision", "timm"):
        with monkeypatch.context() as patch:
            other = lambda name, of=library: "0.0.1" if name == of else installed(name)  # noqa: E731
            patch.setattr(cache, "version", other)
            assert (fingerprint(small()) != first) == (library == "scikit-learn")
            assert fingerprint(small(backbone="resnet18")) != backbone, library
    assert fingerprint(small()) == first


def test_a_run_from_the_pretrained_start_depends_on_that_start(home, monkeypatch):
    first = fingerprint(small()), fingerprint(small(init="pretrained"))
    monkeypatch.setattr(pretraining, "code_of", lambda *definitions: "other code")
    second = fingerprint(small()), fingerprint(small(init="pretrained"))
    assert first[0] == second[0] and first[1] != second[1]


def test_a_run_depends_on_the_weights_that_it_starts_from(home, monkeypatch):
    starts = [small(backbone=timm_weights.LITE0, init=init) for init in ("random", "pretrained")]
    first = [fingerprint(config) for config in starts]
    monkeypatch.setattr(timm_weights, "weights_hash", lambda name: "other weights")
    second = [fingerprint(config) for config in starts]
    assert first[0] == second[0] and first[1] != second[1]


@pytest.mark.parametrize("method", OURS)
def test_what_the_registry_alone_says_is_in_the_fingerprint(home, monkeypatch, method):
    """Label, look and axes decide nothing; other values are in the configuration."""
    entry = METHODS[method]
    before = {name: fingerprint(small(method=name)) for name in OURS}

    def changed(**changes):
        monkeypatch.setitem(METHODS, method, dataclasses.replace(entry, **changes))
        now = {name: fingerprint(small(method=name)) for name in OURS}
        return {name for name in OURS if now[name] != before[name]}

    assert changed(label="x", color=9, marker="x", axes=(), starts=()) == set()
    assert changed(normalize=not entry.normalize) == {method}
    for name, value in (("lr", 0.7), ("proxy_lr", 0.7), ("batch_size", 4), ("defaults", {})):
        assert changed(**{name: value}) == set()
        assert name == "defaults" or getattr(RunConfig(method=method), name) == value
    others = {"npairs": "l2", "softmax": "dim"}
    name = "ratio" if entry.has_proxies else others.get(method, "per_class")
    plain = getattr(entry.objective, "func", entry.objective)
    for value in (2, 3):  # what is fixed in the entry is no option
        fixed = functools.partial(plain, **{name: value})
        assert changed(objective=fixed, defaults={}) == {method}
        assert name not in dict(RunConfig(method=method).options)


def test_a_worker_with_other_code_than_its_caller_refuses(home):
    """Else its result would be kept under the name of code that did not make it."""
    key = fingerprint(small())
    assert len(cache.train_run(small(), key).history) == 3
    with pytest.raises(RuntimeError, match=f"is {re.escape(key)} in this process and other in"):
        cache.train_run(small(), "other")
    with pytest.raises(RuntimeError, match="restart the kernel"):
        caching.cached(cache.train_run, small(), "other")
    assert not caching.is_cached(cache.train_run, small(), "other")


def test_a_sweep_stops_where_workers_have_other_code(home, monkeypatch):
    monkeypatch.setattr(cache, "fingerprint", lambda config, work: "old")
    with pytest.raises(RuntimeError, match="in this process and old in the one that asked"):
        sweep([small(seed=s) for s in (0, 1)], jobs=2, progress=False)


def test_the_model_comes_back_as_it_was(home):
    result = run(small())
    model, (_, test) = result.model(), result.config.data()
    np.testing.assert_allclose(embed(model, test.images).numpy(), result.embeddings, atol=1e-6)
    assert set(result.metrics) == {f"recall_at_{k}" for k in (1, 2, 4, 8)} | {"nmi"}


def test_global_state_is_left_alone(home):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    threads = torch.get_num_threads()
    run(small())
    assert torch.rand(1) == expected
    assert torch.get_num_threads() == threads


def test_history_of_many_runs_is_tidy(home):
    results = sweep([small(seed=s) for s in (0, 1)], jobs=1, progress=False)
    table = history(results, method=["a", "b"])
    assert table["seed"].tolist() == [0] * 3 + [1] * 3
    assert table["method"].tolist() == ["a"] * 3 + ["b"] * 3
    assert table["nmi"].isna().tolist() == [False, True, False] * 2


def test_kill_loses_at_most_the_runs_in_flight(home):
    code = (
        "from proxylib.study.runs import RunConfig, sweep\n"
        f"sweep([RunConfig(seed=s, **{SMALL!r} | {{'steps': 6 if s < 2 else 10**6}})"
        " for s in range(4)], jobs=1, progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
    expected = [small(seed=s, eval_every=250) for s in (0, 1)]
    deadline = time.monotonic() + 120
    while not all(caching.is_cached(cache.train_run, c, fingerprint(c)) for c in expected):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    started = time.monotonic()
    assert [r.config.seed for r in sweep(expected, progress=False)] == [0, 1]
    assert time.monotonic() - started < 5


def test_a_run_that_diverges_stops_the_sweep_unless_its_error_is_wanted(home):
    good, bad = small(), small(method="npairs", optimizer="RMSprop", steps=40, lr=1e6)
    results = sweep([bad, good], jobs=1, progress=False, keep_diverged=True)
    assert isinstance(results[0], FloatingPointError) and "lr=1000000.0" in str(results[0])
    same(results[1], run(good))
    with pytest.raises(FloatingPointError, match="method='npairs'"):
        sweep([bad, good], jobs=1, progress=False)


def test_results_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        small().seed = 3

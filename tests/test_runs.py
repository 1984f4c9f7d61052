import dataclasses
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

from proxylib import caching, execution, runs
from proxylib.evaluation import embed
from proxylib.methods import METHODS
from proxylib.runs import RunConfig, describe, history, run, sweep

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
    ],
)
def test_config_refuses_what_is_wrong(changes, error, message):
    with pytest.raises(error, match=message):
        RunConfig(**changes)


def test_what_is_not_said_comes_from_the_method():
    a, b = RunConfig(method="lifted"), RunConfig(method="lifted", options={"margin": 1.0}, lr=2e-3)
    assert a == b
    assert (a.lr, dict(a.options)["margin"]) == (2e-3, 1.0)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs(home, method):
    options = {"per_class": 2} if "per_class" in METHODS[method].options else {}
    result = run(small(method=method, options=options))
    assert result.history["loss"].iloc[1:].notna().all()
    assert len(result.proxies) == (4 if method.startswith("proxy") else 0)
    assert len(result.assignment) == (16 if method.startswith("proxy") else 0)


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
        monkeypatch.setenv(runs.DASK, cluster.scheduler_address)
        there = sweep(configs, progress=False)
        assert all(caching.is_cached(runs._run, *runs._arguments(c)) for c in configs)
    for a, b in zip(here, there, strict=True):
        assert a.config == b.config
        same(a, b)
    monkeypatch.setenv(runs.DASK, "tcp://127.0.0.1:1")
    with pytest.raises(OSError, match=r"127\.0\.0\.1:1"):
        sweep([small(seed=7)], progress=False)


def test_a_finished_run_is_read_and_only_under_its_own_key(home, monkeypatch):
    first = run(small())
    trained = []
    original = execution.train

    def counting(*args, **kwargs):
        trained.append(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(execution, "train", counting)
    same(run(small()), first)
    [again] = sweep([small()], progress=False)
    assert again.history["seconds"].equals(first.history["seconds"])
    assert not trained
    run(small(seed=5))
    run(small(data_options={"n_classes": 8, "n_images": 4, "distortion": 0.5}))
    assert len(trained) == 2
    monkeypatch.setattr(runs, "code_fingerprint", lambda *files: "other code")
    run(small())
    assert len(trained) == 3


def test_code_fingerprint_ignores_words_but_not_code(tmp_path, monkeypatch):
    monkeypatch.setattr(caching, "__file__", str(tmp_path / "caching.py"))
    prints = []
    for text in (
        'def f():\n    """Old."""\n    return 1\n',
        '# why\ndef f():\n    """New."""\n\n    return (1)\n',
        "def f():\n    return 2\n",
    ):
        (tmp_path / "code.py").write_text(text)
        caching.code_fingerprint.cache_clear()
        prints.append(caching.code_fingerprint("code.py"))
    caching.code_fingerprint.cache_clear()
    assert prints[0] == prints[1] != prints[2]


def test_the_fingerprint_refuses_a_file_that_is_not_there():
    with pytest.raises(FileNotFoundError, match="lossez"):
        caching.code_fingerprint("lossez.py")


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
        "from proxylib.runs import RunConfig, sweep\n"
        f"sweep([RunConfig(seed=s, **{SMALL!r} | {{'steps': 6 if s < 2 else 10**6}})"
        " for s in range(4)], jobs=1, progress=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
    expected = [small(seed=s, eval_every=250) for s in (0, 1)]
    deadline = time.monotonic() + 120
    while not all(caching.is_cached(runs._run, *runs._arguments(c)) for c in expected):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    started = time.monotonic()
    assert [r.config.seed for r in sweep(expected, progress=False)] == [0, 1]
    assert time.monotonic() - started < 5


def test_results_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        small().seed = 3

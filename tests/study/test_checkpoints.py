"""A run that is killed at any moment and goes on equals one that was left alone, bit for bit."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

from proxylib import datasets, struct_clust
from proxylib.datasets import Dataset, ImageFiles
from proxylib.study.runs import execution
from proxylib.study.runs.checkpoints import Checkpoint, write
from proxylib.study.runs.config import RunConfig
from proxylib.study.runs.execution import Machine, execute

SMALL = {"data_options": {"n_classes": 8, "n_images": 4}, "batch_size": 8, "eval_every": 4}
DYNAMIC = {"restart_dead": True, "reassign_every": 3, "n_triplets": 100}
KINDS = {  # everything that has a state of its own
    "static": {"options": {"n_negatives": 2}, "schedule": "cosine", "weight_decay": 1e-3},
    "dynamic": {"method": "dynamic", "options": DYNAMIC},
    "labelled": {"options": {"assignment": "dynamic", "reassign_every": 5}, "schedule": "linear"},
    "struct_clust": {"method": "struct_clust", "options": {"per_class": 2}},
    "bounds": {"record_bounds": True},
    "npairs": {"method": "npairs", "optimizer": "RMSprop"},
    "float16": {"precision": "float16"},
    "backbone": {
        "backbone": "test_efficientnet",
        "dropout": 0.3,
        "clip_grad": 1.0,
        "flip": True,
        "crop": 28,
    },
}


def config(kind="static", **changes):
    return RunConfig(**SMALL | {"steps": 24} | KINDS[kind] | changes)


def same(a, b):
    pd.testing.assert_frame_equal(
        a.history.drop(columns="seconds"), b.history.drop(columns="seconds"), check_exact=True
    )
    assert np.array_equal(a.embeddings, b.embeddings)
    assert np.array_equal(a.proxies, b.proxies) and np.array_equal(a.assignment, b.assignment)
    assert all(np.array_equal(w, b.weights[name]) for name, w in a.weights.items())


def killed_after(seconds, task):
    """Run the task in a process of its own and kill it; says whether it was still at work."""

    def child():
        torch.set_num_threads(1)  # the parent's other threads do not exist here
        task()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(seconds)
    alive = process.is_alive()
    if alive:
        os.kill(process.pid, signal.SIGKILL)
    process.join()
    return alive


class StopError(Exception):
    pass


def stopped(monkeypatch, run, folder, after):
    """Train, and fall over at the given evaluation."""
    calls, original = [], execution.quality

    def fails(*args, **options):
        calls.append(1)
        if len(calls) > after:
            raise StopError
        return original(*args, **options)

    monkeypatch.setattr(execution, "quality", fails)
    with pytest.raises(StopError):
        execute(run, folder=folder, checkpoint_every=3)
    monkeypatch.setattr(execution, "quality", original)


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # of float16
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_has_a_state_goes_on_as_it_was(home, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(struct_clust, "DECAY_STEPS", 2)
    whole = execute(config(kind))
    stopped(monkeypatch, config(kind), tmp_path, after=4)
    step = torch.load(tmp_path / "checkpoint.pt")["step"]
    assert 12 <= step < 24
    assert len(pd.read_csv(tmp_path / "history.csv")) == 4
    resumed = execute(config(kind), folder=tmp_path, checkpoint_every=3)
    same(resumed, whole)
    table = pd.read_csv(tmp_path / "history.csv")
    assert table["loss"].iloc[1:].tolist() == whole.history["loss"].iloc[1:].tolist()
    same(execute(config(kind), folder=tmp_path), whole)  # a finished run has nothing left to do


def test_twenty_kills_at_random_moments(home, tmp_path):
    run = config(steps=60)
    whole = execute(run)
    began = time.monotonic()
    execute(run, folder=folder(tmp_path, "timed"), checkpoint_every=2)
    length = time.monotonic() - began
    moments, at_work, steps = random.Random(0), 0, []
    for i in range(20):
        here = folder(tmp_path, i)
        hit = killed_after(
            length * moments.uniform(0.05, 0.9),
            lambda here=here: execute(run, folder=here, checkpoint_every=2),
        )
        at_work += hit
        length *= 1 if hit else 0.8  # the machine is faster now than when it was timed
        file = here / "checkpoint.pt"
        steps.append(torch.load(file)["step"] if file.exists() else 0)
        same(execute(run, folder=here, checkpoint_every=2), whole)
    assert at_work >= 10 and len(set(steps)) >= 5, (at_work, steps)


def folder(parent, name):
    path = parent / str(name)
    path.mkdir()
    return path


def test_files_are_read_ahead_without_a_difference(home, tmp_path, image_tree, monkeypatch):
    files = sorted(image_tree.rglob("*.png"))
    labels = torch.arange(6).repeat_interleave(5)
    whole = datasets.Dataset("photos", ImageFiles(files, 32), labels, tuple("abcdef"))
    monkeypatch.setattr(datasets, "load", lambda *args, **options: whole)
    settings = {"steps": 6, "batch_size": 4, "eval_every": 3, "crop": 28, "dropout": 0.3}
    run = RunConfig(backbone="test_efficientnet", **settings)
    alone = execute(run)
    same(execute(run, Machine(workers=2)), alone)
    stopped(monkeypatch, run, tmp_path, after=2)
    same(execute(run, Machine(workers=1), tmp_path, 3), alone)


def test_a_checkpoint_of_another_run_is_refused(home, tmp_path, monkeypatch):
    execute(config(steps=2), folder=tmp_path)
    with pytest.raises(ValueError, match=r"of another run: steps 2, now 3; take another folder"):
        execute(config(steps=3), folder=tmp_path)
    monkeypatch.setattr(Dataset, "fingerprint", lambda data: "changed")
    with pytest.raises(ValueError, match=r"of another run: data '\w+', now 'changed'"):
        execute(config(steps=2), folder=tmp_path)


def test_what_is_no_checkpoint_is_refused_and_nothing_is_unpickled(tmp_path):
    place = Checkpoint(tmp_path, 1, {})
    assert place.load() is None
    place.file.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="not a checkpoint"):
        place.load()
    torch.save({"about": Evil()}, place.file)
    with pytest.raises(ValueError, match="not a checkpoint"):
        place.load()
    assert not (tmp_path / "evil").exists()


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    def half(file):
        file.write(b"half")
        raise OSError("disk full")

    write(tmp_path / "a", lambda file: file.write(b"whole"))
    with pytest.raises(OSError, match=r"/a can't be written, what was there is kept: disk full"):
        write(tmp_path / "a", half)
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("a", b"whole")]


def test_a_loss_that_is_no_longer_finite_names_step_run_and_checkpoint(home, tmp_path):
    run = config("npairs", steps=40, lr=1e6)
    with pytest.raises(FloatingPointError) as caught:
        execute(run, folder=tmp_path, checkpoint_every=1)
    message = str(caught.value)
    assert "at step" in message and str(tmp_path / "checkpoint.pt") in message
    assert "method='npairs'" in message and "lr=1000000.0" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 7}, "not a state of this run: step 7 of 4"),
        ({"step": 0}, "not a state of this run: step 0 of 4"),
        ({"step": "4"}, "not a checkpoint .step: expected int, got '4'"),
        ({"rows": {}}, "not a checkpoint .rows: expected list"),
        ({"parts": {}}, "not a state of this run: 'model'"),
        (lambda state: state["parts"].update(scheduler={}), "of this run: scheduler with nothing"),
        ({"generator": torch.zeros(3)}, "not a state of this run"),
        ({"losses": None}, "not a checkpoint .losses: expected Tensor"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(home, tmp_path, change, message):
    execute(config(steps=4), folder=tmp_path)
    file = tmp_path / "checkpoint.pt"
    state = torch.load(file)
    change(state) if callable(change) else state.update(change)
    torch.save(state, file)
    with pytest.raises(ValueError, match=message):
        execute(config(steps=4), folder=tmp_path)


def test_what_a_killed_process_left_is_removed(tmp_path):
    code = "import os, sys, time\nfrom pathlib import Path\n"
    code += "from proxylib.study.runs.checkpoints import write\n"
    code += "write(Path(sys.argv[1]), lambda file: (print(flush=True), time.sleep(60)))"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "a")], stdout=subprocess.PIPE
    )
    process.stdout.readline()
    [left] = tmp_path.iterdir()
    write(tmp_path / "a", lambda file: file.write(b"1"))
    assert left.exists()  # its process lives
    process.kill()
    process.wait()
    assert left.exists()
    write(tmp_path / "a", lambda file: file.write(b"2"))
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("a", b"2")]

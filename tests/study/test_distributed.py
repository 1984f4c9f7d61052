"""Two processes against one. Each test starts them through torchrun, as a user would."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch

from proxylib.study.runs import distributed

SCRIPT = """
import sys
import torch
from proxylib.datasets import Dataset
from proxylib.retrieval import embed, recall_at_k
from proxylib.study.methods import build_objective
from proxylib.study.runs import RunConfig, distributed
from proxylib.study.runs.backbones import Backbone
from proxylib.study.runs.execution import Machine
from proxylib.study.runs.fit import fit

torch.set_num_threads(1)


def run(method):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8).repeat_interleave(6)
    shades = torch.rand(8, 1, 8, 8, generator=generator)[labels]
    images = 200 * shades + 55 * torch.rand(len(labels), 1, 8, 8, generator=generator)
    images = torch.nn.functional.interpolate(images, 32).to(torch.uint8)
    torch.manual_seed(0)
    # In double, for training makes rounding errors grow.
    model = Backbone("test_efficientnet", dim=16, freeze_batch_norm=True).double()
    for norm in model.modules():  # statistics of these images, else all embeddings are alike
        if isinstance(norm, torch.nn.BatchNorm2d):
            norm.momentum = None
            norm.train()
    with torch.no_grad():
        model(images)
    options = {"n_negatives": 3} if method == "proxy_nca" else {}
    objective = build_objective(method, labels, 16, generator, **options).double()
    parameters = [p for p in [*model.parameters(), *objective.parameters()] if p.requires_grad]
    gradients = []

    def evaluate(step):
        if step:
            gradients.append(torch.cat([p.grad.flatten() for p in parameters]).clone())
        return recall_at_k(embed(model, images), labels)

    data = Dataset("toy", images, labels, tuple("abcdefgh"))
    config = RunConfig(
        method=method, options=options, backbone="test_efficientnet", optimizer="SGD", lr=1e-4,
        proxy_lr=1e-4, steps=3, batch_size=16, augment=True, flip=True, crop=30, eval_every=1,
    )
    table = fit(config, Machine(), model, objective, data, generator, evaluate)
    return {"table": table.drop(columns="seconds").to_dict("list"), "gradients": gradients}


with distributed.processes("cpu"):
    results = {method: run(method) for method in ("proxy_nca", "npairs")}
    torch.save(results, f"{sys.argv[1]}.{distributed.rank()}")
"""


def start(arguments, n=1):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]
    command = [*command, str(n)] if n > 1 else [sys.executable]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, *arguments], env=environment, capture_output=True, text=True, timeout=300
    )


def test_two_processes_train_as_one(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    for n in (1, 2):
        ended = start([str(script), str(tmp_path / f"of{n}")], n)
        assert ended.returncode == 0, ended.stderr
    one, two, other = (torch.load(tmp_path / name) for name in ("of1.0", "of2.0", "of2.1"))
    for method in ("proxy_nca", "npairs"):
        tables = [pd.DataFrame(r[method]["table"]) for r in (one, two)]
        pd.testing.assert_frame_equal(*tables, rtol=0, atol=1e-5)
        assert tables[0]["loss"].iloc[1:].notna().all()
        gradients = [r[method]["gradients"] for r in (one, two, other)]
        for a, b, c in zip(*gradients, strict=True):
            assert a.abs().max() > 1e-3
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
            assert torch.equal(b, c)  # those of the proxies too


def test_the_command_trains_on_two(tmp_path, home):
    out = tmp_path / "out"
    settings = ["-p", "steps", "2", "-p", "eval_every", "1", "-p", "batch_size", "8"]
    settings += ["-d", "n_classes", "8", "-d", "n_images", "4"]
    ended = start(["-m", "proxylib", "train", "--no-progress", *settings, "--out", str(out)], 2)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("model in") == 1
    history = pd.read_csv(out / "history.csv")
    assert history["samples"].tolist() == [0, 8, 16]
    assert np.isfinite(history["recall_at_1"]).all()


def test_a_batch_that_cannot_be_dealt_is_refused(monkeypatch):
    monkeypatch.setattr(distributed, "size", lambda: 2)
    with pytest.raises(ValueError, match="batch_size=9: expected a multiple of the 2 processes"):
        distributed.check_batch(9)


def test_what_is_done_by_itself_is_not_shared(monkeypatch):
    monkeypatch.setattr(distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed.dist, "get_rank", lambda: 1)
    assert distributed.share(9) == slice(4, 9)
    with distributed.alone():
        assert distributed.share(9) == slice(0, 9) and distributed.rank() == 0
    assert distributed.share(9) == slice(4, 9)


def test_alone_there_is_nothing_to_share():
    x = torch.rand(5, 2)
    assert (distributed.size(), distributed.rank(), distributed.share(7)) == (1, 0, slice(0, 7))
    assert distributed.gather(x) is x and distributed.gather_rows(x) is x
    with distributed.processes("cpu"):
        assert distributed.size() == 1

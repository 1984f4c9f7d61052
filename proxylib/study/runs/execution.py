"""One training run, from its configuration to its result."""

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from proxylib.bounds import bound_statistics
from proxylib.models import ConvNet
from proxylib.objectives import Objective
from proxylib.study.evaluation import quality
from proxylib.study.methods import METHODS, build_objective
from proxylib.study.runs import distributed
from proxylib.study.runs.backbones import Backbone
from proxylib.study.runs.checkpoints import Checkpoint
from proxylib.study.runs.config import RunConfig, describe
from proxylib.study.runs.fit import fit
from proxylib.study.runs.loading import embed
from proxylib.study.runs.pretraining import pretrained_model
from proxylib.study.runs.trunk import features, start_at_means, start_at_pca, through_trunk

BOUND_ANCHORS = 400  # anchors that a recording of the bounds samples while training


@dataclass(frozen=True, eq=False)
class RunResult:
    """What a run leaves behind.

    Attributes:
        config: its configuration.
        history: one row per evaluation, see `fit`; `nmi` is given at both ends.
        embeddings: (N, D) float32 of all images of the evaluation classes after training, of unit
            length if the method's evaluation normalises (`METHODS[method].normalize`).
        weights: state of the trained network, see `model`.
        proxies: (P, D) float32, as trained (not rescaled); empty for a method without.
        assignment: (N,) int64 over the training points at the end; empty for a method without.
        network: arguments of `build_network` for the network.
    """

    config: RunConfig
    history: pd.DataFrame
    embeddings: np.ndarray
    weights: dict[str, np.ndarray]
    proxies: np.ndarray
    assignment: np.ndarray
    network: dict[str, object]

    @property
    def metrics(self) -> dict[str, float]:
        """`recall_at_1`, … and `nmi` after training, as fractions."""
        return self.history.filter(regex="^(recall_at_|nmi$)").iloc[-1].to_dict()

    @property
    def n_proxies(self) -> int:
        return len(self.proxies)

    def model(self) -> torch.nn.Module:
        """The trained network, in evaluation mode."""
        model = build_network(**self.network)
        model.load_state_dict({name: torch.from_numpy(w) for name, w in self.weights.items()})
        return model.eval()


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a run is computed on; results do not depend on it but for rounding.

    Attributes:
        device: `"cpu"` or `"cuda"`.
        threads: of the CPU. Only with one do runs repeat bit for bit.
        workers: processes that read image files ahead.
        channels_last: memory layout of a backbone, often faster: on GPUs, and on CPUs 1.3 times
            with the recipe `photos`.
        progress: show a bar.
    """

    device: str = "cpu"
    threads: int = 1
    workers: int = 0
    channels_last: bool = False
    progress: bool = False

    @classmethod
    def default(cls, config: RunConfig) -> "Machine":
        """A GPU if there is one, but not for the study's own network, which repeats on CPUs."""
        if config.backbone == "convnet" or not torch.cuda.is_available():
            return cls(channels_last=bool(config.frozen))
        return cls(device="cuda", workers=min(8, os.cpu_count() or 1), channels_last=True)


def execute(
    config: RunConfig,
    machine: Machine | None = None,
    folder: Path | None = None,
    checkpoint_every: int = 500,
    observe: Callable[[int, Objective], None] | None = None,
) -> RunResult:
    """Methods 900 and 1000 with the study's evaluation.

    Under torchrun each process takes its part of every batch (distributed.py); all return the
    same result.

    Args:
        machine: default `Machine.default(config)`.
        folder: existing; keeps the run's state and history there, and goes on from it.
        checkpoint_every: steps between two states.
        observe: called at every evaluation with the step and the objective as it then is.

    Raises:
        FloatingPointError: the loss is no longer finite; names step, configuration, and the
            last good state.
        ValueError: the folder holds another run; or as the parts say.
    """
    machine = machine or Machine.default(config)
    train_set, test_set = config.data()
    keep_freed_memory()
    with (
        _threads(machine.threads),
        torch.random.fork_rng(devices=range(torch.cuda.device_count())),
    ):
        torch.manual_seed(config.seed)
        # Proxies and batches have a stream of their own: else proxies resemble the network.
        other = int(np.random.SeedSequence(config.seed).generate_state(1)[0])
        generator = torch.Generator().manual_seed(other)
        model = starting_network(config, train_set.images).to(machine.device)
        if machine.channels_last:
            model = model.to(memory_format=torch.channels_last)
        whole = model = distributed.synchronized(model)
        about = {**describe(config), "data": train_set.fingerprint()}
        if config.frozen:  # the trunk's outputs take the place of the images, its tail that of it
            told = machine.progress and not distributed.rank()
            model, options = whole.tail(config.frozen), (machine.workers, told)
            train_set = through_trunk(whole, config.frozen, train_set, config.flip, *options)
            test_set = through_trunk(whole, config.frozen, test_set, False, *options)
        if config.embedding_start == "pca":
            seen = features(model, train_set, machine.workers)
            unseen = features(model, test_set, machine.workers)
            start_at_pca(model, seen)
        objective = build_objective(
            config.method, train_set.labels, model.dim, generator, **dict(config.options)
        ).to(machine.device)
        normalize = METHODS[config.method].normalize
        if config.embedding_start == "pca" and getattr(objective, "is_static", False):
            start_at_means(objective, embed(model.head(), seen, normalize=False))
        if distributed.rank():  # else dropout would be the same in every part of a batch
            torch.manual_seed(config.seed + distributed.rank())

        def embedded(images, normalize: bool = True) -> Tensor:
            return embed(model, images, normalize, workers=machine.workers)

        latest = None

        def evaluate(step: int) -> dict[str, float]:
            nonlocal latest
            if step == 0 and config.embedding_start == "pca":
                latest = embed(model.head(), unseen, normalize)
            else:
                latest = embedded(test_set.images, normalize)
            metrics = quality(latest, test_set, clusters=step in (0, config.steps))
            if config.record_bounds:
                metrics |= _bounds(config, step, embedded(train_set.images), objective)
            if observe:
                observe(step, objective)
            return metrics

        checkpoint = folder and Checkpoint(folder, checkpoint_every, about)
        table = fit(config, machine, model, objective, train_set, generator, evaluate, checkpoint)
        if latest is None:  # the checkpoint was that of the last step
            latest = embedded(test_set.images, normalize)
        has_proxies = METHODS[config.method].has_proxies
        proxies = objective.proxies.detach() if has_proxies else torch.empty(0, model.dim)
        assignment = objective.assignment if has_proxies else torch.empty(0, dtype=torch.int64)
        return RunResult(
            config,
            table,
            latest.numpy(),
            {name: tensor.cpu().numpy() for name, tensor in whole.state_dict().items()},
            proxies.cpu().numpy(),
            assignment.cpu().numpy(),
            network_of(config, *train_set.images.shape[1:3]),
        )


def network_of(config: RunConfig, channels: int, size: int) -> dict[str, object]:
    """Arguments of `build_network` for the run's network on images (channels, size, size)."""
    common = {"backbone": config.backbone, "dim": config.dim, "batch_norm": config.batch_norm}
    if config.backbone == "convnet":
        return common | {"channels": channels, "size": size}
    names = ("dropout", "freeze_batch_norm", "crop")
    return common | {name: getattr(config, name) for name in names}


def build_network(backbone: str, **options) -> torch.nn.Module:
    """A network with random weights: `ConvNet(**options)`, or a `Backbone` of that name."""
    return ConvNet(**options) if backbone == "convnet" else Backbone(backbone, **options)


def starting_network(config: RunConfig, images) -> torch.nn.Module:
    """The network as training on these images finds it; random weights from torch's generator."""
    network = network_of(config, *images.shape[1:3])
    if config.backbone != "convnet":
        return build_network(**network, weights=config.init == "pretrained")
    if config.init == "pretrained":
        return pretrained_model(**{k: v for k, v in network.items() if k != "backbone"})
    return build_network(**network).normalize_like(images)


def _bounds(
    config: RunConfig, step: int, embeddings: Tensor, objective: Objective
) -> dict[str, float]:
    return bound_statistics(
        embeddings,
        objective.labels.cpu(),
        objective.proxies.detach().cpu(),
        objective.assignment.cpu(),
        margin=dict(config.options).get("margin", 1.0),
        embedding_norm=objective.embedding_norm,
        proxy_norm=objective.proxy_norm,
        max_anchors=None if step == config.steps else BOUND_ANCHORS,
    )


@contextmanager
def _threads(n: int):
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        with threadpool_limits(n):
            yield
    finally:
        torch.set_num_threads(before)


@functools.cache
def keep_freed_memory() -> None:
    """Ask glibc to keep freed memory: by default tensors of some MB are mapped anew at every step.

    No result changes; on two cores a step of the study's network takes 13 instead of 22 ms.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_threshold = -1, -3  # of malloc.h
        libc.mallopt(trim_threshold, 2**30)
        libc.mallopt(mmap_threshold, 2**25)

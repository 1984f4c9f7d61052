"""One training run, from its configuration to its result."""

from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from proxylib.bounds import bound_statistics
from proxylib.config import RunConfig
from proxylib.datasets import Dataset
from proxylib.evaluation import embed, nmi, recall_at_k
from proxylib.methods import METHODS, build_objective
from proxylib.models import ConvNet
from proxylib.objectives import ProxyLoss
from proxylib.training import pretrained_model, train

BOUND_ANCHORS = 400  # anchors that a recording of the bounds samples while training


@dataclass(frozen=True, eq=False)
class RunResult:
    """What a run leaves behind.

    Attributes:
        config: its configuration.
        history: one row per evaluation, see `training.train`; `nmi` is given at both ends.
        embeddings: (N, D) float32 of the evaluation classes after training, of unit length if
            the method's evaluation normalises (`METHODS[method].normalize`).
        weights: state of the trained network, see `model`.
        proxies: (P, D) float32, as trained (not rescaled); empty for a method without.
        assignment: (N,) int64 over the training points at the end; empty for a method without.
    """

    config: RunConfig
    history: pd.DataFrame
    embeddings: np.ndarray
    weights: dict[str, np.ndarray]
    proxies: np.ndarray
    assignment: np.ndarray

    @property
    def metrics(self) -> dict[str, float]:
        """`recall_at_1`, … and `nmi` after training, as fractions."""
        row = self.history.iloc[-1]
        return {name: row[name] for name in self.history.columns if name[:3] in ("rec", "nmi")}

    def model(self) -> torch.nn.Module:
        """The trained network, in evaluation mode."""
        model = _network(self.config, self.config.data()[0])
        model.load_state_dict({name: torch.from_numpy(w) for name, w in self.weights.items()})
        return model.eval()


def execute(config: RunConfig) -> RunResult:
    """Methods 900 and 1000 with the study's network and evaluation, on one thread."""
    train_set, test_set = config.data()
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        generator = torch.Generator().manual_seed(config.seed)
        model = _network(config, train_set)
        objective = build_objective(
            config.method, train_set.labels, config.dim, generator, **dict(config.options)
        )
        groups = [{"params": list(model.parameters()), "lr": config.lr}]
        if learned := list(objective.parameters()):
            groups.append({"params": learned, "lr": config.proxy_lr})
        optimizer = getattr(torch.optim, config.optimizer)(groups)
        normalize = METHODS[config.method].normalize

        def evaluate(step: int) -> dict[str, float]:
            embeddings = embed(model, test_set.images, normalize)
            metrics = recall_at_k(embeddings, test_set.labels)
            if step in (0, config.steps):
                metrics["nmi"] = nmi(embeddings, test_set.labels)
            if config.record_bounds:
                metrics |= _bounds(config, step, embed(model, train_set.images), objective)
            return metrics

        table = train(
            model,
            objective,
            train_set,
            optimizer,
            steps=config.steps,
            batch_size=config.batch_size,
            generator=generator,
            augment=config.augment,
            evaluate=evaluate,
            eval_every=config.eval_every,
        )
        has_proxies = isinstance(objective, ProxyLoss)
        return RunResult(
            config,
            table,
            embed(model, test_set.images, normalize).numpy(),
            {name: tensor.numpy() for name, tensor in model.state_dict().items()},
            objective.proxies.detach().numpy() if has_proxies else np.empty((0, config.dim)),
            objective.assignment.numpy() if has_proxies else np.empty(0, np.int64),
        )


def _network(config: RunConfig, train_set: Dataset) -> torch.nn.Module:
    channels, size = train_set.images.shape[1:3]
    if config.init == "pretrained":
        return pretrained_model(channels, size, config.dim, config.batch_norm)
    network = ConvNet(channels, size, config.dim, batch_norm=config.batch_norm)
    return network.normalize_like(train_set.images)


def _bounds(
    config: RunConfig, step: int, embeddings: Tensor, objective: ProxyLoss
) -> dict[str, float]:
    options = dict(config.options)
    return bound_statistics(
        embeddings,
        objective.labels,
        objective.proxies.detach(),
        objective.assignment,
        margin=options["margin"],
        embedding_norm=options["embedding_norm"],
        proxy_norm=options["proxy_norm"],
        max_anchors=None if step == config.steps else BOUND_ANCHORS,
    )


@contextmanager
def _one_thread():
    """One thread, as in a worker: only then do runs repeat bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)

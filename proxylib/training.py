"""Algorithm 1, methods 900 and 1000: train the distance model and the proxies jointly."""

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor, nn

from proxylib.objectives import Objective

Batch = tuple[tuple[Tensor, ...], Tensor]  # index tensors of the sampler; images of the first


@dataclass(frozen=True)
class Step:
    """What one training step leaves behind."""

    number: int  # 1, 2, …
    loss: Tensor  # scalar, detached
    seconds: float  # how long it took, reading the batch included


def train(
    model: nn.Module,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    *,
    steps: int | None = None,
    first: int = 1,
    embed_all: Callable[[], Tensor] | None = None,
    forward: Callable[..., tuple[Tensor, Tensor]] | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> Iterator[Step]:
    """Minimise the objective over the model and whatever it learns itself (its proxies).

    Each `next` makes one step of Algorithm 1; what should happen between steps (evaluation,
    schedules, checkpoints) is up to the caller. The numbers are those of methods 900 and 1000.

    Args:
        model: images (B, C, H, W) → embeddings (B, D); trained in place.
        objective: loss and sampler of any method.
        optimizer: over the parameters of both.
        batches: pairs of a batch of `objective.batches`, on the model's device, and the images
            (B, C, H, W) of the points in its first entry.
        steps: how many to make; None = as many as there are batches, if these have a length,
            else without end.
        first: number of the first step.
        embed_all: gives the embeddings (N, D) of all training points, in order; needed by
            dynamic assignment only.
        forward: (images, *batch) → loss and embeddings, in place of model and objective called
            one after the other, e.g. both wrapped for several processes.
        scaler: of the gradient, for training in float16.

    Yields:
        One `Step` after each update.

    Raises:
        FloatingPointError: the loss is no longer finite; names the step and the points.

    Example:
        >>> trained = train(model, objective, optimizer, batches, steps=500)  # doctest: +SKIP
        >>> losses = [step.loss.item() for step in trained]  # doctest: +SKIP
    """
    scaler = scaler or torch.amp.GradScaler(enabled=False)
    steps = len(batches) if steps is None and isinstance(batches, Sized) else steps
    batches = iter(batches)
    model.train()
    for step in count(first) if steps is None else range(first, first + steps):
        began = time.perf_counter()
        objective.before_step(step, embed_all)  # 902, 904; 1002, 1004, 1016
        if (drawn := next(batches, None)) is None:  # 906
            return
        batch, images = drawn
        if forward:
            loss, embeddings = forward(images, *batch)
        else:
            embeddings = model(images)  # 908, 910
            loss = objective(embeddings, *batch)  # 912
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        if not loss.isfinite():
            bad = batch[0][~embeddings.isfinite().all(1)].tolist()
            where = f" (embeddings of training points {bad[:5]} are not finite)" if bad else ""
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {step}{where}: lower the learning rates, or "
                "fix the norms of embeddings and proxies"
            )
        scaler.step(optimizer)  # 914
        scaler.update()
        yield Step(step, loss.detach(), time.perf_counter() - began)

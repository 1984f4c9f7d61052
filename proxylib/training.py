"""Algorithm 1, methods 900 and 1000: train the distance model and the proxies jointly."""

import ctypes
import functools
import math
import sys
import time
from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from proxylib import distributed
from proxylib.augmentation import Augmentation
from proxylib.checkpoints import Checkpoint, random_state, set_random_state
from proxylib.datasets import Dataset
from proxylib.evaluation import embed
from proxylib.loading import image_batches
from proxylib.objectives import Objective

AFFINE = Augmentation(affine=True)
PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Learning rates by the share of the training that is done, as factors.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}


def train(
    model: nn.Module,
    objective: Objective,
    dataset: Dataset,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    batch_size: int,
    generator: torch.Generator,
    augment: Augmentation = AFFINE,
    evaluate: Callable[[int], dict[str, float]] = lambda step: {},
    eval_every: int = 0,
    schedule: str = "constant",
    clip_grad: float = 0.0,
    precision: str = "float32",
    workers: int = 0,
    checkpoint: Checkpoint | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Minimise the objective over the model and whatever the objective learns (its proxies).

    Among several processes (distributed.py) each embeds its part of every batch; the loss is that
    of the whole batch, as if there were one.

    Args:
        model: images (B, C, H, W) → embeddings (B, D); trained in place.
        objective: of any method; brings its batches and whatever it learns (its proxies).
        dataset: the training classes.
        optimizer: any torch optimiser over the parameters of both.
        steps, batch_size: batches to see, and embedded points in each.
        generator: source of batch order and augmentation.
        augment: random changes of each batch of images.
        evaluate: called with the step before training, every `eval_every` steps (0 = never)
            and after the last one; returns named metrics.
        schedule: of the learning rates, a name in `SCHEDULES`.
        clip_grad: largest norm of the model's gradient; 0 = any.
        precision: in which the model computes, a name in `PRECISIONS`; losses are float32.
        workers: processes that read image files ahead.
        checkpoint: where the run goes on if it was stopped, and keeps its state meanwhile.

    Returns:
        One row per evaluation: `step`, `samples` seen, `seconds` of training so far (without
        the evaluations), mean `loss` since the last row (NaN before training), the objective's
        and `evaluate`'s metrics.

    Raises:
        FloatingPointError: the loss is no longer finite; names the step and the points.
        ValueError: a checkpoint of another run.
    """
    _keep_freed_memory()
    distributed.check_batch(batch_size)
    device, part = next(model.parameters()).device, distributed.share(batch_size)
    # What is read ahead is drawn ahead: such batches must not share a generator with the rest.
    ahead = generator if isinstance(dataset.images, Tensor) else _child(generator)
    stream = objective.batches(batch_size, ahead) if steps else None  # no steps: any batch will do
    step_module = distributed.parallel(_Step(model, objective, PRECISIONS[precision]))
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    rates = [group["lr"] for group in optimizer.param_groups]
    parts = {"model": model, "objective": objective, "optimizer": optimizer, "scaler": scaler}
    rows, losses, seconds, done = [], [], 0.0, 0

    def embed_all() -> Tensor:
        distributed.same_buffers(model)
        return embed(model, dataset.images, normalize=False, workers=workers)

    def record(step: int) -> None:
        distributed.same_buffers(model)
        loss = torch.stack(losses).mean().item() if losses else float("nan")
        rows.append(
            {
                "step": step,
                "samples": step * batch_size,
                "seconds": seconds,
                "loss": loss,
                **objective.metrics(),
                **evaluate(step),
            }
        )
        losses.clear()
        if checkpoint and not distributed.rank():
            checkpoint.write_history(rows)

    def save(step: int, stream_state: dict) -> None:
        if distributed.rank():
            return
        checkpoint.save(
            {
                "step": step,
                "seconds": seconds,
                "rows": rows,
                "losses": torch.stack(losses).cpu() if losses else torch.empty(0),
                "parts": {name: part.state_dict() for name, part in parts.items()},
                "stream": stream_state,
                "generator": generator.get_state(),
                "random": random_state(device),
            }
        )

    state = checkpoint.load() if checkpoint else None
    if state is None:
        record(0)
    else:
        done, seconds, rows = state["step"], state["seconds"], state["rows"]
        losses = list(state["losses"].to(device))
        for name, one in parts.items():
            one.load_state_dict(state["parts"][name])
        generator.set_state(state["generator"])
        stream.load_state_dict(state["stream"])
        set_random_state(state["random"], device)
        if distributed.rank():  # it is process 0's, and each has a dropout of its own
            torch.manual_seed(done * distributed.size() + distributed.rank())
    batches = image_batches(dataset.images, stream, part, workers)
    model.train()
    bar = tqdm(range(done + 1, steps + 1), disable=not progress, unit="step")
    for step in bar:
        began = time.perf_counter()
        objective.before_step(step, embed_all)  # 902, 904; 1002, 1004, 1016
        batch, images, stream_state = next(batches)  # 906
        images = augment(images.to(device), generator, batch_size, part)
        batch = [indices.to(device) for indices in batch]
        loss, embeddings = step_module(images, *batch)  # 908, 910, 912
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        if not loss.isfinite():
            bad = batch[0][~embeddings.isfinite().all(1)].tolist()
            where = f" (embeddings of training points {bad[:5]} are not finite)" if bad else ""
            last = ""
            if checkpoint and checkpoint.file.exists():
                last = f"; the last good checkpoint is {checkpoint.file}"
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {step}{where}: lower the learning rates, or "
                f"fix the norms of embeddings and proxies{last}"
            )
        if clip_grad:
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), clip_grad)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * SCHEDULES[schedule]((step - 1) / steps)
        scaler.step(optimizer)  # 914
        scaler.update()
        losses.append(loss.detach())
        seconds += time.perf_counter() - began
        if step == steps or (eval_every and step % eval_every == 0):
            record(step)
        if checkpoint and (step == steps or step % checkpoint.every == 0):
            save(step, stream_state())
    return pd.DataFrame(rows)


class _Step(nn.Module):
    """Model and objective as one, for DistributedDataParallel sees to the gradients of both."""

    def __init__(self, model: nn.Module, objective: Objective, dtype: torch.dtype | None):
        super().__init__()
        self.model, self.objective, self.dtype = model, objective, dtype

    def forward(self, images: Tensor, *batch: Tensor) -> tuple[Tensor, Tensor]:
        """This process's images and the whole batch → loss and embeddings of the whole batch."""
        with torch.autocast(images.device.type, self.dtype, enabled=self.dtype is not None):
            embeddings = self.model(images)
        embeddings = distributed.gather(embeddings.float() if self.dtype else embeddings)
        return self.objective(embeddings, *batch), embeddings


def _child(generator: torch.Generator) -> torch.Generator:
    seed = torch.randint(2**62, (), generator=generator).item()
    return torch.Generator().manual_seed(seed)


@functools.cache
def _keep_freed_memory() -> None:
    """Ask glibc to keep freed memory: by default tensors of some MB are mapped anew at every step.

    No result changes; on two cores a step of the study's network takes 13 instead of 22 ms.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_threshold = -1, -3  # of malloc.h
        libc.mallopt(trim_threshold, 2**30)
        libc.mallopt(mmap_threshold, 2**25)

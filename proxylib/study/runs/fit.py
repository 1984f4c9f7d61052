"""The study's training loop: `training.train` with history, schedule and checkpoints."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm import tqdm

from proxylib.datasets import Dataset
from proxylib.objectives import Objective
from proxylib.study.runs import distributed
from proxylib.study.runs.augmentation import Augmentation
from proxylib.study.runs.checkpoints import Checkpoint, random_state, set_random_state
from proxylib.study.runs.config import PRECISIONS, SCHEDULERS, RunConfig
from proxylib.study.runs.loading import Batches, embed
from proxylib.training import train

if TYPE_CHECKING:
    from proxylib.study.runs.execution import Machine


def fit(
    config: RunConfig,
    machine: "Machine",
    model: nn.Module,
    objective: Objective,
    dataset: Dataset,
    generator: torch.Generator,
    evaluate: Callable[[int], dict[str, float]] = lambda step: {},
    checkpoint: Checkpoint | None = None,
) -> pd.DataFrame:
    """Train model and objective in place, as the configuration says.

    Among several processes (distributed.py) each embeds its part of every batch; the loss is that
    of the whole batch, as if there were one.

    Args:
        config: steps, batch, optimiser, schedule, augmentation and precision are read.
        machine: its reading processes and its bar.
        model: images (B, C, H, W), or what a frozen trunk made of them → embeddings (B, D).
        objective: of any method.
        dataset: the training classes.
        generator: source of batch order and augmentation.
        evaluate: called with the step before training, every `eval_every` steps (0 = never)
            and after the last one; returns named metrics.
        checkpoint: where the run goes on if it was stopped, and keeps its state meanwhile.

    Returns:
        One row per evaluation: `step`, `samples` seen, `seconds` of training so far (without
        the evaluations), mean `loss` since the last row (NaN before training), the objective's
        and `evaluate`'s metrics.

    Raises:
        FloatingPointError: the loss is no longer finite; names the last good checkpoint.
        ValueError: a checkpoint of another run.
    """
    steps, device = config.steps, next(model.parameters()).device
    optimizer = build_optimizer(config, model, objective)
    scheduler = SCHEDULERS[config.schedule](optimizer, steps)
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
    rows, losses, seconds, done = [], [], 0.0, 0

    def record(step: int) -> None:
        distributed.same_buffers(model)
        loss = torch.stack(losses).mean().item() if losses else float("nan")
        row = {"step": step, "samples": step * config.batch_size, "seconds": seconds, "loss": loss}
        rows.append(row | objective.metrics() | evaluate(step))
        losses.clear()
        if checkpoint and not distributed.rank():
            checkpoint.write_history(rows)

    if not steps:
        record(0)
        return pd.DataFrame(rows)
    augment = Augmentation(config.augment, config.crop, config.flip, bool(config.frozen))
    size = config.batch_size
    batches = Batches(objective, dataset.images, size, generator, augment, device, machine.workers)
    parts = {"model": model, "objective": objective, "optimizer": optimizer, "scaler": scaler}
    parts |= {"scheduler": scheduler, "batches": batches}
    if state := checkpoint.load() if checkpoint else None:
        done, seconds, rows = state["step"], state["seconds"], state["rows"]
        losses = list(state["losses"].to(device))
        try:
            if not 0 < done <= steps:
                raise ValueError(f"step {done} of {steps}")
            for name, part in parts.items():
                saved = state["parts"][name]
                if saved.keys() != part.state_dict().keys():
                    raise ValueError(f"{name} with {', '.join(saved) or 'nothing'}")
                part.load_state_dict(saved)
            generator.set_state(state["generator"])
            set_random_state(state["random"], device)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{checkpoint.file}: not a state of this run: {error}") from error
        if distributed.rank():  # it is process 0's, and each has a dropout of its own
            torch.manual_seed(done * distributed.size() + distributed.rank())
    else:
        record(0)

    def save(step: int) -> None:
        state = {
            "step": step,
            "seconds": seconds,
            "rows": rows,
            "losses": torch.stack(losses).cpu() if losses else torch.empty(0),
            "parts": {name: part.state_dict() for name, part in parts.items()},
            "generator": generator.get_state(),
            "random": random_state(device),
        }
        checkpoint.save(state)

    def embed_all() -> Tensor:
        distributed.same_buffers(model)
        return embed(model, dataset.images, normalize=False, workers=machine.workers)

    trained = train(
        model,
        objective,
        optimizer,
        batches,
        steps=steps - done,
        first=done + 1,
        embed_all=embed_all,
        forward=distributed.joint(model, objective, PRECISIONS[config.precision]),
        scaler=scaler,
    )
    hidden = not machine.progress or bool(distributed.rank())
    bar = tqdm(trained, total=steps, initial=done, disable=hidden, unit="step")
    try:
        for step in bar:
            scheduler.step()
            losses.append(step.loss)
            seconds += step.seconds
            last = step.number == steps
            if last or (config.eval_every and step.number % config.eval_every == 0):
                record(step.number)
            if (
                checkpoint
                and not distributed.rank()
                and (last or step.number % checkpoint.every == 0)
            ):
                save(step.number)
    except FloatingPointError as error:
        kept = checkpoint and checkpoint.file.exists()
        more = f"; the last good checkpoint is {checkpoint.file}" if kept else ""
        raise FloatingPointError(f"{error}{more}\nof the run {config}") from None
    return pd.DataFrame(rows)


def build_optimizer(
    config: RunConfig, model: nn.Module, objective: Objective
) -> torch.optim.Optimizer:
    """The run's optimiser; the model's gradient is clipped before each of its steps."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": trained, "lr": config.lr, "weight_decay": config.weight_decay}]
    if learned := list(objective.parameters()):
        groups.append({"params": learned, "lr": config.proxy_lr, "weight_decay": 0.0})
    optimizer = getattr(torch.optim, config.optimizer)(groups)

    def clip(*_) -> None:
        nn.utils.clip_grad_norm_(trained, config.clip_grad)

    if config.clip_grad:
        optimizer.register_step_pre_hook(clip)
    return optimizer

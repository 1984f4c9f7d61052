"""Algorithm 1, methods 900 and 1000: train the distance model and the proxies jointly."""

import ctypes
import dataclasses
import functools
import sys
import time
from collections.abc import Callable

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from proxylib.baselines import Classification
from proxylib.caching import cached, code_fingerprint
from proxylib.datasets import Dataset, load
from proxylib.evaluation import embed
from proxylib.models import ConvNet
from proxylib.objectives import Objective


def random_affine(
    images: Tensor,
    generator: torch.Generator,
    degrees: float = 7.0,
    shear: float = 0.2,
    scale: float = 0.15,
    shift: float = 0.06,
) -> Tensor:
    """Each image of the batch turned, stretched and moved at random; the border is continued.

    Args:
        images: (B, C, H, W) uint8 or float.
        degrees, shear, scale, shift: standard deviations of the turn, of the slant (tangent), of
            the log of the stretch along each axis, and of the move in units of the image's side.
            All are cut at 2σ.

    Returns:
        (B, C, H, W) float32.
    """
    z = torch.randn(len(images), 6, generator=generator).clamp(-2, 2)
    angle, slant = z[:, 0] * (degrees * torch.pi / 180), shear * z[:, 1]
    cos, sin = angle.cos(), angle.sin()
    turned = torch.stack([cos, slant * cos - sin, sin, slant * sin + cos], 1).view(-1, 2, 2)
    stretched = turned * torch.exp(scale * z[:, None, 2:4])
    theta = torch.cat([stretched, 2 * shift * z[:, 4:, None]], 2)
    grid = functional.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    return functional.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)


def train(
    model: nn.Module,
    objective: Objective,
    dataset: Dataset,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    batch_size: int,
    generator: torch.Generator,
    augment: bool = True,
    evaluate: Callable[[int], dict[str, float]] = lambda step: {},
    eval_every: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """Minimise the objective over the model and whatever the objective learns (its proxies).

    Args:
        model: images (B, C, H, W) → embeddings (B, D); trained in place.
        objective: of any method; brings its batches and whatever it learns (its proxies).
        dataset: the training classes.
        optimizer: any torch optimiser over the parameters of both.
        steps, batch_size: batches to see, and embedded points in each.
        generator: source of batch order and augmentation.
        augment: apply `random_affine` to each batch.
        evaluate: called with the step before training, every `eval_every` steps (0 = never)
            and after the last one; returns named metrics.

    Returns:
        One row per evaluation: `step`, `samples` seen, `seconds` of training so far (without
        the evaluations), mean `loss` since the last row (NaN before training), the objective's
        and `evaluate`'s metrics.

    Raises:
        FloatingPointError: the loss is no longer finite; names the step and the points.
    """
    _keep_freed_memory()
    device = next(model.parameters()).device
    batches = objective.batches(batch_size, generator)
    rows, losses, seconds = [], [], 0.0

    def embed_all() -> Tensor:
        return embed(model, dataset.images, normalize=False)

    def record(step: int) -> None:
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

    record(0)
    model.train()
    for step in tqdm(range(1, steps + 1), disable=not progress, unit="step"):
        began = time.perf_counter()
        objective.before_step(step, embed_all)  # 902, 904; 1002, 1004, 1016
        batch = next(batches)  # 906
        images = dataset.images[batch[0]].to(device)
        if augment:
            images = random_affine(images, generator)
        embeddings = model(images)  # 908, 910
        loss = objective(embeddings, *(indices.to(device) for indices in batch))  # 912
        optimizer.zero_grad()
        loss.backward()
        if not loss.isfinite():
            bad = batch[0][~embeddings.isfinite().all(1).cpu()].tolist()
            where = f" (embeddings of training points {bad[:5]} are not finite)" if bad else ""
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {step}{where}: lower the learning rates, or "
                "fix the norms of embeddings and proxies"
            )
        optimizer.step()  # 914
        losses.append(loss.detach())
        seconds += time.perf_counter() - began
        if step == steps or (eval_every and step % eval_every == 0):
            record(step)
    return pd.DataFrame(rows)


@functools.cache
def _keep_freed_memory() -> None:
    """Ask glibc to keep freed memory: by default tensors of some MB are mapped anew at every step.

    No result changes; on two cores a step of the study's network takes 13 instead of 22 ms.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        trim_threshold, mmap_threshold = -1, -3  # of malloc.h
        libc.mallopt(trim_threshold, 2**30)
        libc.mallopt(mmap_threshold, 2**25)


def pretrained_model(
    channels: int, size: int, dim: int, batch_norm: bool = False, steps: int = 1200
) -> ConvNet:
    """The network after plain classification of other scripts, `init="pretrained"`.

    The patent fine-tunes a network that has learned to tell other things apart (ILSVRC); to kanji,
    Latin letters, digits, kana and radicals are such things. Softmax over the 260 characters of
    `load("kanji", subset="other")` × 40 images; one fixed seed, run once and then read from the
    cache.

    Args:
        channels, size, dim, batch_norm: see `ConvNet`.
        steps: batches of 32 images, Adam with learning rate 1e-3.
    """
    data = load("kanji", subset="other", n_images=40, size=size)
    code = code_fingerprint(
        "training.py", "models.py", "baselines.py", "objectives.py", "samplers.py"
    )
    key = f"{code} {data.fingerprint()} {torch.__version__}"
    model = ConvNet(channels, size, dim, batch_norm=batch_norm)
    model.load_state_dict(cached(_pretrain, channels, size, dim, batch_norm, steps, key))
    return model


def _pretrain(
    channels: int, size: int, dim: int, batch_norm: bool, steps: int, key: str
) -> dict[str, Tensor]:
    data = load("kanji", subset="other", n_images=40, size=size)
    images = data.images.expand(-1, channels, -1, -1)
    data = dataclasses.replace(data, images=images)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # only then does it repeat bit for bit
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = ConvNet(channels, size, dim, batch_norm=batch_norm).normalize_like(images)
            objective = Classification(data.labels, dim)
        train(
            model,
            objective,
            data,
            torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=1e-3),
            steps=steps,
            batch_size=32,
            generator=torch.Generator().manual_seed(0),
        )
    finally:
        torch.set_num_threads(threads)
    return model.state_dict()

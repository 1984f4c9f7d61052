"""Algorithm 1 and method 900: train the distance model and the proxies jointly."""

import time
from collections.abc import Callable, Iterator

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from proxylib.datasets import Dataset


def anchor_batches(labels: Tensor, batch_size: int, generator: torch.Generator) -> Iterator:
    """Endless stream of anchors and positives (step 906; line 3 of Algorithm 1).

    Anchors go through the training set in random order, again and again; the positive y ≠ x is
    drawn evenly from the other points of the anchor's label.

    Yields:
        (anchors, positives), both (batch_size,) int64 indices of training points.

    Raises:
        ValueError: a label with one point only, or a batch larger than the training set.
    """
    n = len(labels)
    if not 1 <= batch_size <= n:
        raise ValueError(f"batch_size={batch_size}: expected 1 … {n}, the training points")
    count = labels.bincount()
    if (count == 1).any():
        lonely = (count == 1).nonzero().flatten()[:10].tolist()
        raise ValueError(f"labels {lonely} have one point only: an anchor there has no positive")
    by_label = labels.argsort(stable=True)
    start = count.cumsum(0) - count
    rank = torch.empty_like(labels)  # place of each point among those of its label
    rank[by_label] = torch.arange(n) - start[labels[by_label]]
    queue = torch.empty(0, dtype=torch.int64)
    while True:
        while len(queue) < batch_size:
            queue = torch.cat([queue, torch.randperm(n, generator=generator)])
        anchors, queue = queue[:batch_size], queue[batch_size:]
        of_label = count[labels[anchors]]
        step = 1 + (torch.rand(batch_size, generator=generator) * (of_label - 1)).long()
        positives = by_label[start[labels[anchors]] + (rank[anchors] + step) % of_label]
        yield anchors, positives


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
    objective: nn.Module,
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
        objective: (embeddings, anchors, positives) → scalar loss.
        dataset: the training classes.
        optimizer: any torch optimiser over the parameters of both.
        steps, batch_size: batches to see, and anchors in each.
        generator: source of batch order and augmentation.
        augment: apply `random_affine` to each batch.
        evaluate: called with the step before training, every `eval_every` steps (0 = never)
            and after the last one; returns named metrics.

    Returns:
        One row per evaluation: `step`, `samples` seen, `seconds` of training so far (without
        the evaluations), mean `loss` since the last row (NaN before training), the metrics.

    Raises:
        FloatingPointError: the loss is no longer finite; names the step.
    """
    device = next(model.parameters()).device
    batches = anchor_batches(dataset.labels, batch_size, generator)
    rows, losses, seconds = [], [], 0.0

    def record(step: int) -> None:
        loss = torch.stack(losses).mean().item() if losses else float("nan")
        rows.append(
            {
                "step": step,
                "samples": step * batch_size,
                "seconds": seconds,
                "loss": loss,
                **evaluate(step),
            }
        )
        losses.clear()

    record(0)
    model.train()
    for step in tqdm(range(1, steps + 1), disable=not progress, unit="step"):
        began = time.perf_counter()
        anchors, positives = next(batches)  # 906
        images = dataset.images[anchors].to(device)
        if augment:
            images = random_affine(images, generator)
        embeddings = model(images)  # 908, 910
        loss = objective(embeddings, anchors.to(device), positives.to(device))  # 912
        optimizer.zero_grad()
        loss.backward()
        if not loss.isfinite():
            raise FloatingPointError(
                f"the loss is {loss.item()} at step {step}: lower the learning rates, or fix the "
                "norms of embeddings and proxies"
            )
        optimizer.step()  # 914
        losses.append(loss.detach())
        seconds += time.perf_counter() - began
        if step == steps or (eval_every and step % eval_every == 0):
            record(step)
    return pd.DataFrame(rows)

"""How much retrieval suffers when the queries are turned (FIG. 5 shows such cases)."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional

from proxylib.datasets import Dataset
from proxylib.datasets.code import code_of
from proxylib.retrieval import embed, nearest_neighbors, recall_at_k
from proxylib.study.methods import METHODS
from proxylib.study.runs import RunConfig, run, sweep
from proxylib.study.runs.cache import check_fingerprint
from proxylib.study.runs.trunk import behind_trunk


def turn(images: Tensor, angle: float) -> Tensor:
    """Images turned about their centre, float32; corners are cut, the border is continued.

    Args:
        images: (B, C, H, W) uint8 or float, H = W.
        angle: degrees, anticlockwise as one sees it.
    """
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    theta = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]]).expand(len(images), 2, 3)
    grid = functional.affine_grid(theta, list(images.shape), align_corners=False)
    return functional.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)


class Turned:
    """The images of a data set, turned as they are read; takes the place of `ImageFiles`."""

    def __init__(self, data: Dataset, angle: float):
        self.data, self.angle, self.shape = data, angle, data.images.shape

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return turn(self.data.images[rows], self.angle)

    def split(self, size: int) -> Iterator[Tensor]:
        return (self[rows] for rows in torch.arange(len(self)).split(size))

    def fingerprint(self) -> str:
        return f"{self.data.fingerprint()} {self.angle} {code_of(turn)}"


def rotation(
    configs: Iterable[RunConfig], angles: Iterable[float], jobs: int = -1, progress: bool = True
) -> pd.DataFrame:
    """Recall@1 of turned queries among the upright images of the classes of evaluation.

    A query's own upright image is left out, as always; a data set with queries of its own turns
    those, and searches its gallery. At 0 degrees it is the run's own Recall@1. Results are cached
    like runs.

    Args:
        configs: runs, trained if they are not in the cache.
        angles: degrees, anticlockwise.
        jobs, progress: see `runs.sweep`.

    Returns:
        One row per run and angle: `method`, `seed`, `angle`, `recall_at_1`.
    """
    tasks = [(config, float(angle)) for config in configs for angle in angles]
    turned = sweep(
        [config for config, _ in tasks],
        jobs,
        progress,
        work=turned_recall,
        arguments=[(angle,) for _, angle in tasks],
    )
    rows = [(one.config.method, one.config.seed, one.angle, one.recall_at_1) for one in turned]
    return pd.DataFrame(rows, columns=["method", "seed", "angle", "recall_at_1"])


@dataclass(frozen=True)
class Turn:
    """Recall@1 of a run whose queries were turned by `angle` degrees."""

    config: RunConfig
    angle: float
    recall_at_1: float

    @classmethod
    def rebuild(cls, config: RunConfig, record: dict) -> "Turn":
        return cls(config, *record["arguments"], record["recall_at_1"])


def turned_recall(config: RunConfig, key: str, angle: float) -> Turn:
    """The run at one angle, see `rotation`; for `sweep(…, work=turned_recall)`."""
    check_fingerprint(config, key, turned_recall)
    return Turn(config, angle, _turned_recall(config, angle))


turned_recall.rebuild = Turn.rebuild


def _turned_recall(config: RunConfig, angle: float) -> float:
    result, (_, test) = run(config), config.data()
    if not angle:
        return result.metrics["recall_at_1"]
    upright = torch.from_numpy(result.embeddings)
    asked = test if test.queries is None else test.select(test.queries)
    turned = replace(asked, images=Turned(asked, angle))
    model, images = behind_trunk(config, result.model(), turned)
    embeddings = embed(model, images, METHODS[config.method].normalize)
    if test.queries is not None:
        gallery = upright[~test.queries], test.labels[~test.queries]
        return recall_at_k(embeddings, asked.labels, (1,), gallery)["recall_at_1"]
    near, _ = nearest_neighbors(embeddings, 2, upright)
    itself = torch.arange(len(near))
    first = torch.where(near[:, 0] == itself, near[:, 1], near[:, 0])
    return (test.labels[first] == test.labels).double().mean().item()

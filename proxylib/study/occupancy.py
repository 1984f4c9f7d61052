"""How many points each proxy serves while method 1000 trains (notebook 06)."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from proxylib.objectives import Objective
from proxylib.study.runs import RunConfig, RunResult
from proxylib.study.runs.cache import RecordedRun, check_fingerprint
from proxylib.study.runs.execution import execute


@dataclass(frozen=True, eq=False)
class Occupancy:
    """A run, seen at every evaluation but that before training, where nothing is assigned yet.

    Attributes:
        result: the run.
        points: (E, P) int64, the points that each proxy serves.
        together: (E,) float64, the share of points that are on the same proxy as most of their
            label: 1 if no label is torn apart.
    """

    result: RunResult | RecordedRun
    points: np.ndarray
    together: np.ndarray

    def table(self) -> pd.DataFrame:
        """One row per evaluation: `step`, `dead`, `largest`, `together`, `recall_at_1`.

        `dead` is the share of proxies without a point, `largest` the share of the points that the
        proxy with most of them serves; all are fractions.
        """
        seen = self.result.history.iloc[1:].reset_index(drop=True)
        return pd.DataFrame(
            {
                "seed": self.result.config.seed,
                "step": seen["step"],
                "dead": (self.points == 0).mean(1),
                "largest": self.points.max(1) / self.points[0].sum(),
                "together": self.together,
                "recall_at_1": seen["recall_at_1"],
            }
        )

    @property
    def config(self) -> RunConfig:
        return self.result.config

    @classmethod
    def rebuild(cls, config: RunConfig, record: dict) -> "Occupancy":
        result = RecordedRun.rebuild(config, record)
        return cls(result, np.array(record["points"]), np.array(record["together"]))


def occupancy(config: RunConfig, key: str) -> Occupancy:
    """Train a method with proxies and watch its assignment; for `sweep(…, work=occupancy)`."""
    check_fingerprint(config, key, occupancy)
    labels = config.data()[0].labels.numpy()
    points, together = [], []

    def observe(step: int, objective: Objective) -> None:
        if step:
            assigned = objective.assignment.cpu().numpy()
            shared = np.zeros((labels.max() + 1, objective.n_proxies), dtype=np.int64)
            np.add.at(shared, (labels, assigned), 1)
            points.append(shared.sum(0))
            together.append(shared.max(1).sum() / len(labels))

    result = execute(config, observe=observe)
    return Occupancy(result, np.array(points), np.array(together))


occupancy.rebuild = Occupancy.rebuild

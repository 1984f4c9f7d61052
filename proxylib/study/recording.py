"""Which finished runs of the cache are recorded with the project, see `runs/records.py`."""

import ast
from collections.abc import Callable
from dataclasses import dataclass

from proxylib.datasets.caching import finished
from proxylib.study.occupancy import Occupancy, occupancy
from proxylib.study.rotation import Turn, turned_recall
from proxylib.study.runs import RunResult, fingerprint, records
from proxylib.study.runs.cache import train_run


@dataclass(frozen=True)
class Recorded:
    """How many runs were new, how many are in the file now, and how many of the cache are not.

    Those are left out that were made by other code, on other data, or with other versions.
    """

    new: int
    total: int
    left_out: int


def record(dataset: str) -> Recorded:
    """Add all finished runs of a data set that a sweep would find in the cache today.

    What is recorded already stays, with the seconds that the committed tables show.

    Raises:
        ValueError: the file of records is damaged.
        OSError: it can't be written.
    """
    known = dict(records.read(dataset))
    before, left_out = len(known), 0
    for work in (train_run, occupancy, turned_recall):
        for arguments, load in finished(work):
            if f"RunConfig(dataset={dataset!r}," not in arguments["config"]:
                continue
            if found := _record(work, ast.literal_eval(arguments["key"]), load):
                known.setdefault(records.identity(found), found)
            else:
                left_out += 1
    records.save(dataset, known.values())
    return Recorded(len(known) - before, len(known), left_out)


def _record(work: Callable, key: str, load: Callable) -> dict | None:
    """The record of a result; None if it is not of today's code, data and versions."""
    try:
        result = load()
        if key != fingerprint(result.config, work):
            return None
    except (KeyError, ImportError, OSError, ValueError):  # a method or data that is no more
        return None
    arguments = [result.angle] if isinstance(result, Turn) else []
    return records.record_of(work.__name__, result.config, key, *arguments) | _measured(result)


def _measured(result: RunResult | Occupancy | Turn) -> dict[str, object]:
    """What is recorded of a result, fit for JSON; its work's `rebuild` reads it."""
    match result:
        case RunResult():
            return {"n_proxies": result.n_proxies, "history": result.history.to_dict("list")}
        case Occupancy():
            watched = {"points": result.points.tolist(), "together": result.together.tolist()}
            return _measured(result.result) | watched
        case Turn():
            return {"recall_at_1": result.recall_at_1}

"""Which finished runs of the cache are recorded with the project, see `runs/records.py`."""

import ast
from collections.abc import Iterator

from proxylib.datasets.caching import finished
from proxylib.study.occupancy import occupancy
from proxylib.study.rotation import turned_recall
from proxylib.study.runs import fingerprint, records
from proxylib.study.runs.cache import _run


def record(dataset: str) -> int:
    """Record all finished runs of a data set that today's code would find in the cache.

    Returns:
        How many records its file has now.
    """
    return records.add(dataset, _found(dataset))


def _found(dataset: str) -> Iterator[dict]:
    for work in (_run, occupancy, turned_recall):
        for arguments, result in finished(work):
            key = ast.literal_eval(arguments["key"])  # there as it is written in Python
            config = result.config
            if config.dataset == dataset and key.endswith(fingerprint(config)):
                yield records.record_of(work.__name__, config, key, **result.record())

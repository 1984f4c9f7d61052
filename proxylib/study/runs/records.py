"""What finished runs measured, as text in one file per data set, committed with its figures.

With it a fresh checkout makes every table and curve of the full tier anew, without training. The
file has a line of JSON for each run: its configuration (`run`), the fingerprint of its code, data
and versions (`key`), and its results. `pandas.read_json(file, lines=True)` reads it.
"""

import functools
import gzip
import json
import zlib
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from proxylib.datasets.paths import PROJECT
from proxylib.study.runs.config import RunConfig, describe


def file_of(dataset: str) -> Path:
    """The project's records of a data set."""
    return PROJECT / "figures" / f"{dataset}-full" / "runs.jsonl.gz"


def find(work: str, config: RunConfig, key: str) -> dict | None:
    """What was recorded of this run under this fingerprint; None if nothing was.

    Args:
        work: name of the function that made the result, e.g. `"occupancy"`.
    """
    file = file_of(config.dataset)
    if not file.is_file():
        return None
    known = _read(file, file.stat().st_mtime_ns)
    return known.get(_identity(record_of(work, config, key)))


def record_of(work: str, config: RunConfig, key: str, **measured: object) -> dict:
    """A record; arguments as in `find`, and what was measured, all of it fit for JSON.

    The folder of the data is left out: its fingerprint, in `key`, stands for the data anywhere.
    """
    run = {name: value for name, value in describe(config).items() if name != "data_root"}
    return {"work": work, "run": run, "key": key, **measured}


def add(dataset: str, records: Iterable[dict]) -> int:
    """Put records into the file of their data set; returns how many it has now.

    One that the file has already is replaced.
    """
    file = file_of(dataset)
    known = dict(_read(file, file.stat().st_mtime_ns)) if file.is_file() else {}
    known |= {_identity(record): record for record in records}
    lines = "".join(f"{json.dumps(known[name])}\n" for name in sorted(known))
    file.parent.mkdir(parents=True, exist_ok=True)
    # No time in it: the same records make the same file.
    file.write_bytes(gzip.compress(lines.encode(), mtime=0))
    return len(known)


def as_lists(table: pd.DataFrame) -> dict[str, list]:
    """A table for JSON, which `pandas.DataFrame` turns back, every bit the same."""
    return {name: column.tolist() for name, column in table.items()}


@functools.cache
def _read(file: Path, changed: int) -> dict[str, dict]:
    """All records of a file by their identity; read once for each state of the file."""
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines]
        return {_identity(record): record for record in records}
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file}: expected gzipped lines of JSON, a run in each; got {error!r}. Take the file "
            "from the repository again, or delete it, and runs are trained"
        ) from error


def _identity(record: dict) -> str:
    return json.dumps([record["work"], record["run"], record["key"]], sort_keys=True)

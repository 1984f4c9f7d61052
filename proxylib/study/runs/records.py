"""What finished runs measured, as text in one file per data set, committed with its figures.

Where code, data and versions are the same, a sweep takes its runs from there and trains none. What
needs the trained networks (`sweep(…, whole=True)`) still trains them.

The file has a line of JSON for each run: what was done (`work`: train_run, occupancy or
turned_recall), its configuration (`run`), further `arguments`, the fingerprint of code, data and
versions (`key`), and what was measured.
"""

import functools
import gzip
import json
import zlib
from collections.abc import Iterable
from pathlib import Path

from proxylib.datasets.paths import PROJECT
from proxylib.study.runs.checkpoints import write
from proxylib.study.runs.config import RunConfig, describe


def file_of(dataset: str) -> Path:
    """The project's records of a data set."""
    return PROJECT / "figures" / f"{dataset}-full" / "runs.jsonl.gz"


def record_of(work: str, config: RunConfig, key: str, *arguments: object) -> dict:
    """What a record begins with. The folder of the data is left out: `key` stands for the data."""
    run = {name: value for name, value in describe(config).items() if name != "data_root"}
    return {"work": work, "run": run, "arguments": [*arguments], "key": key}


def find(work: str, config: RunConfig, key: str, *arguments: object) -> dict | None:
    """The record of this run under this fingerprint; None if there is none.

    Args:
        work: name of the function that made the result, e.g. `"occupancy"`.
        arguments: what it was given beside configuration and fingerprint.

    Raises:
        ValueError: the file is damaged.
    """
    known = read(config.dataset)
    return known and known.get(identity(record_of(work, config, key, *arguments)))


def read(dataset: str) -> dict[str, dict]:
    """All records of a data set by their `identity`.

    Raises:
        ValueError: the file is damaged.
    """
    file = file_of(dataset)
    return _read(file, file.stat().st_mtime_ns) if file.is_file() else {}


def save(dataset: str, records: Iterable[dict]) -> None:
    """Write the file of a data set; the same records make the same file, in whatever order.

    Raises:
        OSError: it can't be written; what was there stays.
    """
    by_identity = {identity(record): record for record in records}
    lines = "".join(f"{json.dumps(by_identity[name])}\n" for name in sorted(by_identity))
    file = file_of(dataset)
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, lambda out: out.write(gzip.compress(lines.encode(), mtime=0)))


def identity(record: dict) -> str:
    """What tells a record from all others."""
    parts = [record[name] for name in ("work", "run", "arguments", "key")]
    return json.dumps(parts, sort_keys=True)


@functools.cache
def _read(file: Path, changed: int) -> dict[str, dict]:
    """Read once for each state of the file."""
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines]
        return {identity(record): record for record in records}
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file}: expected gzipped lines of JSON, a run in each; got {error!r}. Take the file "
            "from the repository again, or delete it, and runs are trained"
        ) from error

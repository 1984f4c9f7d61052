"""A study that is killed 20 times while its runs train ends as one left alone: `make kills`.

SIGKILL, SIGTERM and SIGINT in turn, at random moments. Ten seconds later (on a machine with more
work than cores that much later) no kernel and no worker may be left; no finished run may be lost
or computed again; and at last the table of all runs is the same, bit for bit.
"""

import atexit
import contextlib
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import psutil
from conftest import grow

KILLS, PATIENCE = 20, 10  # how many; seconds until all processes must be gone
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SEEDS, STEPS = 40, 150  # 120 short runs
FAILURES = re.compile(r"Traceback|FAILED")
NOTEBOOK = """\
dataset: str = "folder"
data_root: str = ""
seeds: list = [0]
steps: int = 1
jobs: int = -1
tier: str = "fast"
out: str = ""
---
from pathlib import Path
from proxylib.study.runs import RunConfig, history, sweep

own = {"dataset": dataset, "data_root": data_root, "steps": steps, "batch_size": 8}
methods = ("proxy_nca", "semihard", "npairs")
configs = [RunConfig(method=m, seed=s, eval_every=50, **own) for s in seeds for m in methods]
runs = history(sweep(configs, jobs=jobs, progress=False), method=[c.method for c in configs])
runs.drop(columns="seconds").to_csv(Path(out) / "runs.csv")
"""
START = """
import sys
from pathlib import Path
from proxylib.study import cli, paths
folder = Path(sys.argv.pop(1))
paths.notebooks = lambda: folder
cli.app()
"""


def write_notebook(folder: Path) -> None:
    parameters, body = NOTEBOOK.split("---\n")
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    book = nbformat.v4.new_notebook(cells=[first, nbformat.v4.new_code_cell(body)])
    book.metadata.kernelspec = {"name": "python3", "display_name": "", "language": "python"}
    nbformat.write(book, folder / "00_runs.ipynb")


def study(home: Path, tree: Path) -> subprocess.Popen:
    """`proxylib study`, with the notebook above in place of the study's own."""
    seeds = ",".join(map(str, range(SEEDS)))
    command = [sys.executable, "-c", START, home.parent, "study", "--no-progress", "--jobs", "2"]
    command += ["--dataset", "folder", "-p", "data_root", tree, "-p", "seeds", seeds]
    command += ["-p", "steps", str(STEPS), "--out", home / "out"]
    return subprocess.Popen(
        command,
        env=os.environ | {"PROXYLIB_HOME": str(home)},
        stdout=(home / "log").open("a"),
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def family(process: subprocess.Popen) -> dict[psutil.Process, str]:
    """The processes below this one, with their commands."""
    found = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        for child in psutil.Process(process.pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                found[child] = " ".join(child.cmdline())
    return found


def finished(home: Path) -> dict[Path, int]:
    """The results of finished runs, and when each was written."""
    cache = home / "data" / "cache" / "proxylib" / "study" / "runs" / "cache" / "train_run"
    hashes = cache.glob("*/output.sha256")
    return {file: file.with_name("output.pkl").stat().st_mtime_ns for file in hashes}


def killed(home: Path, tree: Path, number: signal.Signals, delay: float) -> bool:
    """Kill a study so long after its first run has finished; False if all have."""
    before = finished(home)
    process = study(home, tree)
    while process.poll() is None and len(finished(home)) == len(before):
        time.sleep(0.1)
    began = time.monotonic()
    while process.poll() is None and time.monotonic() < began + delay:
        time.sleep(0.05)
    if process.poll() is not None:
        return False
    members = list(family(process))
    process.send_signal(number)
    sent = time.monotonic()
    patience = PATIENCE * max(1, os.getloadavg()[0] / os.cpu_count())
    _, left = psutil.wait_procs([psutil.Process(process.pid), *members], timeout=patience)
    gone = time.monotonic() - sent
    left = [p for p in left if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    process.kill()
    process.wait()
    now = finished(home)
    print(
        f"{number.name:>7} after {delay:4.1f} s: {len(members)} processes gone after {gone:.1f} s, "
        f"{len(now)} runs finished",
        flush=True,
    )
    assert not left, f"left after {patience:.0f} s: {left}"
    assert len(members) >= 3, "expected a kernel and two workers"
    lost = [file for file, written in before.items() if now.get(file) != written]
    assert not lost, f"lost or computed again: {lost}"
    return True


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        homes = [Path(folder, name) for name in ("killed", "undisturbed")]
        tree, moments = grow(Path(folder, "images"), 12, 6), random.Random(0)
        write_notebook(Path(folder))
        for home in homes:
            home.mkdir()
        undisturbed, hits = study(homes[1], tree), 0
        atexit.register(undisturbed.terminate)
        for number in itertools.islice(itertools.cycle(SIGNALS), KILLS):
            if not killed(homes[0], tree, number, moments.uniform(0, 4)):
                break
            hits += 1
        kept = finished(homes[0])
        for home, process in zip(homes, (study(homes[0], tree), undisturbed), strict=True):
            assert process.wait() == 0, (home / "log").read_text()
            print(f"{home.name}: {len(finished(home))} runs finished")
        assert not FAILURES.search((homes[1] / "log").read_text())
        assert kept.items() <= finished(homes[0]).items(), "a finished run was computed again"
        assert len(finished(homes[0])) == len(finished(homes[1]))
        one, other = ((home / "out" / "runs.csv").read_bytes() for home in homes)
        assert one == other and one.count(b"\n") > 3 * SEEDS
        assert hits == KILLS, f"only {hits} of {KILLS} kills met a study at work: more SEEDS"
    print(f"{hits} kills: nothing left behind, no run lost, the table equal bit for bit")


if __name__ == "__main__":
    main()

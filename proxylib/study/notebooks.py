"""The notebooks: run in batch through papermill with checked parameters; copies for students."""

import contextlib
import copy
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat
import papermill
import psutil
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from proxylib.datasets import Dataset
from proxylib.study import paths
from proxylib.study.parameters import convert, nearest, problem, unknown
from proxylib.study.yaml_files import read_yaml

TIERS = ("fast", "full")
SMALLEST = (8, 4)  # classes, and images of each
SOLUTION = "solution"  # tag of the cells that a student does not get
SAFE = "finished training runs are in the cache: the same command goes on from there"


def notebooks(only: tuple[str, ...] = ()) -> list[Path]:
    """The study's notebooks in reading order; `only` picks some by name or its beginning.

    Raises:
        ValueError: `only` names none; says which there are.
    """
    found = sorted(paths.notebooks().glob("[0-9A-Z]*.ipynb"))
    for name in only:
        beginning = name.removesuffix(".ipynb")
        if not beginning or not any(path.stem.startswith(beginning) for path in found):
            raise ValueError(
                f"no notebook {name!r}{nearest(name, [p.stem for p in found])}; "
                f"there are: {', '.join(p.stem for p in found)}"
            )
    chosen = tuple(name.removesuffix(".ipynb") for name in only)
    return [path for path in found if not only or path.stem.startswith(chosen)]


def parameters(notebook: Path) -> dict[str, dict]:
    """A notebook's parameters as papermill reads them: name → its type, default and help."""
    return papermill.inspect_notebook(str(notebook))


def for_students(book: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy of the notebook without its solutions and without any output."""
    book = copy.deepcopy(book)
    book.cells = [c for c in book.cells if SOLUTION not in c.metadata.get("tags", [])]
    for cell in book.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return book


def tier_parameters(tier: str, notebook: str, dataset: str = "") -> dict[str, object]:
    """What a tier changes in a notebook's defaults, from its YAML files.

    `TIER.yaml`, then `TIER-DATASET.yaml`, if there are such. A file has parameters for all
    notebooks that declare them, and under `notebooks` more for some of them, by name.
    """
    folder, result = paths.notebooks() / "params", {}
    for file in (folder / f"{tier}.yaml", folder / f"{tier}-{dataset}.yaml"):
        if file.exists():
            common = read_yaml(file)
            own = common.pop("notebooks", {}).get(notebook, {})
            result |= common | own
    return result


def check_size(dataset: Dataset) -> None:
    """Raises ValueError if the data set is too small: tuning and tuples of four need so much."""
    classes, images = SMALLEST
    fewest = int(dataset.labels.bincount().min())
    if dataset.n_classes < classes or fewest < images:
        raise ValueError(
            f"{dataset.name}: {dataset.n_classes} classes, of which the smallest has {fewest} "
            f"images; the notebooks need {classes} classes of {images}"
        )


def plan(
    chosen: list[Path], values: dict[str, object], tier: str = "fast"
) -> dict[Path, dict[str, object]]:
    """The parameters that each notebook is given: its tier's and `values`, where it declares them.

    Text is converted to the declared type (`"3"` for an int, `"0,1"` for a list), so that values
    can come from the command line.

    Raises:
        ValueError: a name that no chosen notebook declares, or a value of another type or out of
            its range; says what is valid and which name is nearest. All problems at once.
    """
    declared = {path: parameters(path) for path in chosen}
    known = sorted({name for names in declared.values() for name in names})
    problems = [unknown(name, known) for name in values if name not in known]
    result: dict[Path, dict[str, object]] = {}
    for path, names in declared.items():
        result[path] = {}
        given = tier_parameters(tier, path.stem, values.get("dataset", "")) | values
        for name in given.keys() & names.keys():
            kind = names[name]["inferred_type_name"].partition("[")[0]
            try:
                result[path][name] = convert(given[name], kind)
            except ValueError:
                problems.append(
                    f"{name}={given[name]!r}: {path.stem} expects {kind}, "
                    f"default {names[name]['default']}"
                )
            else:
                problems.append(problem(name, result[path][name]))
    if problems := [text for text in dict.fromkeys(problems) if text]:
        raise ValueError("\n".join([*problems, f"valid parameters: {', '.join(known)}"]))
    return result


def run_notebooks(
    planned: dict[Path, dict[str, object]], out: Path, say: Callable[[str], None], progress: bool
) -> list[str]:
    """Execute each notebook into `out`; one that fails is reported, the others still run.

    So is a check that says False; its notebook counts as done, for its results are all there.

    Args:
        planned: from `plan`.
        out: output folder, existing; also given to the notebooks as their parameter `out`.
        say: receives a line about each notebook.
        progress: show bars, with an estimate, of the training runs of each notebook.

    Returns:
        The names of the notebooks that failed.
    """
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # a debugger's warning
    failed = []
    # Appendices first: A1_tuning writes the settings that the others read.
    ordered = sorted(planned.items(), key=lambda item: item[0].stem[0].isdigit())
    for i, (path, values) in enumerate(ordered, 1):
        say(f"[{i}/{len(planned)}] {path.stem} …")
        if progress and "progress" in parameters(path):
            values = {**values, "progress": True}
        began = time.monotonic()
        try:
            done = _execute(
                str(path),
                str(out / path.name),
                parameters={**values, "out": str(out)},
                kernel_name="python3",
                progress_bar=False,
                stderr_file=sys.stderr if progress else None,
                extra_arguments=["--IPKernelApp.log_level=50"],  # say nothing of its own
            )
        except PapermillExecutionError as error:
            failed.append(path.stem)
            say(
                f"[{i}/{len(planned)}] {path.stem} FAILED at In [{error.exec_count}]: "
                f"{error.ename}: {error.evalue}\n  see {out / path.name}"
            )
        except (OSError, DeadKernelError) as error:
            failed.append(path.stem)
            say(
                f"[{i}/{len(planned)}] {path.stem} FAILED: {error}\n"
                f"  while {out / path.name} was written; {SAFE}"
            )
        else:
            say(f"[{i}/{len(planned)}] {path.stem} done in {time.monotonic() - began:.0f} s")
            for check in _false_checks(done):
                say(f"  a check failed: {check}\n  see {out / path.name}")
    return failed


def _false_checks(notebook: NotebookNode) -> list[str]:
    """The lines that end in "False" of the cells that print checks (`# NBVAL_CHECK_OUTPUT`)."""
    checked = [cell for cell in notebook.cells if "NBVAL_CHECK_OUTPUT" in cell.source]
    printed = [output.get("text", "") for cell in checked for output in cell.get("outputs", [])]
    return [line for text in printed for line in text.splitlines() if line.endswith(": False")]


def _execute(*args, **options) -> NotebookNode:
    """papermill in a thread, for in the main one it would take SIGINT and SIGTERM for itself.

    At either of them the kernel ends, and papermill writes what there is of the notebook.
    """
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(papermill.execute_notebook, *args, **options)
        try:
            return future.result()
        except (KeyboardInterrupt, SystemExit):
            # Workers before their kernel: one that starts would complain that it is gone.
            for process in reversed(psutil.Process().children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "resource_tracker" not in " ".join(process.cmdline()):  # it tidies up
                        process.kill()
            raise

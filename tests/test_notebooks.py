"""Committed notebooks: executed top to bottom, conforming, and running through papermill."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import nbformat
import papermill
import pytest

from proxylib.datasets.paths import PROJECT
from proxylib.study import notebooks as study
from proxylib.study import paths
from proxylib.study.parameters import TYPES

BOOKS = sorted(paths.notebooks().glob("*.ipynb"))
COMMON = {"dataset", "data_root", "tier", "seeds", "steps", "batch_size", "jobs", "progress", "out"}
every_notebook = pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
# All are executed by nbval; papermill by itself, which takes as long again, is tried on these.
PLAIN = [b for b in BOOKS if b.stem.split("_")[0] in ("02", "07", "template")]


def code_cells(path):
    return [c for c in nbformat.read(path, 4).cells if c.cell_type == "code" and c.source.strip()]


@every_notebook
def test_is_executed_top_to_bottom(path):
    counts = [cell.execution_count for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))
    assert nbformat.read(path, 4).metadata.kernelspec.name == "python3"
    nbformat.validate(nbformat.read(path, 4))


@every_notebook
def test_has_one_parameters_cell_with_the_common_names(path):
    cells = [c for c in code_cells(path) if "parameters" in c.metadata.get("tags", [])]
    assert len(cells) == 1
    assert cells[0].execution_count == 1
    found = study.parameters(path)
    assert found.keys() >= COMMON
    for name, value in found.items():
        assert value["inferred_type_name"] in TYPES, name
        assert value["help"], f"{name} has no help comment"
    assert len(cells[0].source.splitlines()) == len(found)
    assert found["tier"]["default"] == '"fast"'


@every_notebook
def test_outputs_are_fit_to_be_committed(path):
    text = path.read_text()
    assert len(text) < 1_500_000
    assert "widget-state" not in text and "image/svg" not in text
    assert str(PROJECT) not in text
    for cell in code_cells(path):
        assert "execution" not in cell.metadata, "times of day, new in every run: `make notebooks`"
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output
        if "NBVAL_CHECK_OUTPUT" in cell.source:
            assert cell.outputs, f"nothing to check in cell {cell.execution_count}"
            assert "False" not in cell.outputs[0]["text"], "a verdict that the text contradicts"


@every_notebook
def test_follows_the_order_of_a_lesson(path):
    prose = "\n".join(c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown")
    order = ["**Question.**", "After this notebook", "**Prerequisites.**", "**Runtime**"]
    order += ["## Discussion and limits", "## Exercises", "Solutions", "## References"]
    order += ["## Provenance"]
    places = [prose.index(word) for word in order]
    assert places == sorted(places)


@every_notebook
def test_defines_no_class_and_no_training_loop(path):
    for cell in code_cells(path):
        assert not any(line.startswith("class ") for line in cell.source.splitlines())
        assert "range(steps)" not in cell.source


@every_notebook
def test_code_that_is_shown_is_short(path):
    """Plumbing, figures and checks are hidden; what is left is read."""
    for cell in code_cells(path):
        hidden = cell.metadata.get("jupyter", {}).get("source_hidden", False)
        if not hidden and "parameters" not in cell.metadata.get("tags", []):
            assert len(cell.source.splitlines()) <= 15, cell.source


@pytest.mark.parametrize("path", PLAIN, ids=lambda path: path.stem)
def test_runs_through_plain_papermill_from_any_directory(path, papermilled):
    """With the defaults, as `papermill notebooks/X.ipynb out.ipynb` would."""
    folder, done = papermilled[path].result()
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / f"{path.stem}.metrics.json").exists()
    assert papermill.inspect_notebook(str(folder / "out.ipynb"))


@pytest.fixture(scope="module")
def papermilled(request, tmp_path_factory):
    """The chosen notebooks, two at a time: from the cache, one keeps one core busy."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    chosen = [i.callspec.params["path"] for i in items if "papermilled" in i.fixturenames]
    folder = tmp_path_factory.mktemp("papermill")

    def execute(path):
        out = folder / path.stem
        out.mkdir()
        command = [sys.executable, "-m", "papermill", path, "out.ipynb", "-p", "out", out]
        return out, subprocess.run(map(str, command), cwd=out, capture_output=True, text=True)

    with ThreadPoolExecutor(2) as pool:
        yield {path: pool.submit(execute, path) for path in chosen}

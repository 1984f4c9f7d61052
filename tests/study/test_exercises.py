"""Exercises that answer back, and the notebooks that students get."""

import re
import subprocess
import sys

import nbformat
import pytest
from click.testing import CliRunner

from proxylib.study import notebooks
from proxylib.study.cli import app
from proxylib.study.exercises import Exercises, close

BOOKS = {path: nbformat.read(path, 4) for path in notebooks.notebooks()}
WITH = {p: b for p, b in BOOKS.items() if any("# YOUR CODE" in c.source for c in b.cells)}
check = Exercises({"1": (lambda n: n == 48, "Count each pair once."), "2": (len, "A list.")})


def solution(cell):
    return notebooks.SOLUTION in cell.metadata.get("tags", [])


def test_a_right_answer_is_right_and_a_wrong_one_gets_its_hint(capsys):
    check("1", 48)
    check("1", 96)
    check("1", ...)
    assert capsys.readouterr().out.splitlines() == [
        "1: right.",
        "1: not yet. Count each pair once.",
        "1: put your answer in the place of the dots.",
    ]


def test_an_answer_that_can_not_be_compared_is_wrong_and_says_why(capsys):
    check("2", 3.0)
    out = capsys.readouterr().out
    assert (
        out
        == "2: not yet. float can't be compared (object of type 'float' has no len()). A list.\n"
    )


def test_an_unknown_exercise_is_named_with_those_there_are():
    with pytest.raises(KeyError, match="no exercise '3'; there are: 1, 2"):
        check("3", 1)


def test_close_allows_rounding_but_no_other_shape():
    assert close([1.0, 2.001], [1, 2]) and close(0, 0)
    assert not close(1.002, 1) and not close([1.0], 1.0) and not close([1, 1], [1, 1, 1])


@pytest.mark.parametrize("path", WITH, ids=lambda path: path.stem)
def test_every_exercise_has_a_task_a_place_and_a_solution_that_is_right(path):
    cells = WITH[path].cells
    asked = [re.search('check\\("(.*?)"', c.source)[1] for c in cells if "# YOUR CODE" in c.source]
    assert asked == [f"{path.stem[:2]}-{i + 1}" for i in range(len(asked))]
    solved = [c for c in cells if c.cell_type == "code" and "check(" in c.source and solution(c)]
    for exercise, cell in zip(asked, solved, strict=True):
        assert cell.source.startswith("# NBVAL_CHECK_OUTPUT"), "nbval executes it, and compares"
        assert cell.metadata.jupyter.source_hidden
        assert [o.text for o in cell.outputs] == [f"{exercise}: right.\n"]
        assert any(f"### Exercise {exercise}\n" in c.source for c in cells)
        assert any(f"Solution {exercise}</b>" in c.source for c in cells)


def test_every_notebook_that_has_checked_exercises_keeps_them():
    names = {path.stem[:2] for path in WITH}
    assert names >= {*(f"0{i}" for i in range(9)), "A3"}


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_student_gets_no_solution_and_no_output(path):
    given = notebooks.for_students(BOOKS[path])
    assert not any(map(solution, given.cells))
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in given.cells)
    assert len(BOOKS[path].cells) - len(given.cells) == sum(map(solution, BOOKS[path].cells))
    nbformat.validate(given)


def test_a_students_notebook_runs_and_asks_for_answers(tmp_path):
    done = CliRunner().invoke(app, ["student", "--out", str(tmp_path)])
    assert done.output == f"notebooks in {tmp_path}\n"
    book = "01_triplets_and_proxies.ipynb"
    command = [sys.executable, "-m", "papermill", book, "done.ipynb", "-p", "out", "figures"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    cells = nbformat.read(tmp_path / "done.ipynb", 4).cells
    said = [o.text for c in cells if "# YOUR CODE" in c.source for o in c.outputs]
    assert len(said) == 3 and all("put your answer in the place of the dots" in s for s in said)

import ast
import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import papermill
import psutil
import pytest
from click.testing import CliRunner
from conftest import grow
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import proxylib
from proxylib import datasets
from proxylib.datasets.paths import PROJECT
from proxylib.study import notebooks as study
from proxylib.study import paths
from proxylib.study.cli import app
from proxylib.study.parameters import INJECTED, RULES, problem

PARAMETERS = """\
dataset: str = "kanji"  # data set
seeds: list = [0, 1]  # seeds
steps: int = 3000  # batches
lr: float = 1.0e-3  # learning rate
progress: bool = False  # bar
tier: str = "fast"  # tier
jobs: int = -1  # jobs
out: str = ""  # folder
"""


@pytest.fixture
def books(tmp_path, monkeypatch):
    """A project with its own two notebooks instead of the study's; the first one fails."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    for name, body in (("00_bad", "1 / 0"), ("01_good", "print(steps, seeds, out)")):
        cell = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
        book = nbformat.v4.new_notebook(cells=[cell, nbformat.v4.new_code_cell(body)])
        book.metadata.kernelspec = {"name": "python3", "display_name": "", "language": "python"}
        nbformat.write(book, folder / f"{name}.ipynb")
    monkeypatch.setattr(paths, "notebooks", lambda: folder)
    return folder


def call(*words):
    result = CliRunner().invoke(app, ["study", *map(str, words)])
    return result.exit_code, re.sub(r"\s+", " ", result.output)


def printed(path):
    book = nbformat.read(path, 4)
    return book.cells[-1].outputs[0]["text"].split("\n")[0]


def test_a_failing_notebook_is_reported_and_the_others_run(books, tmp_path):
    out = tmp_path / "out"
    code, text = call("--out", out, "-p", "steps", "7", "-p", "seeds", "3,4", "--no-progress")
    assert code == 1
    assert "00_bad FAILED at In [3]: ZeroDivisionError: division by zero" in text
    assert "[2/2] 01_good done" in text and "1 of 2 failed: 00_bad" in text
    assert printed(out / "01_good.ipynb") == f"7 [3, 4] {out}"


def test_a_check_that_says_false_is_reported(books, tmp_path):
    book = nbformat.read(books / "01_good.ipynb", 4)
    book.cells[-1].source = '# NBVAL_CHECK_OUTPUT\nprint("one: True\\nall equal: False")'
    book.cells.append(nbformat.v4.new_code_cell('print("not checked: False")'))
    nbformat.write(book, books / "01_good.ipynb")
    code, text = call("--only", "01", "--out", tmp_path / "out", "--no-progress")
    assert code == 0 and "a check failed: all equal: False" in text
    assert "one: True" not in text and "not checked" not in text


def test_bars_are_for_the_training_runs(books, tmp_path):
    for option, given in (("--progress", True), ("--no-progress", None)):
        call("--out", tmp_path, "--only", "01", option)
        cells = json.loads((tmp_path / "01_good.ipynb").read_text())["metadata"]["papermill"]
        assert cells["parameters"].get("progress") is given


def test_values_are_read_as_the_declared_type(books):
    chosen = study.notebooks(("01",))
    values = {"steps": "5", "lr": "1e-3", "progress": "true", "out": "3", "seeds": "[1]"}
    [given] = study.plan(chosen, values).values()
    assert given == {"steps": 5, "lr": 1e-3, "progress": True, "out": "3", "seeds": [1]}
    [given] = study.plan(chosen, {"lr": 1, "seeds": "7"}).values()
    assert given == {"lr": 1.0, "seeds": [7]} and type(given["lr"]) is float


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-p", "stepz", "3"], "no notebook has a parameter 'stepz'; did you mean 'steps'?"),
        (["-p", "stepz", "3"], "valid parameters: dataset, jobs, lr, out, progress, seeds"),
        (["-p", "steps", "many"], "steps='many': 00_bad expects int, default 3000"),
        (["-p", "steps", "3.5"], "steps='3.5': 00_bad expects int"),
        (["-p", "lr", "fast"], "lr='fast': 00_bad expects float"),
        (["-p", "progress", "1"], "progress='1': 00_bad expects bool"),
        (["-p", "steps", "0"], "steps=0: expected a whole number, 1 or more"),
        (["-p", "steps", "-3"], "steps=-3: expected a whole number, 1 or more"),
        (["-p", "seeds", "[]"], "seeds=[]: expected a list of different whole numbers"),
        (["-p", "seeds", "1,1"], "seeds=[1, 1]: expected a list of different whole numbers"),
        (["-p", "seeds", "1,a"], "seeds=[1, 'a']: expected a list of different whole numbers"),
        (["-p", "seeds", "[[1]]"], "seeds=[[1]]: expected a list of different whole numbers"),
        (["-p", "seeds", "99999999999"], "seeds=[99999999999]: expected"),
        (["--jobs", "0"], "jobs=0: expected 1 or more, or -1"),
        (["--jobs", "-2"], "jobs=-2: expected 1 or more, or -1"),
        (["-p", "tier", "full"], "parameter 'tier' has an option of its own: use --tier"),
        (["--only", ""], "no notebook ''; there are: 00_bad, 01_good"),
        (["--only", "quick"], "no notebook 'quick'; there are: 00_bad, 01_good"),
        (["--only", "01_goood"], "no notebook '01_goood'; did you mean '01_good'?"),
        (["--backend", "dask"], "--backend dask and --scheduler ADDRESS belong together"),
        (["--scheduler", "tcp://a:1"], "--backend dask and --scheduler ADDRESS belong together"),
        (["--tier", "medium"], "'medium' is not one of 'fast', 'full'"),
        (["--dataset", "mnist"], "'mnist' is not one of 'kanji', 'omniglot', 'folder'"),
        (["--dataset", "folder"], "data_root='' is no folder"),
        (["-f", "nowhere.yaml"], "nowhere.yaml: No such file"),
        (["--out", "/dev/null/here"], "/dev/null/here: files can't be written there: Not a dir"),
        (["--out", "/proc/here"], "/proc/here: files can't be written there: No such file"),
        (["--out", "~nobody-at-all/here"], "~nobody-at-all/here: Could not determine home"),
    ],
)
def test_mistakes_are_refused_before_anything_starts(books, tmp_path, words, message):
    code, text = call("--out", tmp_path / "out", *words)
    assert code == 2, text
    assert message in text
    assert not (tmp_path / "out").exists()


def test_parameters_from_a_file_and_the_command_line_wins(books, tmp_path):
    file = tmp_path / "p.yaml"
    file.write_text("steps: 5\nseeds: [9]\n")
    call("--out", tmp_path / "out", "--only", "01", "-f", file, "-p", "steps", "6", "--no-progress")
    assert printed(tmp_path / "out" / "01_good.ipynb").startswith("6 [9]")
    assert not (tmp_path / "out" / "00_bad.ipynb").exists()
    file.write_text("- steps\n")
    assert "expected lines of 'name: value', got list" in call("-f", file)[1]
    laughs = "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9 if i else 1}]\n" for i in range(12))
    for text in ("a: b: c\n", "a: é\n", "a: 1" + 5000 * "0", "[" * 9999, f"{laughs}seeds: *a11\n"):
        file.write_bytes(text.encode("latin1"))
        assert re.search(r"p\.yaml: .*(not YAML|decode)", call("-f", file)[1])


def test_the_later_of_a_tiers_parameters_wins(books):
    """Common ones, a notebook's own, then the same of the data set."""
    files = {
        "full": "steps: 1\nlr: 1.0\nseeds: [1]\njobs: 1\nnotebooks:\n"
        "  00_bad: {lr: 2.0, seeds: [2], jobs: 2}\n",
        "full-omniglot": "seeds: [3]\njobs: 3\nnotebooks:\n  00_bad: {jobs: 4}\n",
        "fast-omniglot": "seeds: [5]\n",
    }
    (books / "params").mkdir()
    for name, text in files.items():
        (books / "params" / f"{name}.yaml").write_text(text)

    def values(notebook, dataset):
        found = study.tier_parameters("full", notebook, dataset)
        return [found[name] for name in ("steps", "lr", "seeds", "jobs")]

    assert values("00_bad", "omniglot") == [1, 2.0, [3], 4]
    assert values("00_bad", "kanji") == values("00_bad", "") == [1, 2.0, [2], 2]
    assert values("01_good", "omniglot") == [1, 1.0, [3], 3]
    assert values("01_good", "kanji") == [1, 1.0, [1], 1]
    assert study.tier_parameters("fast", "00_bad", "omniglot") == {"seeds": [5]}
    assert study.tier_parameters("fast", "00_bad", "kanji") == {}
    [first, second] = study.plan(study.notebooks(), {"seeds": [7]}, "full").values()
    assert first == {"steps": 1, "lr": 2.0, "seeds": [7], "jobs": 2}
    assert second == {"steps": 1, "lr": 1.0, "seeds": [7], "jobs": 1}


def test_full_tier_is_known_to_the_notebooks():
    books = study.notebooks()
    planned = study.plan(books, {}, "full")
    assert all(len(values["seeds"]) >= 5 for values in planned.values())
    content = study.read_yaml(study.paths.notebooks() / "params" / "full.yaml")
    own, known = content.pop("notebooks"), {book.stem: study.parameters(book) for book in books}
    assert all(own[book].keys() <= known[book].keys() for book in own)
    assert content.keys() <= {name for names in known.values() for name in names}
    assert not any(study.tier_parameters("fast", book) for book in known)


@pytest.mark.parametrize(
    ("tier", "least"),
    [("full", {"omniglot", "grocery", "cars196-half"}), ("fast", {"grocery", "cars196-half"})],
)
def test_a_data_set_can_have_its_own_budgets(tier, least):
    """Its file names nothing that no notebook has, and leaves 05 and 06 what they judge by."""
    books, where = study.notebooks(), paths.notebooks() / "params"
    known = {book: study.parameters(book) for book in books}
    common = study.plan(books, {"dataset": "kanji"}, tier)
    names = {file.stem.removeprefix(f"{tier}-") for file in where.glob(f"{tier}-*.yaml")}
    assert least <= names <= {*datasets.NAMES}
    for name in names:
        content = study.read_yaml(where / f"{tier}-{name}.yaml")
        own = content.pop("notebooks", {})
        assert content.keys() <= {name for names in known.values() for name in names}
        planned = study.plan(books, {"dataset": name}, tier)
        for book in books:
            for_all = {n: value for n, value in content.items() if n in known[book]}
            given = for_all | own.pop(book.stem, {}) | {"dataset": name}
            assert planned[book] == common[book] | given
            for some in {"ratios", "static_ratios", "dynamic_ratios"} & known[book].keys():
                default = ast.literal_eval(known[book][some]["default"])
                ratios = planned[book].get(some, default)
                assert {0.5, 0.75, 1.0} <= {*ratios} and max(ratios) > 1, (name, book)
        assert not own


def share(home, *names):
    """What is made once for all, the pre-trained start, is shared with the project's own cache."""
    for name in names:
        there, here = (root / "data" / "cache" / "proxylib" / name for root in (PROJECT, home))
        there.mkdir(parents=True, exist_ok=True)
        here.parent.mkdir(parents=True, exist_ok=True)
        here.symlink_to(there)


@pytest.mark.parametrize(("n_classes", "n_images"), [(7, 4), (8, 3), (4, 2)])
def test_too_few_images_are_refused_before_anything_starts(home, tmp_path, n_classes, n_images):
    tree = grow(tmp_path / "images", n_classes, n_images)
    code, text = call("--dataset", "folder", "-p", "data_root", tree, "--out", tmp_path / "out")
    assert code == 2 and not (tmp_path / "out").exists()
    assert f"{n_classes} classes, of which the smallest has {n_images} images" in text
    assert "the notebooks need 8 classes of 4" in text


def run_here(book, given):
    """A notebook's cells in this process, as its kernel and papermill would run them."""
    InteractiveShell.clear_instance()
    shell = InteractiveShell.instance(config=Config(HistoryManager={"enabled": False}))
    values = [INJECTED, *(f"{name} = {value!r}" for name, value in given.items())]
    for cell in nbformat.read(book, 4).cells:
        if cell.cell_type == "code":
            shell.run_cell(cell.source, store_history=True).raise_error()
            if "parameters" in cell.metadata.get("tags", ()):
                shell.run_cell("\n".join(values), store_history=True).raise_error()
    plt.close("all")


def test_own_images_go_through_the_whole_study(home, tmp_path):
    """In one process: ten kernels, each with its own imports, would take most of the time.

    Of all methods only one is tuned, as on photographs, where no dynamic assignment was.
    """
    share(home, "datasets/kanji/_draw_all", "study/runs/pretraining/_pretrain")
    out, tree = tmp_path / "out", grow(tmp_path / "images", *study.SMALLEST)
    study.check_size(datasets.load("folder", tree))
    steps = ("steps", "steps_pretrained", "dynamic_steps", "bound_steps")
    values = {"dataset": "folder", "data_root": str(tree), "seeds": "3", "jobs": 1}
    values |= {"query_image": str(next(tree.rglob("*.png"))), **dict.fromkeys(steps, 8)}
    values["repeats"] = 1  # of A2's measurements, which are not of these images
    values["presets"] = str(tmp_path / "presets.yaml")
    Path(values["presets"]).write_text("pretrained: {proxy_nca: {batch_norm: true}}\n")
    planned = study.plan(study.notebooks(), values)
    for book, given in planned.items():
        run_here(book, given | {"out": str(out)})
    for book in planned:
        metrics = json.loads((out / f"{book.stem}.metrics.json").read_text())
        assert metrics and all(isinstance(value, float) for value in metrics.values())
        assert 0 <= metrics.get("recall_at_1", 0) <= 1
        pictures = {path.stem for path in out.glob(f"{book.stem}-*.png")}
        assert pictures
        for name in pictures:
            assert (out / f"{name}.csv").exists() and (out / f"{name}.json").exists()


def test_version():
    assert CliRunner().invoke(app, ["--version"]).output.endswith(f" {proxylib.__version__}\n")


def test_a_notebook_refuses_by_itself_what_it_cannot_use(tmp_path):
    """Also under plain papermill, which only warns of an unknown name."""
    book = next(b for b in study.notebooks() if b.stem.startswith("03"))
    for given, message in (
        ({"stepz": 3}, "no notebook has a parameter 'stepz'; did you mean 'steps'?"),
        ({"steps": 0, "seeds": [1, 1]}, "seeds=[1, 1]: expected a list of different"),
    ):
        with pytest.raises(papermill.PapermillExecutionError) as caught:
            papermill.execute_notebook(
                book, tmp_path / "x.ipynb", given, progress_bar=False, kernel_name="python3"
            )
        assert caught.value.ename == "ValueError" and message in caught.value.evalue


def test_every_parameter_has_a_rule_and_every_default_keeps_it():
    for book in [*study.notebooks(), paths.notebooks() / "template.ipynb"]:
        for name, known in study.parameters(book).items():
            assert name in RULES, f"{book.stem}: {name}"
            assert not problem(name, ast.literal_eval(known["default"]))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("steps", [0, -1, 1.0, True, "3", None]),
        ("seeds", [[], [0, 0], [-1], [2**32], [0.0], [True], 3, (0,), [[0]]]),
        ("jobs", [0, -2, 1.5]),
        ("ratios", [[], [0], [-1.0], [float("nan")], [float("inf")], [0.5, 0.5], ["1"]]),
        ("dynamic_ratios", [[0], [2, 2]]),
        ("angles", [[], [-1], [361], [0, 0]]),
        ("distortions", [[0.0], [11]]),
        ("methods", [["nobody"], ["nca", "nca"]]),
        ("n_neighbors", [0, 51, 100_000]),
        ("n_queries", [-1]),
        ("tier", ["", "../x", "a b", 3]),
        ("recipe", ["best"]),
        ("presets", ["/nowhere.yaml", "~nobody-at-all/x", 3]),
        ("progress", [1, "yes"]),
    ],
)
def test_values_out_of_range(name, values):
    for value in values:
        assert problem(name, value).startswith(f"{name}={value!r}: expected ")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks for processes in /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_nothing_is_left_behind(home, tmp_path, number):
    """Whatever ends a study while its runs train, its kernel and its workers end too."""
    command = [sys.executable, "-m", "proxylib", "study", "--only", "03", "--no-progress"]
    command += ["--jobs", "2", "-p", "steps", "100000", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # a job in the background of a shell would ignore SIGINT
    try:
        deadline = time.monotonic() + 120
        while sum("loky" in words for words in family(process.pid).values()) < 2:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.2)
        members = list(family(process.pid))
        assert len(members) >= 3  # a kernel and two workers
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}.get(number, -number)
    assert ("stopped; finished training runs" in output) == (number == signal.SIGINT)
    assert "Traceback" not in output
    assert not psutil.wait_procs(members, timeout=20)[1]


def family(pid):
    """The processes below this one with their commands; some end while they are looked at."""
    found = {}
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in psutil.Process(pid).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                found[process] = " ".join(process.cmdline())
    return found


def test_a_notebook_that_cannot_be_written_does_not_stop_the_others(books, tmp_path):
    out = tmp_path / "out"
    (out / "00_bad.ipynb").mkdir(parents=True)
    code, text = call("--out", out, "--no-progress")
    assert code == 1
    assert "00_bad FAILED: [Errno 21] Is a directory" in text
    assert f"while {out / '00_bad.ipynb'} was written; {study.SAFE}" in text
    assert "[2/2] 01_good done" in text and "1 of 2 failed: 00_bad" in text


@pytest.mark.parametrize("place", ["/dev/null", "/proc/here", "~nobody-at-all/here"])
def test_a_home_that_cannot_be_used_is_told_in_a_line(books, tmp_path, monkeypatch, place):
    monkeypatch.setenv("PROXYLIB_HOME", place)
    code, text = call("--out", tmp_path / "out")
    assert code == 2 and place.removesuffix("/here") in text and "Traceback" not in text

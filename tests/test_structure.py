"""Three floors: the core at the top of proxylib, the data sets, the study on both."""

import ast
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import proxylib

PACKAGE = Path(proxylib.__file__).parent
FLOORS = {"datasets", "study"}
MAY = {"core": {"core"}, "datasets": {"datasets"}, "study": {"core", "datasets", "study"}}
FILES = sorted(PACKAGE.rglob("*.py"))
LIGHT = {"torch", "numpy"}


def floor_of(parts):
    return parts[0] if parts and parts[0] in FLOORS else "core"


def imports(file, top_level_only=False):
    """Dotted names of all that a file imports."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(PACKAGE).as_posix())
def test_imports_point_down(file):
    here = floor_of(file.relative_to(PACKAGE).parts)
    if file == PACKAGE / "__main__.py":  # the command's entry, which is the study's
        return
    for name in imports(file):
        first, *rest = name.split(".")
        if first == "proxylib":
            there = floor_of(rest)
            assert there in MAY[here], f"{here} imports {name}"


def test_the_core_needs_torch_and_numpy_only():
    allowed = LIGHT | {"proxylib"} | sys.stdlib_module_names
    for file in FILES:
        if floor_of(file.relative_to(PACKAGE).parts) == "core":
            heads = {name.split(".")[0] for name in imports(file, top_level_only=True)}
            assert heads <= allowed, file.name


def test_imports_make_no_circle():
    """Within the package every module can be imported first."""
    graph = {}
    for file in FILES:
        parts = ("proxylib", *file.relative_to(PACKAGE).with_suffix("").parts)
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        graph[name] = set(imports(file, top_level_only=True))
    known = set(graph)
    for name, found in graph.items():
        whole = {n if n in known else n.rpartition(".")[0] for n in found}
        graph[name] = (whole & known) - {name}
    done, path = set(), []

    def visit(name):
        assert name not in path, " → ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for other in sorted(graph[name]):
            visit(other)
        path.pop()
        done.add(name)

    for name in sorted(graph):
        visit(name)


def run(code, *flags):
    done = subprocess.run(
        [sys.executable, *flags, "-c", textwrap.dedent(code)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(code):
    return set(run(f"{code}; import sys; print(*{{n.split('.')[0] for n in sys.modules}})").split())


def test_importing_the_core_loads_nothing_beside_torch_and_numpy():
    """So neither pandas, sklearn, PIL, papermill nor torchvision, which the study needs."""
    assert loaded_by("import proxylib") - loaded_by("import torch, numpy") == {"proxylib"}


def test_importing_the_runs_loads_nothing_slow():
    """Every notebook and every worker process of a sweep does."""
    slow = {"matplotlib", "requests", "scipy", "seaborn", "sklearn", "timm"}
    assert not loaded_by("from proxylib.study import runs") & (slow | {"torchvision"})


def test_the_core_works_where_nothing_else_is_installed():
    """The study's packages can't be imported here; the loss trains all the same."""
    out = run(
        """
        import sys
        for name in ("click joblib kanjivg matplotlib pandas papermill PIL requests yaml "
                     "safetensors sklearn scipy seaborn svg threadpoolctl torchvision").split():
            sys.modules[name] = None  # so that its import fails

        import torch
        from proxylib import ProxyNCA, embed, nmi, recall_at_k

        torch.manual_seed(0)
        model, loss_fn = torch.nn.Linear(8, 4), ProxyNCA(n_classes=5, dim=4)
        optimizer = torch.optim.Adam([*model.parameters(), *loss_fn.parameters()], lr=0.1)
        x, labels = torch.randn(40, 8), torch.arange(5).repeat(8)
        losses = []
        for _ in range(30):
            loss = loss_fn(model(x), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        print(losses[-1] < losses[0], recall_at_k(embed(model, x), labels)["recall_at_1"] > 0)
        try:
            nmi(embed(model, x), labels)
        except ImportError as error:
            print(error)
        from proxylib.__main__ import main
        try:
            main()
        except SystemExit as error:
            print(error)
        """
    )
    first, second, third = out.splitlines()
    assert first == "True True"
    assert second == "nmi needs scikit-learn: pip install 'proxylib[study]'"
    assert third.startswith("the command needs ") and "pip install 'proxylib[study]'" in third


def test_it_works_without_being_installed(tmp_path):
    """A copy of the bare folder, as somebody would drop it into a project of their own."""
    shutil.copytree(PACKAGE, tmp_path / "proxylib", ignore=shutil.ignore_patterns("__pycache__"))
    out = run(
        f"""
        import sys
        sys.path.insert(0, {str(tmp_path)!r})
        from importlib import metadata
        def none(name):
            raise metadata.PackageNotFoundError(name)
        metadata.version = metadata.distribution = none
        import proxylib
        print(proxylib.__file__, proxylib.__version__)
        """
    )
    file, version = out.split()
    assert file == str(tmp_path / "proxylib" / "__init__.py")
    assert version == proxylib.__version__

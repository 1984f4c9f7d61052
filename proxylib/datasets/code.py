"""Which code decides a result, found by reading it: a hash of every definition that is reached.

Names are followed through the package's own imports, from definition to definition. So an edited
loss changes the hash of what uses that loss and of nothing else, and no list has to be kept.
Comments, layout, docstrings and annotations do not count.
"""

import ast
import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
DATA = "proxylib.datasets"
# Not followed: a run's configuration carries what it takes from the registry, and has been checked.
CARRIED = {("proxylib.study.methods", "METHODS"), ("proxylib.study.methods", "LOWEST")}


def _read_sources() -> dict[str, str]:
    """All modules of the package by name, as they are on disk now."""
    sources = {}
    for file in PACKAGE.rglob("*.py"):
        parts = ("proxylib", *file.relative_to(PACKAGE).with_suffix("").parts)
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        sources[name] = file.read_text(encoding="utf-8")
    return sources


SOURCES = _read_sources()  # what this process runs: modules are loaded once


@dataclass
class _Module:
    """Top-level definitions of a module, what they use, and what its imports mean."""

    definitions: dict[str, list[str]] = field(default_factory=dict)  # statements, as `_text`
    uses: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    imports: dict[str, tuple[str, str]] = field(default_factory=dict)  # name → (module, name there)


def code_of(*definitions: Callable | tuple[str, str]) -> str:
    """Hash of these functions or classes and of all the package's code that they use.

    The data sets' code is left out unless it is asked for: data is hashed by its content.

    Args:
        definitions: functions or classes of the package, or (module, name) pairs.

    Raises:
        RuntimeError: a file has changed since it was loaded, so the hash would be that of other
            code than this process runs.
    """
    roots = tuple(d if isinstance(d, tuple) else (d.__module__, d.__name__) for d in definitions)
    reached = _reach(roots)
    for module in sorted({module for module, _ in reached}):
        file = PACKAGE.joinpath(*module.split(".")[1:])
        file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        if text != SOURCES[module] and _parse(module, text) != _parse(module, SOURCES[module]):
            raise RuntimeError(
                f"{file} has changed since it was loaded: restart the kernel, so that results are "
                "not kept under the name of code that did not make them"
            )
    digest = hashlib.sha256()
    for module, name in reached:
        digest.update(f"{module}.{name}\n{_module(module).definitions[name]}\n".encode())
    return digest.hexdigest()[:16]


@functools.cache
def _reach(roots: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    """(module, name) of every definition that the roots use, directly or not; sorted."""
    with_data = all(module.startswith(DATA) for module, _ in roots)
    found, todo = set(), list(roots)
    while todo:
        module, name = todo.pop()
        place = _resolve(module, name)
        if place is None or place in found or place in CARRIED:
            continue
        if place[0].startswith(DATA) and not with_data:
            continue
        found.add(place)
        todo += _module(place[0]).uses[place[1]]
    if missing := [root for root in roots if _resolve(*root) is None]:
        raise LookupError(f"no such definition in proxylib: {missing}")
    return sorted(found)


def _resolve(module: str, name: str) -> tuple[str, str] | None:
    """Where a name of a module is defined in the package; None if it is not of the package."""
    while module in SOURCES:
        parsed = _module(module)
        if name in parsed.definitions:
            return module, name
        if name not in parsed.imports:
            return None
        module, name = parsed.imports[name]
    return None


def _module(module: str) -> _Module:
    return _parse(module, SOURCES[module])


@functools.cache
def _parse(module: str, source: str) -> _Module:
    parsed, body = _Module(), ast.parse(source).body
    for node in body:
        _strip(node)
        parsed.imports |= _imported(node)
    for node in body:
        for name in _defined(node):
            parsed.definitions.setdefault(name, []).append(_text(node))
            parsed.uses.setdefault(name, set()).update(_uses(module, node, parsed.imports))
    return parsed


def _text(value: object) -> str:
    """Like `ast.dump`, but the same with every version of Python: what is empty is left out."""
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    if not isinstance(value, ast.AST):
        return repr(value)
    fields = ((name, inner) for name, inner in ast.iter_fields(value) if inner not in (None, []))
    return f"{type(value).__name__}({', '.join(f'{name}={_text(v)}' for name, v in fields)})"


def _defined(node: ast.stmt) -> Iterator[str]:
    """Names that a top-level statement defines or changes."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign):
        for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
            # of `f.attribute = …` and `table[key] = …` the name is f and table
            yield from (n.id for n in ast.walk(target) if isinstance(n, ast.Name))


def _imported(node: ast.AST) -> dict[str, tuple[str, str]]:
    """The package's own imports below a node: name → (module, name there; empty for all of it)."""
    found = {}
    for inner in ast.walk(node):
        if isinstance(inner, ast.ImportFrom) and inner.module in SOURCES:
            for alias in inner.names:
                whole = f"{inner.module}.{alias.name}"
                place = (whole, "") if whole in SOURCES else (inner.module, alias.name)
                found[alias.asname or alias.name] = place
    return found


def _uses(
    module: str, node: ast.stmt, imports: dict[str, tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    """(module, name) of what a definition names, as far as the package may hold it."""
    names = imports | _imported(node)
    for inner in ast.walk(node):
        if isinstance(inner, ast.Name):
            target, there = names.get(inner.id, (module, inner.id))
            if there:
                yield target, there
        elif isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name):
            target, there = names.get(inner.value.id, (module, inner.value.id))
            if not there:  # `module.name`
                yield target, inner.attr


def _strip(node: ast.stmt) -> None:
    """Remove docstrings and annotations."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(inner):
            del inner.body[0]
        if isinstance(inner, ast.FunctionDef):
            inner.returns = None
        elif isinstance(inner, ast.arg):
            inner.annotation = None
        elif isinstance(inner, ast.AnnAssign):
            inner.annotation = ast.Constant(None)

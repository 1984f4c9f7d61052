"""The notebooks' parameters: which values are sensible, told before anything starts."""

import ast
import contextlib
import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from proxylib import datasets
from proxylib.study.experiments import NORMS
from proxylib.study.methods import METHODS
from proxylib.study.settings import RECIPES
from proxylib.study.yaml_files import parse_yaml

TYPES = {"int": int, "float": float, "str": str, "bool": bool, "list": list}
INJECTED = "# Parameters"  # how papermill begins the cell of the values it was given


def _whole(low: int, high: float = float("inf")) -> Callable[[object], bool]:
    return lambda value: type(value) is int and low <= value <= high


def _all(fits: Callable[[object], bool], empty: bool = False) -> Callable[[object], bool]:
    """A list of different values that fit."""

    def check(values: object) -> bool:
        if type(values) is not list or not (values or empty):
            return False
        return all(map(fits, values)) and len(set(values)) == len(values)

    return check


def _number(low: float, high: float) -> Callable[[object], bool]:
    """low < value ≤ high; no NaN."""
    return lambda value: type(value) in (int, float) and low < value <= high


def _file(value: object) -> bool:
    return type(value) is str and (not value or Path(value).expanduser().is_file())


def _among(*values: str) -> tuple[Callable[[object], bool], str]:
    return (lambda value: value in values), f"one of {', '.join(map(repr, values))}"


_seeds = (_all(_whole(0, 2**32 - 1)), "a list of different whole numbers of 0 … 4294967295")
_budget = (_whole(1), "a whole number, 1 or more")
_ratios = (_all(_number(0, 1000)), "a list of different numbers above 0, at most 1000")
_shown = (_whole(1, 50), "a whole number of 1 … 50")
_path = (_file, "an existing file, or nothing")
_text = (lambda value: type(value) is str), "text"
_TUNED = [name for name, method in METHODS.items() if method.starts]
_switch = (lambda value: type(value) is bool), "True or False"

# What each parameter may be: a test, and the same in words.
RULES: dict[str, tuple[Callable[[object], bool], str]] = {
    "dataset": _among(*datasets.NAMES),
    "tier": (
        lambda value: type(value) is str and bool(re.fullmatch(r"\w[\w.-]*", value)),
        "a word of letters, digits, '.', '-' and '_', for it names a folder",
    ),
    "recipe": _among("", *RECIPES),
    "seeds": _seeds,
    "sweep_seeds": (_all(_whole(0, 2**32 - 1), empty=True), f"{_seeds[1]}; or an empty list"),
    "norms": (_all(lambda value: value in NORMS), "a list of 'fixed', 'free' or both"),
    "distortion_seeds": _seeds,
    **dict.fromkeys(
        ("steps", "steps_pretrained", "dynamic_steps", "bound_steps", "passes"), _budget
    ),
    "batch_size": (_whole(2), "a whole number, 2 or more"),
    "jobs": (lambda value: value == -1 or _whole(1)(value), "1 or more, or -1 for one per core"),
    "ratios": _ratios,
    "static_ratios": _ratios,
    "dynamic_ratios": (_all(_number(0, 1000), empty=True), f"{_ratios[1]}; or an empty list"),
    "angles": (
        _all(lambda value: value == 0 or _number(0, 360)(value)),
        "a list of different degrees of 0 … 360",
    ),
    "distortions": (
        _all(_number(0, 10), empty=True),
        "a list of different numbers above 0, at most 10; or an empty list",
    ),
    "methods": (
        _all(lambda value: value in _TUNED, empty=True),
        f"a list of different names of {', '.join(_TUNED)}; or an empty list",
    ),
    **dict.fromkeys(("axes", "parallel_runs"), (_whole(0), "a whole number, 0 or more")),
    "proxies": (_all(_whole(2)), "a list of different whole numbers, 2 or more"),
    "points": (_all(_whole(1000)), "a list of different whole numbers, 1000 or more"),
    **dict.fromkeys(("repeats", "tries"), _budget),
    "n_classes": (
        lambda value: value == 0 or _whole(16)(value),
        "a whole number, 16 or more; or 0 for all",
    ),
    "n_queries": _shown,
    "n_neighbors": _shown,
    "presets": _path,
    "query_image": _path,
    **dict.fromkeys(("data_root", "out"), _text),
    **dict.fromkeys(("progress", "interactive"), _switch),
}


def problem(name: str, value: object) -> str:
    """What is wrong with the value of a parameter; empty if nothing is."""
    fits, expected = RULES.get(name, (lambda value: True, ""))
    try:
        right = fits(value)
    except (TypeError, RuntimeError):  # a list where a word is due; a path in nobody's home
        right = False
    return "" if right else f"{name}={value!r}: expected {expected}"


def check(namespace: Mapping[str, object]) -> None:
    """Refuse what a notebook can't use, however its parameters came in.

    Args:
        namespace: `globals()` of the notebook, after the cell of its parameters.

    Raises:
        ValueError: values out of range, and names that papermill was given though the notebook
            declares none such. All problems at once.
    """
    declared, injected = set(), set()
    for source in namespace.get("In", ()):
        with contextlib.suppress(SyntaxError):  # of a cell that failed
            for node in ast.parse(source).body:
                if isinstance(node, ast.AnnAssign):
                    declared.add(node.target.id)
                elif isinstance(node, ast.Assign) and source.startswith(INJECTED):
                    injected.add(node.targets[0].id)
    problems = [unknown(name, declared) for name in sorted(injected - declared)]
    problems += [problem(name, namespace[name]) for name in RULES if name in namespace]
    if problems := [text for text in problems if text]:
        raise ValueError("\n".join(problems))


def convert(value: object, kind: str) -> object:
    """The value as the declared type; text is read as YAML where text is not what is wanted.

    Args:
        kind: a name in `TYPES`; values of other kinds stay as they are.

    Raises:
        ValueError: it is of another type.
    """
    if kind == "str":
        if not isinstance(value, str):
            raise ValueError
        return value
    if isinstance(value, str):
        if kind == "float":
            return float(value)  # YAML reads 1e-3 as text
        value = parse_yaml(f"[{value}]" if kind == "list" and "[" not in value else value)
    if kind == "float" and type(value) is int:
        return float(value)
    if kind in TYPES and type(value) is not TYPES[kind]:
        raise ValueError
    return value


def unknown(name: str, known: Iterable[str]) -> str:
    """That no notebook has such a parameter, and which is meant perhaps."""
    return f"no notebook has a parameter {name!r}{nearest(name, known)}"


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint at the most similar known name; empty if none is similar."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""

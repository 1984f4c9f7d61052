"""The file of tuned settings: found, read, checked and written."""

import warnings
from pathlib import Path

import yaml

from proxylib.datasets.paths import PROJECT
from proxylib.study import paths
from proxylib.study.methods import METHODS
from proxylib.study.runs.config import OF_BACKBONES
from proxylib.study.settings import STARTS, Presets, configure, default_recipe
from proxylib.study.yaml_files import read_yaml

OTHER_BATCH = "other_batch"  # beside the starts: tuned at the batch size the walk did not choose


def find_presets(dataset: str, given: str = "", recipe: str = "") -> Path | None:
    """The file of tuned settings: the one given, else the data set's own, else kanji's.

    None if nothing was tuned for this recipe.

    Raises:
        FileNotFoundError: the given file does not exist.
    """
    if given:
        if not Path(given).expanduser().is_file():
            raise FileNotFoundError(
                f"presets={given!r}: no such file; A1_tuning writes one into its output folder"
            )
        return Path(given).expanduser()
    folders, usual = [], default_recipe(dataset)
    if (recipe or usual) == usual:  # else it was tuned for another network
        folders += [paths.figures(dataset, "full"), PROJECT / "figures" / f"{dataset}-full"]
    if (recipe or usual) == "study":
        folders.append(PROJECT / "figures" / "kanji-full")
    files = [folder / "presets.yaml" for folder in folders]
    return next((file for file in files if file.is_file()), None)


def read_presets(path: Path | None) -> Presets:
    """Tuned settings by start and method; empty, with a notice, if there is no file.

    Beside the starts there may be `OTHER_BATCH`.

    Raises:
        ValueError: an unknown start or method, or settings that no run can have.
    """
    if path is None:
        warnings.warn("nothing was tuned for this recipe: all settings are defaults", stacklevel=2)
        return {}
    found = read_yaml(path)
    known = (*STARTS, OTHER_BATCH)
    unknown = [start for start in found if start not in known]
    for start, methods in found.items():
        entries = (
            methods.items() if isinstance(methods, dict) else [(methods, None)] * bool(methods)
        )
        unknown += [str(name) for name, given in entries if not _fits(path, start, name, given)]
    if not found or unknown:
        raise ValueError(
            f"{path}: expected settings of methods under {', '.join(known)}; "
            f"got {', '.join(unknown) or 'none'}"
        )
    return {start: found.get(start) or {} for start in known if start in found or start in STARTS}


def _fits(path: Path, start: str, method: object, given: object) -> bool:
    """False for an unknown method; ValueError for settings that it can't have."""
    if not isinstance(method, str) or method not in METHODS:
        return False
    try:  # but for what depends on the recipe's network
        configure(method, {n: v for n, v in dict(given).items() if n not in OF_BACKBONES})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {start}, {method}: {error}") from None
    return True


def write_presets(path: Path, chosen: Presets, how: str) -> None:
    """A file for `read_presets`.

    Args:
        how: a sentence on how they were chosen; becomes a comment.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {start: {n: dict(v) for n, v in names.items()} for start, names in chosen.items()}
    text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=100)
    path.write_text(f"# {how}\n{text}", encoding="utf-8")

"""Where the study's own files are: notebooks, and figures."""

from pathlib import Path

from proxylib.datasets.paths import PROJECT, home


def notebooks() -> Path:
    """Folder of the notebooks, part of the checkout."""
    return PROJECT / "notebooks"


def figures(dataset: str, tier: str) -> Path:
    """Default output folder of a notebook, e.g. `figures/kanji-fast`."""
    return home() / "figures" / f"{dataset}-{tier}"

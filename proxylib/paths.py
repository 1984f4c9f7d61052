"""Absolute project paths, independent of the working directory."""

import os
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def home() -> Path:
    """Folder that holds `data/` and `figures/`: $PROXYLIB_HOME, else the project's checkout.

    Raises:
        RuntimeError: proxylib is installed without its checkout and PROXYLIB_HOME is not set.
    """
    if value := os.environ.get("PROXYLIB_HOME"):
        return Path(value).expanduser().resolve()
    if not (PROJECT / "pyproject.toml").exists():
        raise RuntimeError(
            f"{PROJECT} is no checkout of the project, so there is no place for data and figures: "
            "set the environment variable PROXYLIB_HOME to a folder of yours"
        )
    return PROJECT


def notebooks() -> Path:
    """Folder of the notebooks, part of the checkout."""
    return PROJECT / "notebooks"


def data() -> Path:
    """Folder for downloads and caches; safe to delete."""
    return home() / "data"


def downloads() -> Path:
    """Folder of downloaded files; one put there by hand is used if its hash is right."""
    return data() / "downloads"


def cache() -> Path:
    """Folder of drawn data sets and finished runs; safe to delete."""
    return data() / "cache"


def figures(dataset: str, tier: str) -> Path:
    """Default output folder of a notebook, e.g. `figures/kanji-fast`."""
    return home() / "figures" / f"{dataset}-{tier}"

"""The folders of downloads and caches. They do not depend on the working directory."""

import os
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]


def home() -> Path:
    """Folder that holds `data/` and `figures/`: $PROXYLIB_HOME, else the project's checkout.

    Raises:
        RuntimeError: proxylib is installed without its checkout and PROXYLIB_HOME is not set.
    """
    if value := os.environ.get("PROXYLIB_HOME"):
        try:
            return Path(value).expanduser().resolve()
        except RuntimeError as error:  # ~somebody
            raise RuntimeError(f"PROXYLIB_HOME={value}: {error}") from None
    if not (PROJECT / "pyproject.toml").exists():
        raise RuntimeError(
            f"{PROJECT} is no checkout of the project, so there is no place for data and figures: "
            "set the environment variable PROXYLIB_HOME to a folder of yours"
        )
    return PROJECT


def data() -> Path:
    """Folder for data sets, downloads and caches; all of it can be made again."""
    return home() / "data"


def downloads() -> Path:
    """Folder of downloaded files. A file put there by hand is used if its hash is right."""
    return data() / "downloads"


def cache() -> Path:
    """Folder of drawn data sets and finished runs; all of it can be made again."""
    return data() / "cache"


def expanded(path: str | Path) -> Path:
    """The absolute path, `~` and links followed.

    Raises:
        OSError: `~somebody` who has no home here.
    """
    try:
        return Path(path).expanduser().resolve()
    except RuntimeError as error:
        raise OSError(f"{path}: {error}") from None


def writable(folder: Path) -> Path:
    """The folder, made if need be, after trying that a file can be written there.

    Raises:
        OSError: it can't; names the place.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        raise OSError(f"{folder}: files can't be written there: {error.strerror}") from None
    return folder

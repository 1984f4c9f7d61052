"""Downloads checked by hash, and archives unpacked whole or not at all."""

import functools
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tqdm import tqdm

from proxylib import paths


def hash_of(file: Path, known: str) -> str | None:
    """The file's hash of the kind of `known` and written as that; None if there is no such file.

    Args:
        known: `"md5:…"`, `"sha256:…"` or the bare digits of a SHA-256.
    """
    import pooch  # here, for in a notebook its import warns where there are no widgets

    kind, colon, _ = known.rpartition(":")
    return kind + colon + pooch.file_hash(str(file), kind or "sha256") if file.is_file() else None


def download(url: str, known: str, progress: bool = False) -> Path:
    """The file at `url`, kept in `data/downloads`; without network if it is there already.

    What came before a break stays there as NAME.part, and the next call goes on after it, if the
    server can. NAME itself appears only when it is whole and its hash right.

    Args:
        known: its hash, see `hash_of`.

    Raises:
        OSError: it can't be had with this hash; says why and where to put it by hand.
    """
    import pooch

    file = paths.downloads() / url.rsplit("/", 1)[1]
    part = file.with_name(file.name + ".part")
    if (found := hash_of(file, known)) == known:
        return file
    pooch.get_logger().setLevel("WARNING")
    try:
        pooch.retrieve(
            url, known, file.name, file.parent, downloader=_going_on(part, file.name, progress)
        )
    except (OSError, ValueError) as error:
        came = part.stat().st_size if part.is_file() else 0
        go_on = f"{came:,} bytes came: run this again to go on after them. Or:\n" if came else ""
        kind = "MD5" if known.startswith("md5:") else "SHA-256"
        raise OSError(
            f"{file.name}: no download from {url}: {error}\n"
            f"{go_on}Put the file at {file} by hand and run this again.\n"
            f"Expected {kind}: {known.rpartition(':')[2]}"
            + (f"\nof the file there: {found.rpartition(':')[2]}" if found else "")
        ) from error
    return file


def _going_on(part: Path, title: str, progress: bool) -> Callable:
    """A downloader for pooch that goes on after what `part` holds from before."""

    def fetch(url: str, output_file: str, _) -> None:
        import requests

        have = part.stat().st_size if part.is_file() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
        with requests.get(url, headers=headers, stream=True, timeout=30) as answer:
            # 416: nothing comes after what is there. If that is not the file, its hash will tell.
            if not (have and answer.status_code == 416):
                answer.raise_for_status()
                have = have if answer.status_code == 206 else 0  # else it sends all from the start
                total = have + int(answer.headers.get("Content-Length", 0))
                bar = tqdm(
                    None, title, total or None, unit="B", unit_scale=True, disable=not progress
                )
                with part.open("ab" if have else "wb") as file, bar:
                    bar.update(have)
                    for chunk in answer.iter_content(2**16):
                        file.write(chunk)
                        bar.update(len(chunk))
                if part.stat().st_size < total:
                    raise OSError(f"the connection broke off, {total:,} bytes were expected")
        os.replace(part, output_file)

    return fetch


def install(
    name: str,
    archives: Callable[[], Iterable[Path]],
    check: Callable[[Path], object],
    say: Callable[[str], None],
    progress: bool,
) -> Path:
    """The archives' contents in `data/NAME`, as they are; nothing is done if that is there.

    Args:
        archives: gets them; called only if they are needed.
        check: raises if the folder that it is given is not the whole data set.

    Raises:
        OSError, ValueError: see `download`, `unpack` and `check`.
    """
    target = paths.data() / name
    if target.exists():
        check(target)
        say(f"{name} is there already: {target}")
        return target
    unpack(archives(), target, check, strip=0, progress=progress)
    say(f"{name}: unpacked in {target}; the archives in {paths.downloads()} may be deleted")
    return target


def unpack(
    archives: Iterable[Path],
    target: Path,
    check: Callable[[Path], object],
    strip: int = 1,
    progress: bool = False,
) -> None:
    """Unpack zip and tar archives into one new folder `target`; other files are copied there.

    A file that is in several archives is taken once. `target` appears only when all is unpacked
    and `check`, called with the folder that is to become `target`, has not raised.

    Args:
        strip: how many of the outermost folders of each archive are left out.

    Raises:
        ValueError: an archive with a link, or with a path that leaves the folder.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
        whole = Path(temporary) / target.name
        whole.mkdir()
        for archive in archives:
            hidden, title = not progress, f"{archive.name}: unpacking"
            for member in tqdm(_members(archive), title, unit="file", disable=hidden):
                _extract(archive, *member, whole, strip)
        check(whole)
        whole.rename(target)


def _members(archive: Path) -> Iterator[tuple[str, bool, Callable[[], BinaryIO] | None]]:
    """(path, whether it is a plain file or folder, opens it; None for a folder) of each member."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                kind = stat.S_IFMT(info.external_attr >> 16)  # 0 if it was not made on Unix
                read = None if info.is_dir() else functools.partial(opened.open, info)
                yield info.filename, kind in (0, stat.S_IFREG, stat.S_IFDIR), read
    elif archive.suffix in (".tgz", ".tar"):
        with tarfile.open(archive) as opened:
            for info in opened:
                read = None if info.isdir() else functools.partial(opened.extractfile, info)
                yield info.name, info.isreg() or info.isdir(), read
    else:
        yield archive.name, True, functools.partial(archive.open, "rb")


def _extract(
    archive: Path,
    name: str,
    plain: bool,
    read: Callable[[], BinaryIO] | None,
    into: Path,
    strip: int,
) -> None:
    """Only bytes are taken from an archive: no links, owners or permissions."""
    path = PurePosixPath(name)
    if not plain or path.is_absolute() or ".." in path.parts or set(r"\:") & set(name):
        raise ValueError(
            f"{archive}: refused to unpack {name!r}: only plain files below the folder are safe"
        )
    file = into.joinpath(*path.parts[strip:])
    if read and not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with read() as source, file.open("wb") as copy:
            shutil.copyfileobj(source, copy)

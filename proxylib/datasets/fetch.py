"""Downloads checked by hash, and archives unpacked whole or not at all."""

import functools
import gzip
import hashlib
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from tqdm import tqdm

from proxylib.datasets import paths

# What the archives' modules raise for a damaged file.
DAMAGES = tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError


def hash_of(file: Path, known: str) -> str | None:
    """Hash of `file` in the algorithm and notation of `known` ("md5:…"); None if it is missing."""
    if not file.is_file():
        return None
    kind, _ = known.split(":")
    with file.open("rb") as opened:
        return f"{kind}:{hashlib.file_digest(opened, kind).hexdigest()}"


def hash_of_all(folder: Path) -> str:
    """Hash of all files below a folder, whatever archive they came in; hidden ones don't count.

    It is the SHA-256 of a text with one line for each file, `SHA256  PATH`, as `sha256sum` prints
    it, sorted by the path below the folder (with slashes).
    """
    lines = {}
    for file in folder.rglob("*"):
        path = file.relative_to(folder)
        if file.is_file() and not any(part.startswith(".") for part in path.parts):
            found = hash_of(file, "sha256:").removeprefix("sha256:")
            lines[path.as_posix()] = f"{found}  {path.as_posix()}\n"
    text = "".join(lines[path] for path in sorted(lines))
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def download(url: str, known: str | None, progress: bool = False) -> Path:
    """The file at `url`, kept in `data/downloads`. Needs no network if it is there already.

    If the connection breaks off, what has come stays there as NAME.part, and the next call asks
    for the rest only, if the server can do that. NAME itself appears when the file is whole and
    its hash is the `known` one, e.g. "md5:…". If none is known, because the server packs the
    archive anew, what has been unpacked must be checked: see `hash_of_all`.

    Raises:
        OSError: the download failed or has another hash; says why, and where a file from
            elsewhere can be put by hand.
    """
    file = paths.downloads() / url.rsplit("/", 1)[1]
    part = file.with_name(file.name + ".part")
    found = known and hash_of(file, known)
    if file.is_file() and found == known:
        return file
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        _get_rest(url, part, progress)
        if known and (came := hash_of(part, known)) != known:
            part.unlink()
            raise OSError(f"what came has the hash {came}")
    except OSError as error:
        came = part.stat().st_size if part.is_file() else 0
        rest = f"{came:,} bytes came: run this again to get the rest. Or:\n" if came else ""
        raise OSError(
            f"{file.name}: no download from {url}: {error}\n"
            f"{rest}Put the file at {file} by hand and run this again."
            + (f"\nExpected {known}" if known else "")
            + (f"; the file there now has {found}" if found else "")
        ) from error
    part.replace(file)
    return file


def _get_rest(url: str, part: Path, progress: bool) -> None:
    """Append to `part` what it does not hold yet of the file at `url`."""
    import requests  # not above, for it takes long to import

    have = part.stat().st_size if part.is_file() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=30) as answer:
        if have and answer.status_code == 416:
            return  # nothing comes after what is there: it is whole, or has another hash
        answer.raise_for_status()
        have = have if answer.status_code == 206 else 0  # else the server sends all of it
        total = have + int(answer.headers.get("Content-Length", 0))
        title, hidden = part.stem, not progress
        bar = tqdm(None, title, total or None, unit="B", unit_scale=True, disable=hidden)
        with part.open("ab" if have else "wb") as file, bar:
            bar.update(have)
            for chunk in answer.iter_content(2**16):
                file.write(chunk)
                bar.update(len(chunk))
    if part.stat().st_size < total:
        raise OSError(f"the connection broke off, {total:,} bytes were expected")


def install(
    name: str,
    archives: Callable[[], Iterable[Path]],
    check: Callable[[Path], object],
    say: Callable[[str], None],
    progress: bool,
    strip: int = 0,
) -> Path:
    """Get archives and unpack them to the folder `data/NAME`; if it is there, only check it.

    Archives put into `data/downloads` by hand are taken instead of the network.

    Args:
        archives: gets them; called only if they are needed.
        check: raises an error if the folder that it is given is not the whole data set.
        say: prints what was done.
        strip: see `unpack`.

    Raises:
        OSError: an archive can't be had; what has come is kept for the next call.
        ValueError: an archive is unsafe to unpack, or what is there is not the whole data set.
    """
    target = paths.data() / name
    if target.exists():
        check(target)
        say(f"{name} is there already: {target}")
        return target
    unpack(archives(), target, check, strip, progress)
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

    If a file is in several archives, the first one counts. `target` appears only when all is
    unpacked and `check` has raised no error.

    Args:
        check: called with the folder that is to become `target`.
        strip: how many of the outermost folders of each archive are left out.

    Raises:
        ValueError: an archive with a link, or with a path that leaves the folder, or one that is
            damaged.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
        whole = Path(temporary) / target.name
        whole.mkdir()
        for archive in archives:
            try:
                _unpack(archive, whole, strip, progress)
            except DAMAGES as error:
                reason = " ".join(str(error).split())
                raise ValueError(
                    f"{archive}: a damaged archive ({reason}): delete it and run this again"
                ) from error
        check(whole)
        whole.rename(target)


def _unpack(archive: Path, whole: Path, strip: int, progress: bool) -> None:
    members, title = _members(archive), f"{archive.name}: unpacking"
    for name, plain, read in tqdm(members, title, unit="file", disable=not progress):
        if not (plain and is_below(name)):
            raise ValueError(
                f"{archive}: refused to unpack {name!r}: only plain files below the folder are safe"
            )
        _copy(read, whole.joinpath(*PurePosixPath(name).parts[strip:]))


def _members(archive: Path) -> Iterator[tuple[str, bool, Callable[[], BinaryIO]]]:
    """(path, True if it is a plain file, a function that opens it) of all members but folders."""
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                if not info.is_dir():
                    kind = stat.S_IFMT(info.external_attr >> 16)  # 0 if it was not made on Unix
                    plain = kind in (0, stat.S_IFREG)
                    yield info.filename, plain, functools.partial(opened.open, info)
    elif archive.name.endswith((".tgz", ".tar", ".tar.gz")):
        with tarfile.open(archive) as opened:
            for info in opened:
                if not info.isdir():
                    yield info.name, info.isreg(), functools.partial(opened.extractfile, info)
    else:
        yield archive.name, True, functools.partial(archive.open, "rb")


def is_below(name: str) -> bool:
    """False for a path that may lead out of the folder that it is read or written in."""
    path = PurePosixPath(name)
    return not (path.is_absolute() or ".." in path.parts or set(r"\:") & set(name))


def _copy(read: Callable[[], BinaryIO], file: Path) -> None:
    """The member's bytes, without its owner and permissions; nothing if the file is there."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with read() as source, file.open("wb") as copy:
            shutil.copyfileobj(source, copy)

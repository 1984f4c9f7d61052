"""Downloads checked by hash, and archives unpacked whole or not at all."""

import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from proxylib import paths


def download(url: str, sha256: str, progress: bool = False) -> Path:
    """The file at `url`, kept in `data/downloads`; without network if it is there already.

    Raises:
        OSError: it can't be had with this hash; says why and where to put it by hand.
    """
    import pooch  # here, for in a notebook its import warns where there are no widgets

    file = paths.downloads() / url.rsplit("/", 1)[1]
    found = pooch.file_hash(str(file)) if file.is_file() else None
    if found == sha256:
        return file
    pooch.get_logger().setLevel("WARNING")
    try:  # into a temporary file, moved to its place once the hash is right
        pooch.retrieve(url, f"sha256:{sha256}", file.name, file.parent, progressbar=progress)
    except (OSError, ValueError) as error:
        raise OSError(
            f"{file.name}: no download from {url}: {error}\n"
            f"Put the file at {file} by hand and run this again.\n"
            f"Expected SHA-256: {sha256}" + (f"\nof the file there: {found}" if found else "")
        ) from error
    return file


def unpack(archives: Iterable[Path], target: Path, check: Callable[[Path], object]) -> None:
    """Unpack zip archives, each without its outermost folder, into one new folder `target`.

    A file that is in several archives is taken once. `target` appears only when all is unpacked
    and `check`, called with the folder that is to become `target`, has not raised.

    Raises:
        ValueError: an archive with a link, or with a path that leaves the folder.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as temporary:
        whole = Path(temporary) / target.name
        whole.mkdir()
        for archive in archives:
            with zipfile.ZipFile(archive) as opened:
                for member in opened.infolist():
                    _extract(opened, member, whole)
        check(whole)
        whole.rename(target)


def _extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, into: Path) -> None:
    path = PurePosixPath(member.filename)
    kind = stat.S_IFMT(member.external_attr >> 16)  # 0 if the archive was not made on Unix
    outside = path.is_absolute() or ".." in path.parts or set(r"\:") & set(member.filename)
    if outside or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ValueError(
            f"{archive.filename}: refused to unpack {member.filename!r}: only plain files below "
            "the folder are safe"
        )
    file = into.joinpath(*path.parts[1:])
    if not member.is_dir() and not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(archive.read(member))

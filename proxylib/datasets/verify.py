"""Every photograph decoded once: what can't be read is told before a run, not in the middle."""

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from joblib import Parallel, delayed
from tqdm import tqdm

from proxylib import paths
from proxylib.datasets.base import report
from proxylib.datasets.files import DecodedFiles, ImageFiles, read_photo


def verified(
    files: Sequence[Path], size: int, decoded: bool = False, name: str = "photos"
) -> ImageFiles:
    """The files as images, all of them readable.

    Every file is decoded once, on all cores; that it went well is remembered in
    `data/cache/photos` until a file changes (in size or time, see `ImageFiles.fingerprint`).

    Args:
        size: side in pixels to which every image is brought.
        decoded: keep the resized pixels in one file there, so that no epoch decodes again. It
            takes 3·size² bytes an image: at 256 pixels 2.3 GB for CUB-200, 3.2 GB for Cars196
            and 23.6 GB for Stanford Online Products. Safe to delete.
        name: of the data set, for the messages.

    Raises:
        ValueError: unreadable files; up to 20 are named.
        OSError: no room for the decoded pixels.
    """
    images = ImageFiles(files, size)
    pixels = _memory(images, ".npy") if decoded else None
    if pixels is None:
        report(name, unreadable(images, name))
        return images
    if not pixels.is_file():
        report(name, _decode(images, pixels, name))
    return DecodedFiles(files, size, pixels)


def unreadable(images: ImageFiles, name: str = "photos") -> list[str]:
    """What is wrong with each file that can't be decoded; empty if all can."""
    passed = _memory(images, ".ok")
    if passed and (passed.is_file() or passed.with_suffix(".npy").is_file()):
        return []
    problems = _each(images, lambda row: read_photo(images.files[row]), f"{name}: checking")
    if passed and not problems:
        passed.touch()
    return problems


def _decode(images: ImageFiles, pixels: Path, name: str) -> list[str]:
    """All images into the file `pixels`, which appears only when it is whole."""
    need, free = 3 * images.size**2 * len(images), shutil.disk_usage(pixels.parent).free
    if need > free:  # asked before, for a disk that fills up under a memory map ends the process
        raise OSError(
            f"{name}: the decoded images need {need / 1e9:.1f} GB in {pixels.parent}, but "
            f"{free / 1e9:.1f} GB are free: make room, or go without `decoded`"
        )
    with tempfile.TemporaryDirectory(prefix=".decoding-", dir=pixels.parent) as temporary:
        part = Path(temporary) / pixels.name
        array = np.lib.format.open_memmap(part, "w+", np.uint8, tuple(images.shape))

        def write(row: int) -> None:
            array[row] = images[row].numpy()

        if not (problems := _each(images, write, f"{name}: decoding")):
            array.flush()
            part.replace(pixels)
    return problems


def _each(images: ImageFiles, function, title: str) -> list[str]:
    """Call `function(row)` for each image, on all cores; the messages of those that failed."""

    def attempt(row: int) -> str | None:
        try:
            function(row)
        except ValueError as error:
            return str(error)

    # Threads do, for torch's decoders and resizing let go of Python's lock.
    parallel = Parallel(n_jobs=-1, backend="threading", return_as="generator")
    results = parallel(delayed(attempt)(row) for row in range(len(images)))
    hidden = not sys.stderr.isatty()
    bar = tqdm(results, title, len(images), unit="image", disable=hidden)
    return [problem for problem in bar if problem]


def _memory(images: ImageFiles, suffix: str) -> Path | None:
    """Where the cache keeps what is known of these files; None if one of them isn't there."""
    try:
        mark = images.fingerprint()
    except OSError:
        return None
    folder = paths.cache() / "photos"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / (mark + suffix)

"""Photographs that stay on disk and are decoded when they are asked for."""

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from proxylib.caching import code_fingerprint


def read_photo(path: str | Path, size: int | None = None) -> Tensor:
    """One image file as RGB, turned as its EXIF entry says; greyscale files become RGB too.

    Args:
        size: side of the square that the whole picture is squeezed into (bilinear with
            antialiasing; the paper squeezes to 256×256 too); None leaves it as it is.

    Returns:
        (3, size, size) uint8.

    Raises:
        ValueError: no such file, no image, or a truncated one; the message names the path.
    """
    from torchvision.io import decode_image, read_file  # here, for it takes long to import
    from torchvision.transforms.v2 import functional

    try:
        image = decode_image(read_file(str(path)), mode="RGB", apply_exif_orientation=True)
    except RuntimeError as error:
        # torchvision's messages begin with a place in its own source
        reason = re.sub(r"^\w+, \S+, ", "", (str(error).splitlines() or ["?"])[0])
        reason = reason if Path(path).is_file() else "no such file"
        raise ValueError(f"{path}: not a readable image ({reason})") from None
    if image.ndim != 3 or image.dtype != torch.uint8:
        raise ValueError(
            f"{path}: expected one picture of 8 bits a channel, got {tuple(image.shape)} "
            f"{str(image.dtype).removeprefix('torch.')}"
        )
    if size is None:
        return image
    return functional.resize(image, [size, size], antialias=True)


class ImageFiles:
    """Image files in the place of a tensor (N, 3, S, S) uint8: `images[i]` decodes.

    A subset is made with `select`, which decodes nothing. Can be pickled.

    Args:
        files: N paths.
        size: S, the side in pixels to which every image is brought, see `read_photo`.

    Raises (on access):
        ValueError: a file that can't be decoded, see `read_photo`.
        IndexError: no such image.
    """

    dtype = torch.uint8

    def __init__(self, files: Sequence[Path], size: int) -> None:
        self.files = [Path(file) for file in files]
        self.size = size

    def __len__(self) -> int:
        return len(self.files)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), 3, self.size, self.size))

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> Tensor:
        """The same as from a tensor: (3, S, S) for a number, (B, 3, S, S) for several."""
        rows = torch.arange(len(self))[index]  # knows slices, negative numbers, lists, masks …
        images = torch.empty(rows.numel(), *self.shape[1:], dtype=torch.uint8)
        for image, row in zip(images, rows.flatten().tolist(), strict=True):
            image.copy_(self._read(row))
        return images.view(*rows.shape, *self.shape[1:])

    def __getitems__(self, indices: list[int]) -> list[Tensor]:
        """What torch's DataLoader asks for: a list of (3, S, S)."""
        return list(self[indices])

    def split(self, n: int) -> Iterator[Tensor]:
        """All images in their order, as (≤ n, 3, S, S), one batch in memory at a time."""
        return (self[start : start + n] for start in range(0, len(self), n))

    def select(self, mask: Tensor) -> "ImageFiles":
        """The images where `mask` (N,) bool is true, as undecoded as these."""
        if mask.dtype != torch.bool or mask.shape != (len(self),):
            raise ValueError(
                f"expected a bool mask of shape ({len(self)},), got {mask.dtype} "
                f"{tuple(mask.shape)}"
            )
        return self._subset(mask.nonzero().flatten().tolist())

    def fingerprint(self) -> str:
        """Hash that changes with S, with the code that reads an image, and with any file's path
        (below the folder they share), byte size or time of change; the contents are not read.

        Raises:
            FileNotFoundError: a file that is no longer there.
        """
        reader = f"{code_fingerprint('datasets/files.py')} {version('torchvision')}"
        digest = hashlib.sha256(f"{reader} {self.size}".encode())
        names = [os.path.abspath(file) for file in self.files]
        root = os.path.commonpath({os.path.dirname(name) for name in names} or {"."})
        for name in names:
            stat, path = os.stat(name), name[len(root) :].replace(os.sep, "/").lstrip("/")
            digest.update(f"\n{path}\0{stat.st_size}\0{stat.st_mtime_ns}".encode(errors="replace"))
        return digest.hexdigest()[:16]

    def _read(self, row: int) -> Tensor:
        return read_photo(self.files[row], self.size)

    def _subset(self, rows: list[int]) -> "ImageFiles":
        return ImageFiles([self.files[row] for row in rows], self.size)


class DecodedFiles(ImageFiles):
    """`ImageFiles` whose pixels were decoded before and are read from one file, not from memory.

    The fingerprint is that of the image files, for the pixels are the same.

    Args:
        files, size: see `ImageFiles`.
        pixels: a .npy file of (M, 3, S, S) uint8.
        rows: where in it each of the N images is; None = in its order.
    """

    def __init__(
        self, files: Sequence[Path], size: int, pixels: Path, rows: list[int] | None = None
    ) -> None:
        super().__init__(files, size)
        self.pixels, self.rows = pixels, list(range(len(self))) if rows is None else rows
        self._array = np.load(pixels, mmap_mode="r")

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_array": None}  # else pickle would read and copy all pixels

    def __setstate__(self, state: dict) -> None:
        self.__dict__ = state | {"_array": np.load(state["pixels"], mmap_mode="r")}

    def _read(self, row: int) -> Tensor:
        return torch.from_numpy(np.array(self._array[self.rows[row]]))

    def _subset(self, rows: list[int]) -> "DecodedFiles":
        files = [self.files[row] for row in rows]
        return DecodedFiles(files, self.size, self.pixels, [self.rows[row] for row in rows])

"""Reading image files, and photographs that stay on disk until they are asked for."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image, ImageOps
from torch import Tensor

from proxylib.datasets.caching import cached
from proxylib.datasets.code import code_of
from proxylib.datasets.problems import printable

MAX_PIXELS = 2**28 // 3  # 89 million, above which Pillow warns of a "decompression bomb"
GREY_MODES = {"1", "L", "LA", "I", "I;16", "F"}

Box = tuple[int, int, int, int]


def read_file(
    path: str | Path,
    size: int,
    channels: int | None = None,
    squeezed: bool = False,
    box: Box | None = None,
) -> Tensor:
    """One image file as a square tensor (channels, size, size) uint8.

    The picture is turned as its EXIF entry says, and transparent parts become white. Greys of 16
    bits are scaled to 8. Of an animation or a file of several pages, the first one is read.

    Args:
        channels: 1 (grey), 3 (RGB), or None to take what the file holds.
        squeezed: how the picture becomes a square. True squeezes the whole picture into it, as
            the patent's data sets do. False makes the picture as large as needed to fill it, and
            cuts off equal parts at both ends. Both resize bilinearly, with antialiasing.
        box: (left, top, right, bottom) in the pixels of the file, right and bottom exclusive:
            only this part is read. What lies outside of the picture is left out.

    Raises:
        ValueError: the file can't be read (there is none, it is no image or a truncated one, it
            has more than `MAX_PIXELS`, or its numbers fit no grey scale); names the path and why.
            Or a size that is no whole number, 1 or more.
    """
    check_size(size, 1)
    if not os.path.isfile(path):
        reason = "no ordinary file, expected an image" if os.path.exists(path) else "no such file"
        raise ValueError(f"{printable(path)}: {reason}")
    try:
        image = _open(path, box)
        if image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            paper = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(paper, image).convert("L" if channels == 1 else "RGB")
        grey = channels == 1 if channels else image.mode in GREY_MODES
        image = image.convert("L" if grey else "RGB")
    except Exception as error:  # Pillow raises a dozen kinds for files that are damaged
        reason = printable(error) or type(error).__name__
        raise ValueError(f"{printable(path)}: not a readable image ({reason})") from None
    resize = Image.Image.resize if squeezed else ImageOps.fit
    pixels = np.array(resize(image, (size, size), Image.BILINEAR))
    return torch.from_numpy(pixels[None] if grey else pixels.transpose(2, 0, 1).copy())


def check_size(size: object, least: int) -> None:
    """Raise ValueError unless the side of an image is a whole number of at least so many pixels."""
    if type(size) is not int or size < least:
        raise ValueError(f"size={size!r}: expected a whole number of pixels, at least {least}")


def _open(path: str | Path, box: Box | None) -> Image.Image:
    """The decoded picture, cut to the box, turned, and with 8 bits a channel."""
    with Image.open(path) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(
                f"{image.width}×{image.height} pixels, expected at most {MAX_PIXELS:,}: make the "
                "picture smaller"
            )
        image.load()
        # Pillow opens PGM files of 16 bits as if they had 32; its older versions also PNG files.
        as_32_bit = image.mode == "I" and image.format in ("PPM", "PNG")
        is_16_bit = image.mode.startswith("I;16") or as_32_bit
        if box:
            left, top, right, bottom = box
            part = max(left, 0), max(top, 0), min(right, image.width), min(bottom, image.height)
            if part[0] >= part[2] or part[1] >= part[3]:
                raise ValueError(
                    f"the box {box} is outside of the picture of {image.width}×{image.height} "
                    "pixels: is this the picture that the box was drawn in?"
                )
            image = image.crop(part)
        ImageOps.exif_transpose(image, in_place=True)
    if is_16_bit:
        values = np.asarray(image)
        pixels = (values >> 8).astype(np.uint8)
        pixels[values == image.info.get("transparency", -1)] = 255
        return Image.fromarray(pixels)
    if image.mode in ("I", "F"):
        low, high = np.asarray(image).min(), np.asarray(image).max()
        if not (low >= 0 and high <= 255) or (image.mode == "F" and 0 < high <= 1):
            kind = "floating-point" if image.mode == "F" else "32-bit"
            raise ValueError(
                f"{kind} pixels from {low:g} to {high:g}, of which nobody knows what is white; "
                "expected 0 … 255: save the picture with 8 or 16 bits"
            )
        return image.convert("L")
    return image


class ImageFiles:
    """Image files in the place of a tensor (N, 3, S, S) uint8: `images[i]` reads them.

    All are squeezed to the square, see `read_file`. `select` makes a subset and reads nothing.
    Can be pickled.

    Args:
        files: N paths.
        size: S, the side in pixels to which every image is brought.
        boxes: the part of each file that is read, see `read_file`; default all of it.

    Raises (on access):
        ValueError: a file that can't be read, see `read_file`.
        IndexError: no such image.
    """

    dtype = torch.uint8

    def __init__(
        self, files: Sequence[Path], size: int, boxes: Sequence[Box | None] | None = None
    ) -> None:
        self.files = [Path(file) for file in files]
        self.size = size
        self.boxes = list(boxes or [None] * len(self.files))

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
            image.copy_(read_file(self.files[row], self.size, 3, True, self.boxes[row]))
        return images.view(*rows.shape, *self.shape[1:])

    def split(self, n: int) -> Iterator[Tensor]:
        """All images in their order, as (≤ n, 3, S, S), one batch in memory at a time."""
        return (self[start : start + n] for start in range(0, len(self), n))

    def select(self, mask: Tensor) -> "ImageFiles":
        """The images where `mask` (N,) bool is true; reads none of them."""
        if mask.dtype != torch.bool or mask.shape != (len(self),):
            raise ValueError(
                f"expected a bool mask of shape ({len(self)},), got {mask.dtype} "
                f"{tuple(mask.shape)}"
            )
        rows = mask.nonzero().flatten().tolist()
        return ImageFiles([self.files[i] for i in rows], self.size, [self.boxes[i] for i in rows])

    def fingerprint(self) -> str:
        """Hash of the files' bytes and boxes, of S, and of the code that reads an image.

        So it is the same on every machine that has these files, whatever their names and times.
        They are read for it once; as long as none of them changes, `stamp` stands for them.

        Raises:
            OSError: a file that is no longer there, or can't be read.
        """
        return cached(_contents, self.stamp(), unhashed={"images": self})

    def stamp(self) -> str:
        """Hash that tells whether any file has changed, although it reads none.

        It changes with S, with the code that reads an image, and with any file's box, path (below
        the folder that all files share), size in bytes or time of change.

        Raises:
            FileNotFoundError: a file that is no longer there.
        """
        digest = hashlib.sha256(_reader(self.size))
        names = [os.path.abspath(file) for file in self.files]
        root = os.path.commonpath({os.path.dirname(name) for name in names} or {"."})
        for name, box in zip(names, self.boxes, strict=True):
            stat, path = os.stat(name), name[len(root) :].replace(os.sep, "/").lstrip("/")
            line = f"\n{path}\0{stat.st_size}\0{stat.st_mtime_ns}\0{box or ''}"
            digest.update(line.encode(errors="surrogateescape"))
        return digest.hexdigest()[:16]


def _reader(size: int) -> bytes:
    """What, beside the file, decides what is read from it."""
    return f"{code_of((__name__, 'read_file'))} {PIL.__version__} {size}".encode()


def _contents(stamp: str, images: ImageFiles) -> str:
    """`ImageFiles.fingerprint`; the stamp is what it is kept under."""
    digest = hashlib.sha256(_reader(images.size))
    for name, box in zip(images.files, images.boxes, strict=True):
        with open(name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
        digest.update(f"{box or ''}\n".encode())
    return digest.hexdigest()[:16]

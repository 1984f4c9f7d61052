"""Any tree of images with one leaf folder per class: the way to bring one's own data."""

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from proxylib.datasets.base import Dataset, check, report

IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
GREY_MODES = {"1", "L", "LA", "I", "I;16", "F"}
IGNORED = {".ds_store", "thumbs.db", "desktop.ini"}


def read_image(path: str | Path, size: int, channels: int | None = None) -> np.ndarray:
    """One image file, resized to fill a square of side `size` and cut to it at the centre.

    Args:
        channels: 1 (grey), 3 (RGB), or None to take what the file holds.

    Returns:
        (channels, size, size) uint8. Transparent parts become white.

    Raises:
        ValueError: no image, a truncated image, or no such file; the message names the path.
    """
    try:
        with Image.open(path) as image:
            image.load()
            image = ImageOps.exif_transpose(image)
            if image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info:
                image = image.convert("RGBA")
                paper = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(paper, image).convert("L" if channels == 1 else "RGB")
            if image.mode.startswith("I;16"):  # 16-bit greyscale: PIL would clip, not scale
                image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
            grey = channels == 1 if channels else image.mode in GREY_MODES
            image = ImageOps.fit(
                image.convert("L" if grey else "RGB"), (size, size), Image.BILINEAR
            )
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a readable image ({error})") from None
    pixels = np.asarray(image)
    return pixels[None] if grey else pixels.transpose(2, 0, 1)


def load(data_root: str | Path, size: int = 32) -> Dataset:
    """Every leaf folder below `data_root` that holds images is a class, named by its path.

    The official order of the classes (first half trains, second half tests) and of the images
    is the sorted path. Greyscale stays one channel unless some image has colour.

    Args:
        data_root: the tree; folders may be nested. Hidden files and folders are passed over.
        size: side in pixels to which every image is brought.

    Raises:
        FileNotFoundError: `data_root` is no folder.
        ValueError: no images, files beside sub-folders, unreadable files (all are named, up to
            a screenful), one class only, or a class with one image.
    """
    root = Path(data_root).expanduser()
    if not data_root or not root.is_dir():
        raise FileNotFoundError(
            f"folder: data_root={str(data_root)!r} is no folder (looked at {root.absolute()}): "
            "expected a tree with one leaf folder of images per class"
        )
    if size < 8:
        raise ValueError(f"folder: size={size}, expected at least 8 pixels")
    images, labels, class_names, problems = [], [], [], []
    for folder, files in _leaves(root, problems):
        class_names.append(folder.relative_to(root).as_posix())
        for file in files:
            try:
                images.append(read_image(file, size))
                labels.append(len(class_names) - 1)
            except ValueError as error:
                problems.append(str(error))
    report(f"folder {root}", problems)
    if not images:
        raise ValueError(
            f"folder: no images in {root}: expected a tree with one leaf folder of images per "
            f"class (file names ending in {', '.join(IMG_EXTENSIONS)})"
        )
    if len({image.shape[0] for image in images}) > 1:
        images = [np.broadcast_to(image, (3, size, size)) for image in images]
    dataset = Dataset(
        "folder", torch.from_numpy(np.stack(images)), torch.tensor(labels), tuple(class_names)
    )
    return check(dataset)


def _leaves(root: Path, problems: list[str]):
    """(folder, its files) in the order of the paths; what does not fit goes to `problems`."""
    tree = sorted(os.walk(root, followlinks=True, onerror=lambda e: problems.append(str(e))))
    for name, folders, files in tree:
        folder = Path(name)
        if any(part.startswith(".") for part in folder.relative_to(root).parts):
            continue
        files = sorted(f for f in files if not f.startswith(".") and f.lower() not in IGNORED)
        if any(not f.startswith(".") for f in folders):
            stray = [f for f in files if f.lower().endswith(IMG_EXTENSIONS)]
            problems.extend(
                f"{folder / f}: an image beside sub-folders; only leaf folders are classes"
                for f in stray
            )
        elif files:
            yield folder, [folder / f for f in files]
        elif folder != root:
            problems.append(f"{folder}: an empty class folder")

"""Simulated handwriting: KanjiVG's stroke paths, drawn by a seeded pen. Made offline in seconds.

Stroke data: KanjiVG, copyright Ulrich Apel and contributors, CC BY-SA 3.0 (package `kanjivg`).
"""

import functools
import importlib.metadata
import unicodedata
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from svg.path import parse_path

from proxylib.datasets.base import Dataset
from proxylib.datasets.caching import cached
from proxylib.datasets.code import code_of

CREDIT = "Stroke data: KanjiVG, © Ulrich Apel and contributors, CC BY-SA 3.0"
N_TUNING_POOL = 400  # kanji set aside for choosing settings, whatever else is asked for

# Standard deviations of the pen at distortion 1; lengths in units of the image's side.
ROTATION, SHEAR, SCALE, SHIFT = 0.12, 0.24, 0.144, 0.06  # whole character
STROKE_ROTATION, STROKE_SCALE, STROKE_SHIFT, END_JITTER = 0.12, 0.144, 0.03, 0.024  # per stroke
ELASTIC = 0.042  # smooth warp of the paper
# (16, 1): the share of each of its waves, cos π(i x + j y); the longer the wave, the larger.
FADE = np.array([1 / (1 + i + j) for i in range(4) for j in range(4)])[:, None]
FADE *= ELASTIC / np.linalg.norm(FADE)
PEN_WIDTH = (0.5, 0.95)  # range of the pen's Gaussian σ, in pixels of a 32-pixel image
MARGIN = 0.08  # free border around an undistorted character
SPACING = 1 / 64  # distance of neighbouring points: half a pixel of a 32-pixel image


class Strokes(NamedTuple):
    """One character as M points along its S strokes, at equal distances."""

    centre: np.ndarray  # (S, 2) float64, the mean point of each stroke, x and y in 0 … 1
    # (4 S, M) float64. Of each stroke's points: x and y from its centre, 1, and how far along the
    # stroke, 0 … 1; all 0 for the points of other strokes.
    points: np.ndarray


def _folder() -> Path:
    return Path(str(importlib.metadata.distribution("kanjivg").locate_file("kanji")))


@functools.cache
def characters(subset: str) -> tuple[str, ...]:
    """All characters of a subset. No character is in two of the three subsets.

    `"study"` and `"tuning"` are kanji (U+4E00 … U+9FFF) of 4 to 14 strokes in a fixed random
    order; `"other"` holds Latin letters, digits, kana and radicals in code-point order.
    """
    kanji, other = [], []
    for file in sorted(_folder().glob("?????.svg")):
        character = chr(int(file.stem, 16))
        if "\u4e00" <= character <= "\u9fff":
            if 4 <= file.read_bytes().count(b"<path ") <= 14:
                kanji.append(character)
        elif not (name := unicodedata.name(character, "")).startswith(("CJK C", "CJK U")) and (
            character.isalnum() or name.startswith("CJK RADICAL")
        ):
            other.append(character)
    order = np.random.default_rng(0).permutation(len(kanji))
    pool = {
        "study": [kanji[i] for i in order[:-N_TUNING_POOL]],
        "tuning": [kanji[i] for i in order[-N_TUNING_POOL:]],
        "other": other,
    }
    if subset not in pool:
        raise ValueError(f"subset={subset!r}: expected one of {', '.join(map(repr, pool))}")
    return tuple(pool[subset])


@functools.cache
def read_strokes(character: str) -> Strokes:
    """The stroke paths of one character.

    Raises:
        ValueError: KanjiVG has no such character.
    """
    file = _folder() / f"{ord(character):05x}.svg"
    if not file.exists():
        raise ValueError(f"KanjiVG has no character {character!r} (U+{ord(character):04X})")
    strokes, centres = [], []
    root = ElementTree.parse(file).getroot()
    for path in root.iter("{http://www.w3.org/2000/svg}path"):
        segments = parse_path(path.attrib["d"])[1:]  # the first one only moves the pen
        dense = np.array([s.point(t) for s in segments for t in np.linspace(0, 1, 9)])
        length = np.concatenate([[0], np.abs(np.diff(dense)).cumsum()]) / 109  # the SVG's side
        count = max(2, round(length[-1] / SPACING) + 1)
        at = np.linspace(0, length[-1], count)
        xy = np.stack([np.interp(at, length, part) / 109 for part in (dense.real, dense.imag)], 1)
        centres.append(xy.mean(0))
        stroke = np.stack([*(xy - centres[-1]).T, np.ones(count), np.linspace(0, 1, count)])
        strokes.append(torch.from_numpy(stroke))
    return Strokes(np.array(centres), torch.block_diag(*strokes).numpy())


def draw(
    character: str, instances: range, size: int = 32, distortion: float = 1.0, seed: int = 0
) -> np.ndarray:
    """Images (len(instances), size, size) uint8 of one character, dark ink on white, antialiased.

    Image i depends on character, i, size, distortion and seed only, not on how many are drawn.
    The random deviations of the pen are clipped at ±2σ, for larger ones make a character that
    nobody can read.
    """
    s = read_strokes(character)
    n_strokes = len(s.centre)
    deviates, pens = [], []
    for i in instances:
        rng = np.random.default_rng((seed, ord(character), i))
        deviates.append(rng.standard_normal(6 + 32 + 9 * n_strokes))
        pens.append(rng.uniform(*PEN_WIDTH))
    z = distortion * np.clip(np.array(deviates), -2, 2)
    whole, paper, per_stroke = z[:, :6], z[:, 6:38], z[:, 38:].reshape(len(z), n_strokes, 9)

    # Each stroke turns and stretches around its centre, moves, and its ends wander: all that is
    # linear in what `points` holds.
    scale = np.exp(STROKE_SCALE * per_stroke[..., 1:3])
    turn = _affine(STROKE_ROTATION * per_stroke[..., 0], 0, scale)  # (N, S, 2, 2)
    start, end = END_JITTER * per_stroke[..., 5:7], END_JITTER * per_stroke[..., 7:9]
    moved = s.centre + STROKE_SHIFT * per_stroke[..., 3:5] + start
    linear = np.concatenate([turn, moved[..., None], (end - start)[..., None]], -1)
    xy = linear.swapaxes(1, 2).reshape(len(z), 2, -1) @ s.points  # (N, 2, M)

    # The whole character turns, shears, stretches and moves on the sheet.
    scale = np.exp(SCALE * whole[:, 2:4])
    sheet = (1 - 2 * MARGIN) * _affine(ROTATION * whole[:, 0], SHEAR * whole[:, 1], scale)
    place = 0.5 + SHIFT * whole[:, 4:6, None]
    paper = (FADE * paper.reshape(-1, 16, 2)).swapaxes(1, 2)  # (N, 2, 16)
    pixel = (np.arange(size, dtype=np.float32) + 0.5) / size
    # One image after the other: as one array they would not fit into the processor's cache.
    images = np.empty((len(z), size, size), np.uint8)
    parts = zip(images, xy, paper, sheet, place, pens, strict=True)
    for image, line, warp, turn, centre, pen in parts:
        line = turn @ (line + warp @ _waves(line) - 0.5) + centre
        image[:] = np.round(255 * np.exp(-3.0 * _ink(line.astype(np.float32), pen, pixel)))
    return images


def _waves(xy: np.ndarray) -> np.ndarray:
    """cos π(i x + j y) for i, j = 0 … 3, (16, M), of points (2, M)."""
    wave = np.cos(np.pi * xy) + 1j * np.sin(np.pi * xy)
    wave = np.stack([np.ones_like(wave), wave, wave**2, wave**2 * wave], 1)  # (2, 4, M)
    return (wave[0, :, None] * wave[1]).real.reshape(16, -1)


def _ink(xy: np.ndarray, pen: float, pixel: np.ndarray) -> np.ndarray:
    """The line integral of a Gaussian pen, (size, size); it factorises over rows and columns.

    Points (2, M) and centres of the pixels (size,) are float32, the pen's σ is in 1/32.
    """
    width = np.float32(pen) / 32
    # Far from the pen it is cut at e⁻⁴⁰, for denormal numbers would be very slow.
    exponent = np.maximum(-0.5 * ((xy[..., None] - pixel) / width) ** 2, -40)
    column, row = np.exp(exponent)  # (M, size) each
    return row.T @ column * SPACING / (width * (2 * np.pi) ** 0.5)


def _affine(angle: np.ndarray, shear: np.ndarray | float, scale: np.ndarray) -> np.ndarray:
    """Matrices (…, 2, 2): scale, then shear along x, then rotate. Angles in radians."""
    cos, sin = np.cos(angle), np.sin(angle)
    turned = np.stack([cos, shear * cos - sin, sin, shear * sin + cos], -1)
    return turned.reshape(*angle.shape, 2, 2) * scale[..., None, :]


def load(
    subset: str = "study",
    n_classes: int | None = None,
    n_images: int = 16,
    size: int = 32,
    distortion: float = 1.0,
    seed: int = 0,
) -> Dataset:
    """Drawn characters as a data set, classes in code-point order; kept in the cache.

    Args:
        subset: `"study"`, `"tuning"` (kanji the study never tests on) or `"other"` (Latin
            letters, digits, kana and radicals, for pre-training). No character is in two of them.
        n_classes: number of characters; default 400 kanji, or all of `"other"`.
        n_images: images of each character, at least 2.
        size: side of the square images in pixels, at least 8.
        distortion: strength of all deviations of the pen, 0 … 2; at 2 most characters are
            unreadable.
        seed: another seed draws other images of the same characters.

    Raises:
        ValueError: a number out of its range.
    """
    available = characters(subset)
    if n_classes is None:
        n_classes = len(available) if subset == "other" else 400
    for name, value, low, high in (
        ("n_classes", n_classes, 2, len(available)),
        ("n_images", n_images, 2, 100_000),
        ("size", size, 8, 1024),
        ("distortion", distortion, 0, 2),
        ("seed", seed, 0, 2**63),
    ):
        kinds = (int, float) if name == "distortion" else (int,)
        if type(value) not in kinds or not low <= value <= high:
            raise ValueError(
                f"kanji: {name}={value!r}, expected {low} … {high} (subset={subset!r})"
            )
    chosen = tuple(sorted(available[:n_classes]))
    version = importlib.metadata.version("kanjivg") + code_of(_draw_all)
    images = cached(_draw_all, chosen, n_images, size, float(distortion), seed, version)
    labels = torch.arange(n_classes).repeat_interleave(n_images)
    return Dataset("kanji", torch.from_numpy(images)[:, None], labels, chosen, CREDIT)


def _draw_all(
    chosen: tuple[str, ...], n_images: int, size: int, distortion: float, seed: int, version: str
) -> np.ndarray:
    return np.concatenate([draw(c, range(n_images), size, distortion, seed) for c in chosen])

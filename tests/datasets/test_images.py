"""Reading one image file, and many of them in the place of a tensor."""

import os
import pickle
import shutil
import struct
import sys
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from proxylib.datasets import ImageFiles, files, photos, read_file


def photo(path, shade=120, mode="RGB"):
    """A small noisy photograph, wider than high."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(shade).integers(0, 30, (30, 40, 3))
    Image.fromarray((shade + noise).astype(np.uint8)).convert(mode).save(path)
    return path


def cut(path, share=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def squeezed(path, size, **options):
    return read_file(path, size, 3, squeezed=True, **options)


def told(read, *args, **options):
    """The message of the error."""
    with pytest.raises(ValueError) as error:
        read(*args, **options)
    return str(error.value)


# one file


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_every_common_kind_of_pixel_is_known(tmp_path, mode):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    if mode == "I;16":
        Image.fromarray(np.full((9, 9), 65535, np.uint16)).save(path)
    else:
        Image.new("L", (9, 9), 255).convert(mode).save(path)
    for channels, square in ((1, False), (3, False), (3, True)):
        pixels = read_file(path, 8, channels, square)
        assert pixels.shape == (channels, 8, 8) and pixels.dtype == torch.uint8
        assert pixels.min() > 250


def test_without_channels_the_file_decides(tmp_path):
    for mode, channels in (("L", 1), ("RGB", 3), ("RGBA", 3)):
        Image.new(mode, (9, 9)).save(tmp_path / "image.png")
        assert read_file(tmp_path / "image.png", 8).shape == (channels, 8, 8)


def test_a_filled_square_keeps_the_centre_and_the_proportions(tmp_path):
    pixels = np.zeros((10, 30), np.uint8)
    pixels[:, 10:20] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert read_file(tmp_path / "wide.png", 10).min() > 200
    whole = read_file(tmp_path / "wide.png", 10, squeezed=True)[0]
    assert whole[:, :2].max() < 50 and whole[:, 5].min() > 200 and whole[:, 8:].max() < 50


def test_the_pixels_of_a_filled_square_stay_what_they_were(tmp_path):
    """Finished runs on folders and omniglot are found by them."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (77, 105), np.uint8)).save(tmp_path / "grey.png")
    assert zlib.crc32(read_file(tmp_path / "grey.png", 32).numpy()) == 0xED3D8F6A
    Image.fromarray(rng.integers(0, 256, (30, 20, 4), np.uint8)).save(tmp_path / "clear.png")
    assert zlib.crc32(read_file(tmp_path / "clear.png", 32).numpy()) == 0xF1D1FB43


def test_a_photo_is_squeezed_to_a_square_of_three_channels(tmp_path):
    colour, grey = photo(tmp_path / "a.jpg"), photo(tmp_path / "b.jpg", mode="L")
    whole = np.asarray(Image.open(colour).resize((16, 16), Image.BILINEAR))
    assert np.array_equal(squeezed(colour, 16).permute(1, 2, 0), whole)
    pixels = squeezed(grey, 16)
    assert torch.equal(pixels[0], pixels[1]) and torch.equal(pixels[0], pixels[2])


def test_transparent_paper_is_white(tmp_path):
    path = tmp_path / "clear.png"
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(path)
    assert read_file(path, 8, channels=1).min() == 255
    pixels = np.full((8, 8), 30_000, np.uint16)
    pixels[0] = 7
    Image.fromarray(pixels).save(path, transparency=7)
    assert read_file(path, 8)[0, :2, 0].tolist() == [255, 30_000 >> 8]


def turned(path):
    """Black, its left half white; to be shown turned by 90° to the right: left becomes top."""
    image = Image.new("RGB", (40, 30))
    image.paste("white", (0, 0, 20, 30))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif)
    return path


@pytest.mark.parametrize("square", [False, True])
def test_a_photo_is_turned_as_its_camera_says(tmp_path, square):
    pixels = read_file(turned(tmp_path / "turned.jpg"), 40, squeezed=square)
    assert pixels[:, :15].min() > 240 and pixels[:, 25:].max() < 15


def test_of_several_pictures_in_a_file_the_first_is_read(tmp_path):
    pages = [Image.new("RGB", (9, 9), colour) for colour in ("red", "lime", "blue")]
    for name in ("pages.tif", "moving.gif", "moving.webp", "moving.png"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        assert Image.open(tmp_path / name).n_frames == 3
        assert (read_file(tmp_path / name, 8)[:, 4, 4] - torch.tensor([255, 0, 0])).abs().max() < 9


# numbers that fit no grey scale


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("f", (0.0, 1.0), "floating-point pixels from 0 to 1, "),
        ("f", (-3.0, 200.0), "floating-point pixels from -3 to 200, "),
        ("f", (0.0, 3000.0), "floating-point pixels from 0 to 3000, "),
        ("f", (5.0, float("nan")), "floating-point pixels from nan to nan, "),
        ("i", (0, 65_535), "32-bit pixels from 0 to 65535, "),
        ("i", (-1, 9), "32-bit pixels from -1 to 9, "),
    ],
)
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_numbers_without_a_known_white_are_refused(tmp_path, kind, values, message, channels):
    path, dtype = tmp_path / "wide.tif", {"f": np.float32, "i": np.int32}[kind]
    Image.fromarray(np.resize(np.array(values, dtype), (9, 9))).save(path)
    text = told(read_file, path, 8, channels)
    assert text.startswith(f"{path}: not a readable image ({message}")
    assert "expected 0 … 255: save the picture with 8 or 16 bits" in text


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_wide_numbers_that_fit_8_bits_are_read(tmp_path, dtype):
    Image.fromarray(np.full((9, 9), 200, dtype)).save(tmp_path / "wide.tif")
    for channels in (1, 3):
        assert (read_file(tmp_path / "wide.tif", 8, channels) == 200).all()


@pytest.mark.parametrize("name", ["image.png", "image.tif", "image.pgm"])
def test_16_bits_are_scaled(tmp_path, name):
    for value in (0, 100, 40_000, 65_535):
        if name.endswith(".pgm"):  # which older versions of Pillow read but can't write
            pixels = np.full((9, 9), value, ">u2").tobytes()
            (tmp_path / name).write_bytes(b"P5 9 9 65535\n" + pixels)
        else:
            Image.fromarray(np.full((9, 9), value, np.uint16)).save(tmp_path / name)
        assert (read_file(tmp_path / name, 8) == value >> 8).all()
        assert (squeezed(tmp_path / name, 8) == value >> 8).all()


# files that are refused


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", ": no such file"),
        ("broken link", ": no such file"),
        ("empty", "cannot identify image file"),
        ("text", "cannot identify image file"),
        ("truncated", "not a readable image (image file is truncated"),
        ("folder", ": no ordinary file, expected an image"),
        ("pipe", ": no ordinary file, expected an image"),
    ],
)
@pytest.mark.parametrize("square", [False, True])
def test_what_is_no_photo_is_named(tmp_path, what, message, square):
    path = tmp_path / "bad.jpg"
    if what == "empty":
        path.touch()
    elif what == "broken link":
        path.symlink_to("nowhere")
    elif what == "text":
        path.write_text("no image, but long enough to be one")
    elif what == "truncated":
        cut(photo(path), 0.9)
    elif what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)  # reading it would wait for ever
    text = told(read_file, path, 8, 3, square)
    assert text.startswith(f"{path}: ") and message in text


@pytest.mark.parametrize("side", [9_500, 20_000])
@pytest.mark.parametrize("square", [False, True])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_pictures_that_would_fill_the_memory_are_refused(tmp_path, side, square):
    path = tmp_path / "huge.png"
    Image.new("L", (9, 9)).save(path)
    content = path.read_bytes()
    header = b"IHDR" + struct.pack(">II", side, side) + content[24:29]  # says it is larger
    path.write_bytes(content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:])
    text = told(read_file, path, 8, 1, square)
    assert text.startswith(f"{path}: not a readable image (") and "pixels" in text
    if side == 9_500:
        assert "9500×9500 pixels, expected at most 89,478,485: make the picture smaller" in text


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no such names")
def test_a_file_name_that_is_no_utf_8_can_be_printed(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.png")
    with open(path, "w") as file:
        file.write("no image")
    text = told(read_file, path, 8)
    assert text.startswith(rf"{tmp_path}/\xff.png: not a readable image") and text.encode()
    Image.new("L", (9, 9)).save(path, "PNG")
    assert read_file(path, 8).shape == (1, 8, 8)
    assert ImageFiles([path], 8).fingerprint()


# boxes


@pytest.mark.parametrize(
    ("box", "part"),
    [
        ((3, 4, 23, 14), (3, 4, 23, 14)),
        ((30, 20, 60, 50), (30, 20, 40, 30)),  # no black beyond the edge
        ((0, 0, 40, 30), (0, 0, 40, 30)),
    ],
)
def test_a_box_is_cut_out_before_the_picture_becomes_a_square(tmp_path, box, part):
    path = photo(tmp_path / "a.jpg")
    photo_part = Image.open(path).crop(part)
    photo_part.save(tmp_path / "part.png")
    for square in (False, True):
        expected = read_file(tmp_path / "part.png", 8, squeezed=square)
        assert torch.equal(read_file(path, 8, squeezed=square, box=box), expected)


def test_a_box_is_counted_in_the_pixels_of_the_file_not_of_the_turned_picture(tmp_path):
    path = turned(tmp_path / "turned.jpg")
    assert read_file(path, 8, box=(22, 0, 40, 30)).max() < 15
    assert read_file(path, 8, box=(0, 0, 18, 30)).min() > 240
    pixels = read_file(path, 40, squeezed=True, box=(10, 0, 30, 30))
    assert pixels[:, :15].min() > 240 and pixels[:, 25:].max() < 15


def test_a_box_beside_the_picture_is_refused(tmp_path):
    path = photo(tmp_path / "a.jpg")
    text = told(read_file, path, 8, box=(40, 0, 50, 9))
    assert f"{path}: not a readable image (the box (40, 0, 50, 9) is outside" in text
    assert "40×30 pixels" in text


# many files in the place of a tensor


@pytest.fixture
def images(home, tmp_path):
    paths = [photo(tmp_path / f"class{i // 3}" / f"{i}.jpg", 30 * i) for i in range(7)]
    return ImageFiles(paths, 8)


@pytest.mark.parametrize("boxed", [False, True])
def test_image_files_are_indexed_as_a_tensor_is(images, boxed):
    boxes = [(i, 0, i + 9, 20) if boxed else None for i in range(7)]
    images = ImageFiles(images.files, 8, boxes)
    pairs = zip(images.files, boxes, strict=True)
    tensor = torch.stack([squeezed(file, 8, box=box) for file, box in pairs])
    assert (len(images), images.shape, images.dtype) == (7, tensor.shape, tensor.dtype)
    rows = torch.tensor([3, 0, 3])
    for index in (
        2,
        -1,
        rows[0],
        rows,
        [6, 1],
        slice(1, 6, 2),
        slice(9, 9),
        [],
        tensor[:, 0, 0, 0] > 9,
    ):
        assert torch.equal(images[index], tensor[index])
    for index in (7, [1, 7], torch.tensor([-8])):
        with pytest.raises(IndexError):
            images[index]
    for mine, theirs in zip(images.split(3), tensor.split(3), strict=True):
        assert torch.equal(mine, theirs)
    mask = torch.arange(7) % 2 == 0
    part = images.select(mask).select(torch.tensor([False, True, True, False]))
    assert torch.equal(part[:], tensor[[2, 4]]) and part.files == [images.files[i] for i in (2, 4)]
    with pytest.raises(ValueError, match=r"expected a bool mask of shape \(7,\), got torch.int64"):
        images.select(rows)
    copied = pickle.loads(pickle.dumps(part))
    assert torch.equal(copied[:], part[:]) and copied.fingerprint() == part.fingerprint()
    assert len(pickle.dumps(images)) < 3000  # no pixels in it
    batches = DataLoader(images, batch_size=4, num_workers=1)
    assert torch.equal(torch.cat(list(batches)), tensor)


def test_the_fingerprint_knows_files_boxes_and_size_but_not_the_folder(images, tmp_path):
    first = images.fingerprint()
    assert first == ImageFiles(images.files, 8).fingerprint()
    assert first != ImageFiles(images.files, 9).fingerprint()
    assert first != ImageFiles(images.files[::-1], 8).fingerprint()
    assert first != ImageFiles(images.files, 8, [None] * 6 + [(0, 0, 9, 9)]).fingerprint()
    copies = [tmp_path / f"{i}.copy" for i in range(7)]
    for file, copy in zip(images.files, copies, strict=True):
        shutil.copyfile(file, copy)  # with another name and time
    assert first == ImageFiles(copies, 8).fingerprint()
    photo(images.files[0], 31)
    assert first != images.fingerprint()


def test_files_are_read_once_for_their_fingerprint(images, monkeypatch):
    read = []

    def opened(name, mode):
        read.append(name)
        return open(name, mode)

    monkeypatch.setattr(files, "open", opened, raising=False)
    first = images.fingerprint()
    assert first == ImageFiles(images.files, 8).fingerprint() and read == images.files
    os.utime(images.files[3], (1, 1))
    assert first == images.fingerprint() and read == images.files * 2
    images.files[3].unlink()
    with pytest.raises(FileNotFoundError, match=images.files[3].name):
        images.fingerprint()


def test_readable_files_are_checked_once(images, monkeypatch):
    assert photos.unreadable(images, "mine") == []
    with monkeypatch.context() as patch:
        patch.setattr(files, "read_file", None)  # reading would fail
        assert photos.unreadable(images, "mine") == []
    cut(images.files[3])
    [problem] = photos.unreadable(images, "mine")
    assert f"{images.files[3]}: not a readable image" in problem
    assert photos.unreadable(images, "mine") == [problem]  # a check that failed is not remembered


@pytest.mark.parametrize("size", [0, -8, 2.5, "big"])
def test_the_size_is_a_number_of_pixels(tmp_path, size):
    photo(tmp_path / "a.png")
    assert f"size={size!r}: expected a whole number of pixels" in told(
        read_file, tmp_path / "a.png", size
    )

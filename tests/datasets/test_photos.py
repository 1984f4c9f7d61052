"""CUB-200, Cars196 and Stanford Online Products, tiny but in the genuine formats."""

import hashlib
import os
import re
import shutil
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.lib.recfunctions import repack_fields
from PIL import Image
from scipy.io import savemat
from test_images import cut, photo, squeezed, told

from proxylib import datasets
from proxylib.datasets import ImageFiles, cars196, cub200, fetch, sop
from proxylib.retrieval import embed, nearest_neighbors
from proxylib.study import figures
from proxylib.study.cli import app
from proxylib.study.experiments import raw_pixels
from proxylib.study.rotation import rotation
from proxylib.study.runs import RunConfig, run


def edit(path, *replacements):
    text = path.read_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


@pytest.fixture
def cub(home, monkeypatch):
    """4 classes of 3 images in `data/cub200`, with the names of the genuine set."""
    for name, value in {"N_CLASSES": 4, "N_TRAIN": 2, "N_IMAGES": 12}.items():
        monkeypatch.setattr(cub200, name, value)
    root = home / "data" / "cub200" / "CUB_200_2011"
    names = ["Black_footed_Albatross", "Laysan_Albatross", "Sooty_Albatross", "Groove_billed_Ani"]
    classes = [f"{c:03}.{name}" for c, name in enumerate(names, 1)]
    images = [f"{classes[i // 3]}/{names[i // 3]}_000{i % 3}_{i}.jpg" for i in range(12)]
    for i, image in enumerate(images):
        photo(root / "images" / image, 20 * i, "L" if i == 4 else "RGB")
    write(root / "classes.txt", (f"{c} {name}" for c, name in enumerate(classes, 1)))
    write(root / "images.txt", (f"{i} {image}" for i, image in enumerate(images, 1)))
    write(root / "image_class_labels.txt", (f"{i + 1} {i // 3 + 1}" for i in range(12)))
    return root


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def cars(home, monkeypatch):
    """A function that makes a copy of 4 classes of 2 + 2 images, in layout "A" or "B"."""
    for name, value in {"N_CLASSES": 4, "N_TRAIN": 2, "N_IMAGES": 16}.items():
        monkeypatch.setattr(cars196, name, value)
    halves = tuple((mat, folder, 8) for mat, folder, _ in cars196.SPLITS)
    monkeypatch.setattr(cars196, "SPLITS", halves)
    names = np.array([["AM General Hummer SUV 2000", "Acura RL", "BMW", "smart"]], dtype=object)

    def make(layout, shift=0, root=home / "data" / "cars196"):
        if layout == "A":
            records = [
                (f"car_ims/{i + 1:06}.jpg", i // 4 + 1 + shift, i % 4 > 1) for i in range(16)
            ]
            root.mkdir(parents=True)
            savemat(
                root / "cars_annos.mat",
                {"annotations": structs(records, "relative_im_path", "test"), "class_names": names},
            )
            for i, (image, *_) in enumerate(records):
                photo(root / image, 14 * i)
            return root
        (root / "devkit").mkdir(parents=True)
        savemat(root / "devkit" / "cars_meta.mat", {"class_names": names})
        for k, (mat, folder, n) in enumerate(cars196.SPLITS):
            records = [(f"{i + 1:05}.jpg", i // 2 + 1 + shift, None) for i in range(n)]
            savemat(root / "devkit" / mat, {"annotations": structs(records, "fname")})
            for i, (image, *_) in enumerate(records):
                photo(root / folder / image, 14 * (8 * k + i))
        return root

    return make


def structs(records, path, test=None):
    """A MATLAB struct array as the genuine files have it, 1×N with numbers of small types.

    The box of image i reaches from (i + 1, 3) to (i + 20, 25), both counted from 1 and included.
    """
    names = [f"bbox_{xy}" for xy in ("x1", "y1", "x2", "y2")] + ["class"]
    names = [path, *names, test] if test else [*names, path]
    array = np.empty((1, len(records)), dtype=[(name, object) for name in names])
    for i, (file, label, half) in enumerate(records):
        box = dict(zip(names[1:5] if test else names, (i + 1, 3, i + 20, 25), strict=False))
        values = {name: np.uint16(value) for name, value in box.items()}
        values |= {path: file, "class": np.uint8(label)}
        array[0, i] = tuple((values | ({test: np.uint8(half)} if test else {}))[n] for n in names)
    return array


@pytest.fixture
def products(home, monkeypatch):
    """3 training and 2 test classes of 2 to 3 images in `data/sop`."""
    monkeypatch.setattr(sop, "SPLITS", (("Ebay_train.txt", 1, 3, 7), ("Ebay_test.txt", 4, 5, 5)))
    root = home / "data" / "sop" / "Stanford_Online_Products"
    classes = [1, 1, 1, 2, 2, 3, 3, 4, 4, 4, 5, 5]
    kinds = {1: "bicycle", 2: "bicycle", 3: "chair", 4: "bicycle", 5: "chair"}
    lines = []
    for i, c in enumerate(classes):
        path = f"{kinds[c]}_final/1110851228{c}_{i}.JPG"
        photo(root / path, 18 * i)
        lines.append(f"{i + 1} {c} {1 + (kinds[c] == 'chair')} {path}")
    header = "image_id class_id super_class_id path"
    write(root / "Ebay_train.txt", [header, *lines[:7]])
    write(root / "Ebay_test.txt", [header, *lines[7:]])
    return root


# CUB-200-2011


def test_cub_is_read_as_it_unpacks(cub):
    dataset = cub200.load(size=16)
    assert (dataset.name, len(dataset), dataset.images.shape) == ("cub200", 12, (12, 3, 16, 16))
    assert dataset.labels.tolist() == [i // 3 for i in range(12)]
    assert dataset.class_names[0] == "001.Black_footed_Albatross"
    assert "Wah" in dataset.credit
    assert torch.equal(dataset.images[4], squeezed(dataset.images.files[4], 16))
    train, test = datasets.zero_shot_split(dataset)
    assert train.class_names + test.class_names == dataset.class_names and len(train) == 6
    assert torch.equal(test.images[0], dataset.images[6])
    assert train.n_train_classes is None
    for root in (cub, cub.parent):
        assert datasets.load("cub200", root, size=16).fingerprint() == dataset.fingerprint()


def test_cub_that_is_not_there_says_how_to_get_it(home):
    with pytest.raises(FileNotFoundError, match=r"proxylib fetch cub200.*images\.txt") as error:
        cub200.load()
    assert str(home / "data" / "cub200") in str(error.value)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("images", "\n5 ", "\nfive ", r"images.txt:5: 'five 002.*', expected `image_id path`"),
        ("images", "\n5 002.Laysan_Albatross/Laysan_Albatross_0001_4.jpg", "\n5", r"txt:5: '5'"),
        ("images", "\n5 ", "\n4 ", r"images.txt:5: image_id 4 again, it was in line 4"),
        ("images", "0001_4.jpg", "0000_3.jpg", r"txt:5: .*_0000_3.jpg again, .* images.txt:4"),
        ("images", "0001_4", "9_9", r"images.txt:5: no such file .*Laysan_Albatross_9_9.jpg"),
        ("images", "\n5 ", "\n55 ", r"images.txt:5: image 55 is not in image_class_labels.txt"),
        ("image_class_labels", "\n5 2", "", r"images.txt:5: image 5 is not in image_class"),
        ("image_class_labels", "\n5 2", "\n5 2\n55 2", r"labels.txt:6: image 55 is not in images"),
        ("image_class_labels", "\n5 2", "\n5 3", r"labels.txt:5: class 3 for image 5, 002.Lay"),
        ("image_class_labels", "\n5 2", "\n5 9", r"class 9 for image 5, .* 1 … 4"),
        ("classes", "\n2 ", "\n7 ", r"classes.txt: class 2 has no line, expected 1 … 4"),
        ("classes", "\n2 ", "\n7 ", r"classes.txt: class 7 is unknown"),
    ],
)
def test_cub_annotations_that_are_wrong_are_named(cub, file, old, new, message):
    edit(cub / f"{file}.txt", (old, new))
    assert re.search(message, told(cub200.load))


def test_cub_tells_everything_at_once(cub):
    (cub / "classes.txt").unlink()
    edit(cub / "images.txt", ("\n12 ", "\ntwelve "))
    edit(cub / "image_class_labels.txt", ("\n5 2", "\n5 3"))
    albatross = cub / "images" / "001.Black_footed_Albatross"
    (albatross / "Black_footed_Albatross_0000_0.jpg").unlink()
    cut(albatross / "Black_footed_Albatross_0001_1.jpg")
    message = told(cub200.load)
    for part in (
        "7 problem(s)",
        "classes.txt: no such file",
        "images.txt:12: 'twelve 004",
        "images.txt, images: found 11, expected 12",
        "image 12 is not in images.txt",
        "class 3 for image 5",
        "images.txt:1: no such file",
        "0001_1.jpg: not a readable image",
        "proxylib fetch cub200",
        "allow_partial=True",
    ):
        assert part in message


def test_a_copy_of_cub_without_some_images_is_allowed_on_demand(cub):
    for image in ("001.Black_footed_Albatross/Black_footed_Albatross_0000_0.jpg",
                  "002.Laysan_Albatross/Laysan_Albatross_0000_3.jpg",
                  "002.Laysan_Albatross/Laysan_Albatross_0001_4.jpg"):  # fmt: skip
        (cub / "images" / image).unlink()
    assert "3 problem(s)" in told(cub200.load)
    with pytest.warns(UserWarning, match=r"4 of 12 images are missing .* 1 of 4 classes"):
        dataset = cub200.load(allow_partial=True, size=8)
    assert [name[:3] for name in dataset.class_names] == ["001", "003", "004"]
    assert dataset.labels.tolist() == [0, 0, 1, 1, 1, 2, 2, 2]
    assert dataset.n_train_classes == 1  # what is left of the official training half
    with pytest.raises(ValueError, match="3 classes, 1 of them for training, but a zero-shot"):
        datasets.zero_shot_split(dataset)
    cut(cub / "images" / "003.Sooty_Albatross" / "Sooty_Albatross_0000_6.jpg")
    assert "Sooty_Albatross_0000_6.jpg: not a readable" in told(cub200.load, allow_partial=True)
    edit(cub / "image_class_labels.txt", ("\n12 4", "\n12 3"))
    assert "class 3 for image 12" in told(cub200.load, allow_partial=True)
    shutil.rmtree(cub / "images")
    edit(cub / "image_class_labels.txt", ("\n12 3", "\n12 4"))
    assert "none of the 12 images is there" in told(cub200.load, allow_partial=True)


def boxes_of(cub):
    lines = [f"{i + 1} {i}.0 2.0 20.5 {90 if i == 2 else 23}.0" for i in range(12)]
    write(cub / "bounding_boxes.txt", lines)


def test_cub_is_cut_to_its_boxes(cub):
    boxes_of(cub)
    plain, boxed = cub200.load(size=16), cub200.load(size=16, boxes=True)
    assert plain.images.files == boxed.images.files and plain.fingerprint() != boxed.fingerprint()
    for i in (0, 2, 11):  # the third box is higher than the picture
        part = Image.open(boxed.images.files[i]).convert("RGB")
        part = part.crop((i, 2, i + 21, 30 if i == 2 else 25)).resize((16, 16), Image.BILINEAR)
        assert np.array_equal(boxed.images[i].permute(1, 2, 0), part)
    _, test = datasets.zero_shot_split(boxed)
    assert torch.equal(test.images[5], boxed.images[11])
    query = datasets.read_like(test, test.images.files[0])  # of any picture, so without a box
    assert torch.equal(query, plain.images[6])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\n5 4.0", "\n5 four", r"boxes.txt:5: '5 four .*expected `image_id x y width height`"),
        ("\n5 4.0 2.0 20.5", "\n5 4.0 2.0 0", r"images.txt:5: box from \(4.0, 2.0\) to \(4.0, 25"),
        ("\n5 4.0", "\n5 nan", r"images.txt:5: box from \(nan, 2.0\) to"),
        ("\n5 4.0", "\n5 -9", r"images.txt:5: box from \(-9.0, 2.0\) to"),
        (
            "\n5 4.0",
            "\n5 77",
            r"_4.jpg: not a readable image \(the box \(77, 2, 98, 25\) is out",
        ),
        ("\n5 ", "\n55 ", r"images.txt:5: image 5 is not in bounding_boxes.txt"),
        ("\n5 ", "\n55 ", r"bounding_boxes.txt:5: image 55 is not in images.txt"),
    ],
)
def test_cub_boxes_that_are_wrong_are_named(cub, old, new, message):
    boxes_of(cub)
    edit(cub / "bounding_boxes.txt", (old, new))
    assert re.search(message, told(cub200.load, boxes=True))
    assert len(cub200.load()) == 12


def test_cub_without_boxes_says_so(cub):
    assert "bounding_boxes.txt: no such file" in told(cub200.load, boxes=True)


@pytest.mark.parametrize("path", ["001.x/../../../../outside.jpg", "/outside.jpg", r"001.x\..\a"])
def test_cub_reads_nothing_outside_of_its_folder(cub, home, path):
    photo(home / "data" / "outside.jpg")
    edit(cub / "images.txt", ("\n3 001.Black_footed_Albatross/Black_footed_Albatross_0002_2.jpg",
                              f"\n3 {path}"))  # fmt: skip
    for partial in (False, True):
        message = told(cub200.load, allow_partial=partial)
        assert f"images.txt:3: refused to read {path!r}, expected a path below {cub}" in message


def test_a_pipe_in_the_place_of_a_photo_is_an_error(cub):
    file = next(cub.rglob("*_5.jpg"))
    file.unlink()
    os.mkfifo(file)
    for partial in (False, True):
        message = told(cub200.load, allow_partial=partial)
        assert f"{file}: no ordinary file, expected an image" in message


def test_load_sees_annotations_and_photos_that_changed(cub):
    before = datasets.load("cub200", size=8)
    assert datasets.load("cub200", size=8) is before
    cut(before.images.files[0])
    assert "not a readable image" in told(datasets.load, "cub200", size=8)
    photo(before.images.files[0], 200)
    assert datasets.load("cub200", size=8) is not before
    edit(cub / "classes.txt", ("Albatross\n2", "Gull\n2"))
    assert datasets.load("cub200", size=8).class_names[0] == "001.Black_footed_Gull"


def test_a_whole_copy_warns_of_nothing(cub):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert len(cub200.load(allow_partial=True)) == 12


def test_photos_need_a_few_pixels(cub):
    assert "size=4: expected a whole number of pixels, at least 8" in told(cub200.load, size=4)


# Cars196


@pytest.mark.parametrize("layout", ["A", "B"])
def test_cars_are_read_in_both_layouts(cars, layout):
    root = cars(layout)
    dataset = cars196.load(size=8)
    labels = [i // 4 for i in range(16)] if layout == "A" else [i // 2 for i in range(8)] * 2
    assert dataset.labels.tolist() == labels
    assert dataset.class_names == ("AM General Hummer SUV 2000", "Acura RL", "BMW", "smart")
    first = "car_ims/000001.jpg" if layout == "A" else "cars_train/00001.jpg"
    assert torch.equal(dataset.images[0], squeezed(root / first, 8))
    train, test = datasets.zero_shot_split(dataset)
    assert train.n_classes == test.n_classes == 2 and len(train) == len(test) == 8
    assert "Krause" in dataset.credit


def test_cars_annotations_may_lie_beside_the_devkit_and_images_deeper(cars):
    root = cars("B")
    fingerprint = cars196.load(size=8).fingerprint()
    name = "cars_test_annos_withlabels.mat"
    (root / "devkit" / name).rename(root / name)
    assert cars196.load(size=8).fingerprint() == fingerprint
    (root / "cars_train").rename(root / "deeper")
    (root / "cars_train").mkdir()
    (root / "deeper").rename(root / "cars_train" / "cars_train")
    assert len(cars196.load(size=8)) == 16


def test_cars_without_test_labels_say_which_file_holds_them(cars):
    devkit = cars("B") / "devkit"
    (devkit / "cars_test_annos_withlabels.mat").rename(devkit / "cars_test_annos.mat")
    message = told(cars196.load)
    assert "cars_test_annos_withlabels.mat: no such file (cars_test_annos.mat, which is" in message
    assert "holds no labels" in message and "pytorch/vision/issues/7545" in message


def test_the_training_half_of_cars_is_enough_on_demand(cars):
    root = cars("B")
    whole = cars196.load(size=8)
    devkit = root / "devkit"
    (devkit / "cars_test_annos_withlabels.mat").rename(devkit / "cars_test_annos.mat")
    shutil.rmtree(root / "cars_test")
    message = told(cars196.load)
    assert "allow_partial=True takes the other half alone" in message
    with pytest.warns(UserWarning, match="8 of 16 images are missing .* and 0 of 4 classes"):
        half = cars196.load(size=8, allow_partial=True)
    assert half.images.files == whole.images.files[:8] and half.class_names == whole.class_names
    assert half.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3] and half.n_train_classes == 2
    (devkit / "cars_test_annos.mat").unlink()
    with pytest.warns(UserWarning, match="8 of 16 images"):
        assert len(datasets.load("cars196", root, size=8, allow_partial=True)) == 8
    (devkit / "cars_train_annos.mat").unlink()
    message = told(cars196.load, allow_partial=True)
    assert "cars_train_annos.mat: no such file" in message
    assert "cars_test_annos_withlabels.mat: no such file" in message


@pytest.mark.parametrize("layout", ["A", "B"])
def test_cars_are_cut_to_their_boxes(cars, layout):
    cars(layout)
    plain, boxed = cars196.load(size=8), cars196.load(size=8, boxes=True)
    assert plain.fingerprint() != boxed.fingerprint()
    for i in (0, 7):
        part = Image.open(boxed.images.files[i]).crop((i, 2, i + 20, 25))
        expected = part.resize((8, 8), Image.BILINEAR)
        assert np.array_equal(boxed.images[i].permute(1, 2, 0), expected)


def test_cars_without_boxes_say_so(cars):
    root = cars("A")
    array = structs([("car_ims/000001.jpg", 1, 0)], "relative_im_path", "test")
    array = repack_fields(array[[name for name in array.dtype.names if name != "bbox_y2"]])
    savemat(root / "cars_annos.mat", {"annotations": array, "class_names": ["a"]})
    message = told(cars196.load, boxes=True)
    assert "expected the fields relative_im_path, class, bbox_x1, bbox_y1, bbox_x2" in message


@pytest.mark.parametrize("path", ["../outside.jpg", "/outside.jpg"])
def test_cars_read_nothing_outside_of_their_folder(cars, path):
    root = cars("A")
    records = structs([(path, 1, 0)], "relative_im_path", "test")
    savemat(root / "cars_annos.mat", {"annotations": records, "class_names": ["a"]})
    photo(root.parent / "outside.jpg")
    message = told(cars196.load, allow_partial=True)
    assert f"record 1: refused to read {path!r}, expected a path below {root}" in message


@pytest.mark.parametrize("layout", ["A", "B"])
def test_cars_labels_from_zero_are_told(cars, layout):
    cars(layout, shift=-1)
    message = told(cars196.load)
    assert "record 1: class 0, expected 1 … 4" in message
    assert "class 4 (smart) has no image" in message and "5 problem(s)" in message


def test_cars_labels_beyond_the_last_are_told(cars):
    cars("A", shift=1)
    message = told(cars196.load)
    assert "cars_annos.mat, record 13: class 5, expected 1 … 4" in message
    assert "class 1 (AM General Hummer SUV 2000) has no image" in message


def test_cars_with_missing_files_and_images_are_told_at_once(cars):
    root = cars("B")
    (root / "devkit" / "cars_meta.mat").write_text("no MATLAB file")
    (root / "devkit" / "cars_train_annos.mat").unlink()
    (root / "cars_test" / "00003.jpg").unlink()
    cut(root / "cars_test" / "00004.jpg")
    message = told(cars196.load)
    for part in (
        "4 problem(s)",
        "cars_meta.mat: not a readable .mat file",
        "cars_train_annos.mat: no such file",
        "cars_test_annos_withlabels.mat, record 3: no such file",
        "00004.jpg: not a readable image",
    ):
        assert part in message


def test_cars_records_that_are_wrong_are_told(cars):
    root = cars("A")
    records = [("car_ims/000001.jpg", 1, 0), ("car_ims/000001.jpg", 1, 0)]
    savemat(root / "cars_annos.mat", {"annotations": structs(records, "relative_im_path", "test")})
    message = told(cars196.load)
    assert "record 2: car_ims/000001.jpg again, it was in cars_annos.mat, record 1" in message
    assert "cars_annos.mat, images: found 2, expected 16" in message
    assert "class_names: found 0, expected 4" in message
    savemat(root / "cars_annos.mat", {"annotations": structs(records[:1], "fname")})  # one record
    message = told(cars196.load)
    assert "record 1: ['bbox_x1'," in message and "the fields relative_im_path, class" in message
    (root / "cars_annos.mat").unlink()
    assert "cars_annos.mat: no such file" in told(cars196.load)


def test_a_partial_copy_of_cars_may_have_one_record(cars):
    root = cars("A")
    names = np.array([["a", "b", "c", "d"]], dtype=object)
    records = structs([("car_ims/000001.jpg", 1, 0)], "relative_im_path", "test")
    savemat(root / "cars_annos.mat", {"annotations": records, "class_names": names})
    with (
        pytest.warns(UserWarning, match="16 of 16 images"),
        pytest.raises(ValueError, match="at least 2"),
    ):
        cars196.load(allow_partial=True)


# Stanford Online Products


def test_products_have_unequal_halves(products):
    dataset = datasets.load("sop", size=8)
    assert dataset.labels.tolist() == [0, 0, 0, 1, 1, 2, 2, 3, 3, 3, 4, 4]
    assert dataset.class_names[1:4] == ("bicycle_final/2", "chair_final/3", "bicycle_final/4")
    assert dataset.n_train_classes == 3 and "Oh Song" in dataset.credit
    train, test = datasets.zero_shot_split(dataset)
    assert (train.n_classes, len(train), test.n_classes, len(test)) == (3, 7, 2, 5)
    assert torch.equal(test.images[0], dataset.images[7])
    assert train.fingerprint() != test.fingerprint()


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        (
            "train",
            "super_class_id",
            "kind",
            r"train.txt:1: 'image.*', expected `image_id class_id super_class_id path`",
        ),
        ("train", "\n2 1 1", "\n2 1", r"train.txt:3: '2 1 bicycle.*', expected `image_id"),
        ("train", "\n2 1 1 b", "\n2 1 1 /b", r"train.txt:3: refused to read '/bicycle_final"),
        ("test", "\n9 4 1 b", "\n9 4 1 ../b", r"test.txt:3: refused to read '../bicycle_final"),
        ("train", "\n2 1 1", "\n2 0 1", r"train.txt:3: class_id 0, expected 1 … 3"),
        ("train", "\n2 1 1", "\n2 4 1", r"train.txt:3: class_id 4, expected 1 … 3"),
        ("test", "\n8 4 1", "\n8 3 1", r"test.txt:2: class_id 3, expected 4 … 5"),
        ("test", "\n9 4 1", "\n8 4 1", r"test.txt:3: image_id 8 again, it was in line 2"),
        ("test", "4_8.JPG", "4_7.JPG", r"test.txt:3: .*_7.JPG again, it was in Ebay_test"),
        ("test", "\n12 5 2 chair_final/11108512285_11.JPG", "", "images: found 4, expected 5"),
        ("test", "5 2", "4 2", r"class 5 \(5\) has no image"),
        # no format tells a class that is wrong but possible, unless one image is left of another
        ("train", "\n6 3", "\n6 2", r"class chair_final/3: found 1 image.s., expected at least 2"),
    ],
)
def test_product_lists_that_are_wrong_are_named(products, file, old, new, message):
    edit(products / f"Ebay_{file}.txt", (old, new))
    assert re.search(message, told(sop.load))


def test_many_problems_of_one_kind_hide_no_other(products):
    edit(products / "Ebay_train.txt", ("\n7 3", "\n" + "nonsense\n" * 30 + "7 3"))
    (products / "bicycle_final" / "11108512281_1.JPG").unlink()
    cut(products / "chair_final" / "11108512285_11.JPG")
    message = told(sop.load)
    assert "32 problem(s)" in message and "… and 12 more" in message
    assert message.count("nonsense") == 18
    assert "Ebay_train.txt:3: no such file" in message
    assert "11108512285_11.JPG: not a readable image" in message


def test_a_partial_copy_of_products_keeps_the_official_split(products):
    for image in ("bicycle_final/11108512282_3.JPG", "chair_final/11108512285_10.JPG"):
        (products / image).unlink()
    with pytest.warns(UserWarning, match=r"4 of 12 images are missing .* 2 of 5 classes"):
        dataset = sop.load(size=8, allow_partial=True)
    assert dataset.class_names == ("bicycle_final/1", "chair_final/3", "bicycle_final/4")
    assert dataset.n_train_classes == 2
    (products / "Ebay_test.txt").unlink()
    assert "Ebay_test.txt: no such file" in told(sop.load, allow_partial=True)


# fetching


def call(name):
    result = CliRunner().invoke(app, ["fetch", name, "--no-progress"])
    return result.exit_code, re.sub(r"\s+", " ", result.output)


def put(archive, module, monkeypatch):
    """The archive where one puts it by hand, its hash made known."""
    monkeypatch.setattr(module, "HASH", "md5:" + hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setattr(module, "URL", f"http://127.0.0.1:9/{archive.name}")
    downloads = fetch.paths.downloads()
    downloads.mkdir(parents=True, exist_ok=True)
    archive.rename(downloads / archive.name)


def test_fetch_unpacks_cub(cub, tmp_path, monkeypatch):
    archive = tmp_path / "CUB_200_2011.tgz"
    with tarfile.open(archive, "w:gz") as opened:  # the genuine one has this file on top
        opened.add(cub / "classes.txt", "attributes.txt")
        opened.add(cub, "CUB_200_2011")
    expected = cub200.load(size=8).images[:]
    shutil.rmtree(cub.parent)
    put(archive, cub200, monkeypatch)
    code, text = call("cub200")
    assert code == 0 and "cub200: unpacked in" in text, text
    assert torch.equal(cub200.load(size=8).images[:], expected)
    assert "is there already" in call("cub200")[1]
    next(cub.rglob("*.jpg")).unlink()
    code, text = call("cub200")
    assert code == 1 and "no such file" in text


def test_fetch_puts_no_broken_set_in_place(cub, tmp_path, monkeypatch):
    next(cub.rglob("*.jpg")).unlink()
    archive = tmp_path / "CUB_200_2011.tgz"
    with tarfile.open(archive, "w:gz") as opened:
        opened.add(cub, "CUB_200_2011")
    shutil.rmtree(cub.parent)
    put(archive, cub200, monkeypatch)
    code, text = call("cub200")
    assert code == 1 and "1 problem(s)" in text
    assert [path.name for path in cub.parent.parent.iterdir()] == ["downloads"]


def test_fetch_unpacks_products(products, tmp_path, monkeypatch):
    expected = sop.load(size=8).images[:]
    archive = shutil.make_archive(
        str(tmp_path / "Stanford_Online_Products"), "zip", products.parent, products.name
    )
    shutil.rmtree(products.parent)
    put(Path(archive), sop, monkeypatch)
    assert call("sop")[0] == 0
    assert torch.equal(sop.load(size=8).images[:], expected)


def test_fetch_without_network_says_where_to_put_the_archive(home, monkeypatch):
    monkeypatch.setattr(sop, "URL", "http://127.0.0.1:9/Stanford_Online_Products.zip")
    code, text = call("sop")
    file = home / "data" / "downloads" / "Stanford_Online_Products.zip"
    assert code == 1 and f"Put the file at {file} by hand" in text
    assert "Expected md5:7f73d41a2f44250d4779881525aea32e" in text


def test_fetch_takes_cars_from_downloads_and_says_what_to_get(cars, home, tmp_path, monkeypatch):
    code, text = call("cars196")
    downloads = home / "data" / "downloads"
    assert code == 1 and "put two files there by hand" in text
    for name, known in cars196.HASHES.items():
        assert f"{downloads / name}: expected {known}, found no file" in text
    assert "links are dead" in text and "devkit/cars_meta.mat" in text
    root = cars("A", root=tmp_path / "made")
    downloads.mkdir(parents=True)
    with tarfile.open(downloads / "car_ims.tgz", "w:gz") as opened:
        opened.add(root / "car_ims", "car_ims")
    (root / "cars_annos.mat").rename(downloads / "cars_annos.mat")
    assert "expected md5:b407c6086d669747186bd1d764ff9dbc, found md5:" in call("cars196")[1]
    hashes = {name: fetch.hash_of(downloads / name, "md5:") for name in cars196.HASHES}
    monkeypatch.setattr(cars196, "HASHES", hashes)
    code, text = call("cars196")
    assert code == 0, text
    assert len(cars196.load(size=8)) == 16


# the study on photographs


SMALL_NETWORK = {"backbone": "test_efficientnet", "crop": 32, "freeze_batch_norm": True}


@pytest.mark.parametrize("changes", [{}, SMALL_NETWORK], ids=["convnet", "efficientnet"])
def test_photos_go_through_a_run_a_search_and_turned_queries(cub, changes):
    size = 40 if changes else 32
    changes = {"steps": 2, "batch_size": 4, **changes}
    config = RunConfig(dataset="cub200", data_options={"size": size}, **changes)
    result, (train, test) = run(config), config.data()
    assert isinstance(train.images, ImageFiles) and len(result.embeddings) == 6
    assert test.images.shape[3] == size
    assert raw_pixels(test.images).shape == (6, 3 * 32 * 32)
    table = rotation([config], [0, 30], jobs=1, progress=False)
    assert table["recall_at_1"].iloc[0] == result.metrics["recall_at_1"]
    query = datasets.read_like(test, test.images.files[2])
    assert torch.equal(query, test.images[2])
    embeddings = torch.from_numpy(result.embeddings)
    torch.testing.assert_close(embed(result.model(), query[None])[0], embeddings[2])
    near, distances = nearest_neighbors(embeddings, 2)
    figure, found = figures.gallery(test.images[:6], test.labels, test, near, distances)
    assert len(found) == 12 and len(figure.axes) == 18

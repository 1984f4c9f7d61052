"""The training half of Cars196, tiny but in both layouts."""

import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image
from test_images import cut, photo, told
from test_photos import call, cars  # noqa: F401 (a fixture)

from proxylib import datasets
from proxylib.datasets import cars196_half, paths

NAMES = ("AM General Hummer SUV 2000", "Acura RL", "BMW", "smart")


@pytest.fixture
def official(cars, home, monkeypatch):  # noqa: F811
    """4 classes of 2 photographs in the official files, in `data/cars196-half`."""
    for name, value in {"N_CLASSES": 4, "N_TRAIN": 2, "N_IMAGES": 8}.items():
        monkeypatch.setattr(cars196_half, name, value)
    root = cars("B", root=home / "data" / "cars196-half")
    shutil.rmtree(root / "cars_test")
    (root / "devkit" / "cars_test_annos_withlabels.mat").unlink()
    return root


@pytest.fixture
def tree(official):
    """The same photographs, cut to their boxes, in one folder per class."""
    root = official.parent / "tree"
    for i in range(8):
        folder = root / f"{i // 2 + 1:03}.{NAMES[i // 2].replace(' ', '_')}"
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.open(official / "cars_train" / f"{i + 1:05}.jpg")
        picture.crop((i, 2, i + 20, 25)).save(folder / f"{i + 1:05}.png")
    shutil.rmtree(official)
    return root.rename(official)


def test_the_official_files_are_cut_to_the_cars(official):
    dataset = datasets.load("cars196-half", size=8)
    assert (dataset.name, dataset.images.shape) == ("cars196-half", (8, 3, 8, 8))
    assert dataset.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert dataset.class_names == NAMES and dataset.n_train_classes == 2
    assert "Krause" in dataset.credit
    for i in (0, 7):
        part = Image.open(official / "cars_train" / f"{i + 1:05}.jpg").crop((i, 2, i + 20, 25))
        pixels = np.asarray(part.resize((8, 8), Image.BILINEAR))
        assert np.array_equal(dataset.images[i].permute(1, 2, 0), pixels)
    train, test = datasets.zero_shot_split(dataset)
    assert train.class_names == NAMES[:2] and test.class_names == NAMES[2:]
    assert cars196_half.load().images.shape[2:] == (128, 128)


def test_both_layouts_hold_the_same_pictures(official, request):
    expected = cars196_half.load(size=16)
    pixels = expected.images[:]
    root = request.getfixturevalue("tree")
    found = datasets.load("cars196-half", root, size=16)
    assert torch.equal(found.images[:], pixels)
    assert torch.equal(found.labels, expected.labels)
    assert found.n_train_classes == expected.n_train_classes == 2
    assert found.class_names == ("001.AM_General_Hummer_SUV_2000", "002.Acura_RL", "003.BMW",
                                 "004.smart")  # fmt: skip


def test_official_files_that_are_missing_are_told_at_once(official):
    (official / "cars_train" / "00003.jpg").unlink()
    cut(official / "cars_train" / "00004.jpg")
    (official / "devkit" / "cars_meta.mat").unlink()
    message = told(cars196_half.load)
    for part in (
        "3 problem(s)",
        "cars_meta.mat: no such file",
        "cars_train_annos.mat, record 3: no such file",
        "00004.jpg: not a readable image",
        "one folder per model",
        "links are dead",
    ):
        assert part in message
    assert "allow_partial" not in message  # which this reader does not have
    (official / "devkit" / "cars_train_annos.mat").unlink()
    assert "cars_train_annos.mat: no such file" in told(cars196_half.load)


def test_a_devkit_of_another_size_is_told(official, monkeypatch):
    monkeypatch.setattr(
        cars196_half.cars196, "SPLITS", (("cars_train_annos.mat", "cars_train", 9),)
    )
    assert "cars_train_annos.mat, images: found 8, expected 9" in told(cars196_half.load)


def test_a_tree_that_is_not_whole_is_told(tree):
    (tree / "002.Acura_RL" / "00003.png").unlink()
    assert "images: found 7, expected 8" in told(cars196_half.load)
    shutil.rmtree(tree / "004.smart")
    message = told(cars196_half.load)
    assert "folders: found 3, expected 4" in message and "images: found 5, expected 8" in message


def test_files_that_do_not_belong_into_a_tree_are_told(tree):
    photo(tree / "stray.jpg")
    (tree / "003.BMW" / "notes.txt").write_text("not a picture")
    message = told(cars196_half.load)
    assert f"{tree / 'stray.jpg'}: an image beside sub-folders" in message
    assert "images: found 9, expected 8" in message
    (tree / "stray.jpg").unlink()
    (tree / "003.BMW" / "00005.png").unlink()
    assert "notes.txt: not a readable image" in told(cars196_half.load)


def test_nothing_there_says_how_to_get_it(home):
    with pytest.raises(FileNotFoundError, match=r"cars196-half: no folder .*\n.*links are dead"):
        datasets.load("cars196-half")
    (home / "data" / "cars196-half").mkdir(parents=True)
    message = told(cars196_half.load)
    assert "folders: found 0, expected 196" in message and "found 0, expected 8,144" in message


def test_fetch_unpacks_an_archive_put_there_by_hand(tree):
    code, text = call("cars196-half")
    assert code == 0 and "is there already" in text
    expected = cars196_half.load(size=8).images[:]
    archive = paths.downloads() / "cars196-half.tar"
    archive.parent.mkdir(parents=True)
    away = tree.rename(tree.parent / "away")
    code, text = call("cars196-half")
    assert code == 1 and f"no file {archive}" in text and "links are dead" in text
    with tarfile.open(archive, "w") as opened:
        opened.add(away, "cars196-half")
    code, text = call("cars196-half")
    assert code == 0 and "cars196-half: unpacked in" in text, text
    assert torch.equal(cars196_half.load(size=8).images[:], expected)
    shutil.rmtree(tree)
    with tarfile.open(archive, "w") as opened:
        opened.add(away / "001.AM_General_Hummer_SUV_2000", "cars196-half/001.x")
    code, text = call("cars196-half")
    assert code == 1 and "folders: found 1, expected 4" in text and not tree.exists()

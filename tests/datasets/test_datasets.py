import dataclasses
import os
import pickle
import re
import shutil
import subprocess
import sys
import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image

from proxylib import datasets
from proxylib.datasets import folder, kanji
from proxylib.datasets.base import Dataset, check


def make(n_classes, per_class=2):
    labels = torch.arange(n_classes).repeat_interleave(per_class)
    images = labels.view(-1, 1, 1, 1).expand(-1, 1, 8, 8).to(torch.uint8)
    return Dataset("made", images, labels, tuple(f"c{i}" for i in range(n_classes)))


# splits


@pytest.mark.parametrize("n_classes", [4, 5, 10])
def test_zero_shot_split_is_disjoint_complete_and_remapped(n_classes):
    dataset = make(n_classes)
    train, test = datasets.zero_shot_split(dataset)
    assert train.class_names + test.class_names == dataset.class_names
    assert train.n_classes == n_classes // 2
    for part, first in ((train, 0), (test, train.n_classes)):
        assert part.labels.unique().tolist() == list(range(part.n_classes))
        assert torch.equal(part.images[:, 0, 0, 0], (part.labels + first).to(torch.uint8))


def test_validation_split_comes_from_the_training_classes():
    train, test = datasets.zero_shot_split(make(20))
    fit, validation = datasets.validation_split(train, 0.4)
    assert fit.class_names + validation.class_names == train.class_names
    assert (fit.n_classes, validation.n_classes) == (6, 4)
    assert not set(validation.class_names) & set(test.class_names)


def test_splits_refuse_too_few_classes():
    with pytest.raises(ValueError, match="3 classes, but a zero-shot split needs at least 4"):
        datasets.zero_shot_split(make(3))
    with pytest.raises(ValueError, match="leaves 2 to fit and 1 to validate"):
        datasets.validation_split(make(3), 1 / 3)


@pytest.mark.parametrize(("n_train", "expected"), [(None, 5), (7, 7), (2, 2)])
def test_official_halves_may_be_unequal(n_train, expected):
    train, test = datasets.zero_shot_split(dataclasses.replace(make(10), n_train_classes=n_train))
    assert (train.n_classes, test.n_classes) == (expected, 10 - expected)
    assert train.n_train_classes is None and test.n_train_classes is None


@pytest.mark.parametrize("n_train", [0, 1, 9])
def test_official_halves_need_two_classes_each(n_train):
    dataset = dataclasses.replace(make(10), n_train_classes=n_train)
    with pytest.raises(ValueError, match=f"10 classes, {n_train} of them for training, but"):
        datasets.zero_shot_split(dataset)


def with_queries(n_classes, per_class=3):
    """The first image of each class is its query."""
    dataset = make(n_classes, per_class)
    queries = torch.arange(len(dataset)) % per_class == 0
    return dataclasses.replace(dataset, queries=queries)


def test_queries_stay_with_their_images_in_every_split():
    train, test = datasets.zero_shot_split(with_queries(8))
    fit, validation = datasets.validation_split(train)
    for part in (train, test, fit, validation):
        assert part.queries.tolist() == [True, False, False] * part.n_classes
        rest = part.without_queries()
        assert rest.queries is None and rest.labels.tolist() == sorted(2 * [*range(part.n_classes)])
        assert rest.class_names == part.class_names


def test_without_queries_of_its_own_a_data_set_trains_with_all_it_has():
    dataset = make(4)
    assert dataset.without_queries() is dataset


def test_the_fingerprint_depends_on_which_images_are_queries():
    dataset = with_queries(4)
    others = dataclasses.replace(dataset, queries=~dataset.queries)
    found = [d.fingerprint() for d in (make(4, 3), dataset, others)]
    assert len(set(found)) == 3


def test_a_class_needs_a_query_and_an_image_to_find():
    dataset = with_queries(4)
    assert check(dataset) is dataset
    message = "class c0: found 2 image(s) in the gallery and 0 to search for"
    with pytest.raises(ValueError, match=re.escape(message)):
        check(dataset.select(torch.arange(12) != 0))
    with pytest.raises(ValueError, match=r"class c3: found 0 image\(s\) in the gallery and 1 to"):
        check(dataset.select(torch.arange(12) < 10))
    alone = dataset.select((torch.arange(12) < 10) | (torch.arange(12) == 11))
    assert check(alone) is alone  # one to find is enough, but not to train on
    with pytest.raises(ValueError, match=r"class c3: found 1 image\(s\), expected at least 2"):
        alone.without_queries()


def test_halves_are_made_once_and_share_the_images_of_the_whole():
    dataset = make(6)
    dataset = dataclasses.replace(dataset, images=dataset.images.contiguous())
    train, test = datasets.zero_shot_split(dataset)
    assert datasets.zero_shot_split(dataset)[0] is train
    assert train.images.data_ptr() == dataset.images.data_ptr()
    assert test.images.data_ptr() == dataset.images[6:].data_ptr()
    order = torch.arange(12).view(2, 6).T.flatten()  # 0 6 1 7 …: no class lies in a row
    mixed = dataclasses.replace(dataset, images=dataset.images[order], labels=dataset.labels[order])
    for half, part in zip(datasets.zero_shot_split(mixed), (train, test), strict=True):
        assert torch.equal(half.images[half.labels.argsort(stable=True)], part.images)
    assert len(dataset.select(torch.zeros(12, dtype=torch.bool)).images) == 0


def test_fingerprint_of_tensors_stays_what_it_was():
    """Finished runs are found by it: one that changes with the code would cost hours."""
    assert make(4).fingerprint() == "c7fd45d22a888b51"
    assert make(7).fingerprint() == "a83cf0726fda705c"
    assert dataclasses.replace(make(4), n_train_classes=3).fingerprint() == "c7fd45d22a888b51"


def test_fingerprint_tells_images_labels_and_names_apart():
    a, b = make(4), make(4)
    assert a.fingerprint() == b.fingerprint()
    assert a.fingerprint() != dataclasses.replace(a, images=a.images + 1).fingerprint()
    assert make(4, 3).fingerprint() != a.fingerprint()


# kanji


def test_kanji_has_the_promised_shape_and_is_cached(home, monkeypatch):
    first = kanji.load(n_classes=5, n_images=3)
    assert first.images.shape == (15, 1, 32, 32)
    assert first.images.dtype == torch.uint8
    assert first.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3 + [4] * 3
    assert list(first.class_names) == sorted(first.class_names)
    assert "KanjiVG" in first.credit
    monkeypatch.setattr(kanji, "draw", None)  # a second drawing would fail
    assert torch.equal(kanji.load(n_classes=5, n_images=3).images, first.images)


def test_kanji_images_do_not_depend_on_how_many_are_drawn():
    many, few = kanji.draw("漢", range(6)), kanji.draw("漢", range(4, 6))
    assert np.array_equal(many[4:], few)
    assert not np.array_equal(many[0], many[1])
    assert not np.array_equal(kanji.draw("漢", range(1), seed=1), many[:1])


def test_the_waves_of_kanjis_paper_are_cosines():
    x, y = xy = np.random.default_rng(0).random((2, 50))
    direct = [np.cos(np.pi * (i * x + j * y)) for i in range(4) for j in range(4)]
    np.testing.assert_allclose(kanji._waves(xy), direct, atol=1e-14)


def test_kanji_without_distortion_differs_by_the_pen_only():
    images = kanji.draw("三", range(4), distortion=0.0)
    ink = 255 - images.astype(float)
    centre = (ink * np.arange(32)[:, None]).sum((1, 2)) / ink.sum((1, 2))
    assert np.ptp(centre) < 0.2
    assert np.ptp(ink.sum((1, 2))) > 0


@pytest.mark.parametrize("size", [16, 64])
def test_kanji_size_changes_resolution_not_content(size):
    base = kanji.draw("漢", range(2)).astype(float)
    other = kanji.draw("漢", range(2), size=size).astype(float)
    small, large = (base, other) if size > 32 else (other, base)
    factor = large.shape[1] // small.shape[1]
    shape = (2, small.shape[1], factor, small.shape[2], factor)
    assert np.abs(large.reshape(shape).mean((2, 4)) - small).mean() < 8


def test_kanji_subsets_are_disjoint_and_of_the_right_scripts():
    subsets = {name: set(kanji.characters(name)) for name in ("study", "tuning", "other")}
    assert len(subsets["study"] | subsets["tuning"]) == 4369
    assert not subsets["study"] & subsets["tuning"]
    assert all("\u4e00" <= c <= "\u9fff" for c in subsets["study"] | subsets["tuning"])
    # Compatibility ideographs look like kanji of the study and must not be trained on.
    assert not any("IDEOGRAPH-" in unicodedata.name(c) for c in subsets["other"])
    assert set("0Azあアー") <= subsets["other"]
    assert not subsets["other"] & set("、。！()")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_classes": 1}, "n_classes=1, expected 2"),
        ({"n_classes": 5000}, "n_classes=5000, expected 2 … 3969"),
        ({"subset": "tuning", "n_classes": 401}, "expected 2 … 400"),
        ({"subset": "latin"}, "subset='latin': expected one of 'study', 'tuning', 'other'"),
        ({"n_images": 1}, "n_images=1"),
        ({"size": 4}, "size=4"),
        ({"distortion": 3.0}, "distortion=3.0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_kanji_refuses_numbers_out_of_range(home, options, message):
    with pytest.raises(ValueError, match=message):
        kanji.load(**options)


def test_kanji_unknown_character():
    with pytest.raises(ValueError, match=r"no character 'é' \(U\+00E9\)"):
        kanji.draw("é", range(1))


def test_a_crash_while_drawing_leaves_nothing_behind_that_is_read_later(home):
    code = (
        "import os\nfrom proxylib.datasets import kanji\ncount, draw = [0], kanji.draw\n"
        "def dying(*a):\n"
        "    count[0] += 1\n"
        "    return os._exit(9) if count[0] == 4 else draw(*a)\n"
        "kanji.draw = dying\nkanji.load(n_classes=5, n_images=2)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 9
    assert len(kanji.load(n_classes=5, n_images=2)) == 10


def test_a_damaged_cache_file_is_drawn_again(home):
    whole = kanji.load(n_classes=5, n_images=2).images.clone()
    [file] = (home / "data" / "cache").rglob("output.pkl")
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(kanji.load(n_classes=5, n_images=2).images, whole)


class Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_a_cache_file_counts_only_with_its_hash(home, tmp_path, monkeypatch):
    """A flipped bit and a file from elsewhere are not unpickled; the set is drawn again."""
    monkeypatch.chdir(tmp_path)
    images = kanji.load(n_classes=5, n_images=2).images
    [file] = (home / "data" / "cache").rglob("output.pkl")
    whole, hashed = file.read_bytes(), file.with_name("output.sha256")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 1
    for damage in (
        lambda: file.write_bytes(flipped),
        lambda: file.write_bytes(pickle.dumps(Evil())),
        lambda: hashed.write_bytes(b"\xff"),
        hashed.unlink,
    ):
        damage()
        assert torch.equal(kanji.load(n_classes=5, n_images=2).images, images)
        assert file.read_bytes() == whole and hashed.exists()
    assert not (tmp_path / "evil").exists()


# folder


def test_folder_reads_nested_classes_in_sorted_order(image_tree):
    dataset = folder.load(image_tree)
    assert dataset.class_names == tuple(f"group{c // 3}/class{c}" for c in range(6))
    assert dataset.images.shape == (30, 1, 32, 32)
    means = dataset.images.float().mean((1, 2, 3)).view(6, 5).mean(1)
    assert (means.diff() > 20).all()  # shades ascend with the class


def test_folder_turns_to_colour_if_one_image_has_it(image_tree):
    red = Image.new("RGB", (9, 9), "red")
    red.save(image_tree / "group0" / "class0" / "9.jpg")
    images = folder.load(image_tree, size=16).images
    assert images.shape == (31, 3, 16, 16)
    assert torch.equal(images[0, 0], images[0, 1])
    assert images[5, 0].min() > 250
    assert images[5, 1:].max() < 5


def spoil(tree, what):
    leaf = tree / "group0" / "class0"
    if what == "text":
        (leaf / "notes.txt").write_text("no image")
    elif what == "truncated":
        data = (leaf / "0.png").read_bytes()
        (leaf / "0.png").write_bytes(data[: len(data) // 2])
    elif what == "truncated jpeg":
        Image.new("RGB", (99, 99), "red").save(leaf / "9.jpg")
        data = (leaf / "9.jpg").read_bytes()
        (leaf / "9.jpg").write_bytes(data[: len(data) // 2])
    elif what == "lonely":
        for i in range(4):
            (leaf / f"{i}.png").unlink()
    elif what == "empty class":
        for i in range(5):
            (leaf / f"{i}.png").unlink()
    elif what == "beside":
        (leaf / "0.png").rename(tree / "group0" / "0.png")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("text", r"class0/notes.txt: not a readable image"),
        ("truncated", r"class0/0.png: not a readable image"),
        ("truncated jpeg", r"class0/9.jpg: not a readable image .*[Tt]runcated"),
        ("lonely", r"class group0/class0: found 1 image\(s\), expected at least 2"),
        ("empty class", r"class0: an empty class folder"),
        ("beside", r"group0/0.png: an image beside sub-folders"),
    ],
)
def test_folder_names_what_is_wrong(image_tree, what, message):
    spoil(image_tree, what)
    with pytest.raises(ValueError, match=message):
        folder.load(image_tree)


def test_folder_names_all_bad_files_up_to_a_screenful(image_tree):
    for i in range(30):
        (image_tree / "group0" / "class0" / f"bad{i:02}.png").write_text("x")
    with pytest.raises(ValueError) as error:
        folder.load(image_tree)
    assert "30 problem(s)" in str(error.value)
    assert "bad00.png" in str(error.value) and "… and 10 more" in str(error.value)


def test_folder_needs_images_of_four_classes(tmp_path, image_tree):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        folder.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="data_root='' is no folder"):
        datasets.load("folder")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images in"):
        folder.load(tmp_path / "empty")
    shutil.rmtree(image_tree / "group1")
    with pytest.raises(ValueError, match=r"found 3 class.* needs at least 4: 2 to train on, 2 uns"):
        folder.load(image_tree)
    shutil.copytree(image_tree / "group0" / "class2", image_tree / "group1" / "class3")
    assert folder.load(image_tree).n_classes == 4


def test_folder_passes_over_hidden_files(image_tree):
    (image_tree / ".git").mkdir()
    (image_tree / ".git" / "x.png").write_text("x")
    (image_tree / "group0" / ".DS_Store").write_text("x")
    (image_tree / "group0" / "class0" / "Thumbs.db").write_text("x")
    (image_tree / "group0" / "class0" / ".0.png").write_text("x")
    assert len(folder.load(image_tree)) == 30


@pytest.mark.parametrize(
    ("link", "target", "other"),
    [
        ("group0/loop", ".", "."),  # the tree itself
        ("group0/loop", "..", ".."),  # above it
        ("group1/class9", "group0/class1", "group0/class1"),  # the same pictures in two classes
        ("group2", "group1", "group1"),
        ("a", "group1/class4", "a"),  # the link comes first
    ],
)
def test_folder_never_enters_a_folder_twice(image_tree, link, target, other):
    (image_tree / link).symlink_to((image_tree / target).resolve(), target_is_directory=True)
    with pytest.raises(ValueError) as error:
        folder.load(image_tree)
    other = (image_tree / other).resolve() if ".." in other else image_tree / other
    path = image_tree / ("group1/class4" if link == "a" else link)
    assert f"{path} and {other} are one folder: remove the link to it" in str(error.value)


def test_folder_follows_links_to_other_places(image_tree, tmp_path):
    before = folder.load(image_tree)
    (image_tree / "group1").rename(tmp_path / "elsewhere")
    (image_tree / "group1").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "0.png").write_bytes((image_tree / "group0" / "class0" / "0.png").read_bytes())
    (image_tree / "group0" / "class0" / "0.png").unlink()
    (image_tree / "group0" / "class0" / "0.png").symlink_to(tmp_path / "0.png")
    assert folder.load(image_tree).fingerprint() == before.fingerprint()


def test_folder_names_what_is_no_file(image_tree):
    leaf = image_tree / "group0" / "class0"
    os.mkfifo(leaf / "pipe.png")  # reading it would wait for ever
    (leaf / "broken.png").symlink_to("nowhere.png")
    (leaf / "loop.png").symlink_to("loop.png")
    with pytest.raises(ValueError) as error:
        folder.load(image_tree)
    for text in (
        "3 problem(s)",
        "pipe.png: no ordinary file, expected an image",
        "broken.png: no such file",
        "loop.png: no such file",
    ):
        assert text in str(error.value)


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS has no such names")
def test_names_that_are_no_utf_8_can_be_printed(image_tree):
    odd = image_tree / "group0" / os.fsdecode(b"\xff")
    shutil.copytree(image_tree / "group0" / "class0", odd)
    dataset = datasets.load("folder", image_tree)
    assert dataset.n_classes == 7 and r"group0/\xff" in dataset.class_names
    assert dataset.fingerprint()
    (odd / os.fsdecode(b"\xfe.png")).write_text("no image")
    with pytest.raises(ValueError) as error:
        datasets.load("folder", image_tree)
    assert r"group0/\xff/\xfe.png: not a readable image" in str(error.value)
    assert str(error.value).encode()


# load


def test_load_by_name(image_tree):
    assert datasets.load("folder", str(image_tree)).n_classes == 6
    with pytest.raises(
        ValueError, match="unknown dataset 'mnist', expected one of kanji, omniglot, folder, cub"
    ):
        datasets.load("mnist")
    with pytest.raises(ValueError, match="kanji is built in"):
        datasets.load("kanji", "/tmp")


@pytest.mark.parametrize("how", ["other file", "in place", "same size and time", "new", "gone"])
def test_load_sees_what_has_changed_on_disk(image_tree, how):
    before = datasets.load("folder", image_tree)
    assert datasets.load("folder", str(image_tree)) is before  # nothing changed
    file = image_tree / "group0" / "class0" / "0.png"
    stat, content = file.stat(), file.read_bytes()
    if how == "gone":
        file.unlink()
    elif how == "new":
        shutil.copy(file, file.with_name("9.png"))
    elif how == "other file":
        Image.new("L", (9, 9), 200).save(file.with_name(".new.png"))
        file.with_name(".new.png").replace(file)
    else:
        Image.fromarray(np.asarray(Image.open(file))[::-1]).save(file)
    if how == "same size and time":
        size = max(len(content), file.stat().st_size)
        file.write_bytes(file.read_bytes().ljust(size, b"\0"))
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert file.stat().st_mtime_ns == stat.st_mtime_ns
    after = datasets.load("folder", image_tree)
    assert after is not before and after.fingerprint() != before.fingerprint()
    assert len(after) == {"gone": 29, "new": 31}.get(how, 30)


def test_load_knows_which_folder_a_relative_path_means(image_tree, tmp_path, monkeypatch):
    moved = tmp_path / "moved" / "images"
    shutil.copytree(image_tree, moved)
    shutil.rmtree(moved / "group0" / "class0")
    monkeypatch.chdir(tmp_path)
    assert datasets.load("folder", "images").n_classes == 6
    monkeypatch.chdir(tmp_path / "moved")
    assert datasets.load("folder", "images").n_classes == 5


def test_kanji_is_kept_by_its_arguments(home):
    few = datasets.load("kanji", n_classes=5, n_images=2)
    assert datasets.load("kanji", n_classes=5, n_images=2) is few
    assert datasets.load("kanji", n_classes=6, n_images=2).n_classes == 6


def test_importing_the_data_sets_imports_no_slow_packages():
    code = (
        "import sys; before = set(sys.modules); import proxylib.datasets\n"
        "slow = {'torchvision', 'sklearn', 'pandas', 'matplotlib', 'requests'}\n"
        "print(sorted(slow & (set(sys.modules) - before)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr


def test_load_looks_once_where_nothing_is_to_change(image_tree):
    file = image_tree / "group0" / "class0" / "0.png"
    with datasets.unchanged():
        before = datasets.load("folder", image_tree)
        file.unlink()
        assert datasets.load("folder", image_tree) is before
    assert len(datasets.load("folder", image_tree)) == len(before) - 1

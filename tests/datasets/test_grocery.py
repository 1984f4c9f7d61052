"""Grocery Store, tiny but in the genuine format: its official split, and how it is fetched."""

import hashlib
import io
import re
import shutil
import tarfile
import zipfile

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from test_images import cut, photo, squeezed, told

from proxylib import datasets
from proxylib.datasets import fetch, grocery
from proxylib.study.cli import app
from proxylib.study.rotation import rotation
from proxylib.study.runs import RunConfig, run

KINDS = ("Fruit/Apple/Golden-Delicious", "Fruit/Apple/Pink-Lady", "Fruit/Avocado")
KINDS += ("Packages/Juice/Bravo-Apple-Juice", "Packages/Milk/Arla-Milk", "Packages/Oat-Milk")
KINDS += ("Vegetables/Garlic", "Vegetables/Leek")
COUNTS = {"train": 3, "val": 1, "test": 2}  # photographs of each kind
HEADER = "Class Name (str),Class ID (int),Coarse Class Name (str),Coarse Class ID (int),"
HEADER += "Iconic Image Path (str),Product Description Path (str)"


@pytest.fixture
def shop(home, monkeypatch):
    """8 kinds of 3 + 1 + 2 photographs in `data/grocery`; each kind has a shade of its own."""
    root = home / "data" / "grocery"
    rows = [HEADER]
    for c, kind in enumerate(KINDS):
        name = kind.rsplit("/", 1)[1]
        iconic = f"iconic-images-and-descriptions/{kind}/{name}"
        rows.append(f"{name},{c},Coarse,{c // 2},/{iconic}_Iconic.jpg,/{iconic}_Description.txt")
        photo(root / "dataset" / f"{iconic}_Iconic.jpg")
        (root / "dataset" / f"{iconic}_Description.txt").write_text("Sweet, and good for pies.\n")
    (root / "dataset" / "classes.csv").write_text("\n".join(rows) + "\n")
    for split, n in COUNTS.items():
        lines = []
        for c, kind in enumerate(KINDS):
            for i in range(n):
                path = f"{split}/{kind}/{kind.rsplit('/', 1)[1]}_{i + 1:03}.jpg"
                photo(root / "dataset" / path, 28 * c + i + 5 * len(split))
                lines.append(f"{path}, {c}, {c // 2}")
        (root / "dataset" / f"{split}.txt").write_text("\n".join(lines) + "\n")
    (root / "LICENSE").write_text("MIT License\n")
    monkeypatch.setattr(grocery, "N_CLASSES", 8)
    monkeypatch.setattr(grocery, "N_TRAIN", 4)
    monkeypatch.setattr(grocery, "N_IMAGES", 48)
    monkeypatch.setattr(grocery, "SPLITS", {split: 8 * n for split, n in COUNTS.items()})
    monkeypatch.setattr(grocery, "HASH", fetch.hash_of_all(root / "dataset"))
    return root


def splits_of(dataset):
    """The official split that each photograph is in, by its path."""
    return [re.search(r"/dataset/(\w+)/", file.as_posix())[1] for file in dataset.images.files]


def test_its_queries_are_the_official_test_photographs(shop):
    dataset = datasets.load("grocery", size=16)
    assert dataset.class_names[:4] == ("Golden-Delicious", "Pink-Lady", "Avocado", KINDS[3][15:])
    splits = splits_of(dataset)
    assert dataset.queries.tolist() == [split == "test" for split in splits]
    # of the kinds that test, the validation photographs are left out
    of_validation = [label for label, s in zip(dataset.labels, splits, strict=True) if s == "val"]
    assert of_validation == [0, 1, 2, 3] and len(dataset) == 48 - 4
    assert "MIT" in dataset.credit and "Klasson" in dataset.credit
    for root in (shop, shop / "dataset"):
        assert datasets.load("grocery", root, size=16).fingerprint() == dataset.fingerprint()
    for row in (0, 30):
        assert torch.equal(dataset.images[row], squeezed(dataset.images.files[row], 16))


@pytest.mark.parametrize("split", ["test", "validation"])
def test_no_official_test_photograph_trains(shop, split):
    train, test = RunConfig(dataset="grocery", split=split).data()
    assert (train.n_classes, test.n_classes) == {"test": (4, 4), "validation": (2, 2)}[split]
    assert train.queries is None and splits_of(train).count("train") == 3 * train.n_classes
    assert splits_of(train).count("val") == train.n_classes and "test" not in splits_of(train)
    assert splits_of(test.select(test.queries)) == ["test"] * 2 * test.n_classes
    # to choose settings by, the validation photographs join the gallery, for they train as well
    joined = ["val"] * test.n_classes if split == "validation" else []
    assert splits_of(test.without_queries()) == ["train"] * 3 * test.n_classes + joined
    assert not {*train.class_names} & {*test.class_names}


def test_a_run_searches_for_the_queries_in_the_gallery(shop):
    config = RunConfig(dataset="grocery", steps=3, eval_every=0, batch_size=8)
    result, (_, test) = run(config), config.data()
    x, queries = torch.from_numpy(result.embeddings), test.queries
    assert len(x) == len(test) == 20
    distances = torch.cdist(x[queries], x[~queries])
    nearest = test.labels[~queries][distances.argmin(1)]
    expected = (nearest == test.labels[queries]).double().mean().item()
    assert result.metrics["recall_at_1"] == expected
    upright = rotation([config], [0.0], jobs=1, progress=False)["recall_at_1"]
    assert upright.tolist() == [expected]


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("train.txt", "Leek_001.jpg, 7, 3", "Leek_001.jpg; 7; 3", r"train.txt:22: .*, expected `p"),
        ("train.txt", "Leek_001.jpg, 7, 3", "Leek_001.jpg, leek, 3", r"train.txt:22: .*expected `"),
        ("train.txt", "Leek_001.jpg, 7, 3", "Leek_001.jpg, 8, 3", r"class 8 for .*expected 0 … 7"),
        ("train.txt", "Leek_001.jpg, 7, 3\n", "", r"train.txt, images: found 23, expected 24"),
        ("train.txt", "train/Vegetables/Leek/Leek_001", "/etc/x", r"refused to read '/etc/x.jpg'"),
        ("train.txt", "Leek_001", "Leek_009", r"train.txt:22: no such file .*Leek_009.jpg"),
        ("test.txt", "test/Vegetables/Leek/", "train/Vegetables/Leek/", r"a path in test/"),
        ("classes.csv", "Garlic,6", "Garlic,7", r"classes.csv:8: class 7, expected 0 … 7 in order"),
        ("classes.csv", "Leek,7", "", r"classes.csv:9: class Coarse, expected"),
        ("classes.csv", "\nLeek,7", "\n\nLeek,7", r"classes.csv:9: class none, expected"),
    ],
)
def test_annotations_that_are_wrong_are_named(shop, file, old, new, message):
    path = shop / "dataset" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    assert re.search(message, told(grocery.load))


@pytest.mark.parametrize("name", ["classes.csv", "train.txt", "val.txt", "test.txt"])
def test_a_list_that_is_missing_is_named_with_the_way_to_get_it(shop, name):
    (shop / "dataset" / name).unlink()
    text = told(grocery.load)
    assert f"{name}: no such file" in text and "proxylib fetch grocery" in text


def test_a_copy_that_is_not_there_says_how_to_get_it(home):
    with pytest.raises(FileNotFoundError, match=r"proxylib fetch grocery.*train\.txt"):
        grocery.load()


@pytest.mark.parametrize(
    ("file", "found"), [("train", "0 image(s) in the gallery and 2"), ("test", "3 .* and 0")]
)
def test_a_kind_without_a_gallery_or_without_a_query_is_refused(shop, file, found):
    path = shop / "dataset" / f"{file}.txt"
    text = path.read_text()
    path.write_text(text.replace(", 7, 3", ", 6, 3"))  # leeks that count as garlic
    found = re.escape(found).replace(r"\.\*", ".*").replace(r"\ ", " ")
    assert re.search(f"class Leek: found {found} .*expected at least 1 of each", told(grocery.load))


def test_a_kind_with_one_photograph_to_train_on_is_refused(shop):
    dataset = grocery.load(size=16)
    keep = (dataset.labels != 1) | dataset.queries
    keep[(dataset.labels == 1).nonzero()[0]] = True
    with pytest.raises(ValueError, match=r"class Pink-Lady: found 1 image\(s\), expected"):
        dataset.select(keep).without_queries()


def test_mixed_sizes_are_squeezed_and_what_is_transparent_becomes_white(shop):
    file = shop / "dataset" / "test/Vegetables/Leek/Leek_002.jpg"
    clear = Image.new("RGBA", (46, 34), (0, 0, 0, 0))
    clear.paste((10, 20, 30, 255), (0, 0, 23, 34))  # its left half can be seen
    clear.save(file, format="png")
    image = grocery.load(size=16).images[-1]
    assert image.shape == (3, 16, 16)
    assert image[:, :, :7].flatten(1).unique(dim=1).flatten().tolist() == [10, 20, 30]
    assert image[:, :, 9:].min() == 255


def test_a_photograph_that_cannot_be_decoded_is_named(shop):
    cut(shop / "dataset" / "train/Vegetables/Leek/Leek_002.jpg")
    assert re.search(r"Leek_002.jpg: not a readable image", told(grocery.load))


# fetching


def pack(root, kind, folder="Renamed-fc80ba9"):
    """The folder as GitHub packs a commit: one outermost folder, and in tar a global header."""
    root.rename(root.parent / folder)
    target = root.parent / "downloads" / f"{grocery.ARCHIVE}.{kind}"
    target.parent.mkdir()
    if kind == "zip":
        shutil.make_archive(str(target)[:-4], "zip", root.parent, folder)
    else:
        headers = {"comment": grocery.COMMIT}
        mode = "w:gz" if kind == "tar.gz" else "w"
        with tarfile.open(target, mode, format=tarfile.PAX_FORMAT, pax_headers=headers) as archive:
            archive.add(root.parent / folder, folder)
    shutil.rmtree(root.parent / folder)
    return target


def call():
    result = CliRunner().invoke(app, ["fetch", "grocery", "--no-progress"])
    return result.exit_code, re.sub(r"\s+", " ", result.output)


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar"])
def test_an_archive_put_there_by_hand_is_unpacked_and_verified(shop, kind, monkeypatch):
    before = grocery.load(size=16)
    pack(shop, kind)
    monkeypatch.setattr(grocery, "download", None)
    code, text = call()
    assert code == 0 and f"grocery: unpacked in {shop}" in text, text
    after = grocery.load(size=16)
    assert torch.equal(after.images[:], before.images[:])
    assert (shop / "LICENSE").exists()
    assert "grocery is there already" in call()[1]


def test_without_an_archive_that_of_the_commit_is_downloaded(shop, monkeypatch):
    archive, asked = pack(shop, "tar.gz").rename(shop.parent / "served.tar.gz"), []

    def download(url, known, progress):
        asked.append((url, known))
        return archive

    monkeypatch.setattr(grocery, "download", download)
    assert call()[0] == 0
    [(url, known)] = asked
    assert known is None and url.split("/")[2:6] == [
        "github.com", "marcusklasson", "GroceryStoreDataset", "archive",
    ]  # fmt: skip
    assert url.endswith(f"/{grocery.COMMIT}/GroceryStoreDataset-{grocery.COMMIT}.tar.gz")


@pytest.mark.parametrize("change", ["content", "name", "more"])
def test_other_files_than_those_of_the_commit_are_refused(shop, change):
    description = next(shop.rglob("Leek_Description.txt"))
    if change == "content":
        description.write_text("Bitter.\n")
    elif change == "name":
        description.rename(description.with_name("Leek_Information.txt"))
    else:
        description.with_name("Leek_Information.txt").touch()
    code, text = call()  # of what is there already
    assert code == 1 and grocery.COMMIT in text and f"move {shop} away" in text
    archive = pack(shop, "zip")
    code, text = call()
    assert code == 1 and f"expected {grocery.HASH}" in text
    assert f"Delete the archive in {archive.parent}" in text
    assert not shop.exists()


def test_missing_photographs_are_named_before_the_hash(shop):
    (shop / "dataset" / "val/Fruit/Avocado/Avocado_001.jpg").unlink()
    pack(shop, "tar")
    code, text = call()
    assert code == 1 and "val.txt:3: no such file" in text and not shop.exists()


@pytest.mark.parametrize("kind", ["zip", "tar.gz", "tar"])
@pytest.mark.parametrize("damage", [cut, lambda file: file.write_text("<html>Not found</html>")])
def test_a_damaged_archive_is_named(shop, kind, damage):
    archive = pack(shop, kind)
    damage(archive)
    code, text = call()
    assert code == 1 and f"{archive}: a damaged archive" in text and "delete it" in text
    assert not shop.exists()


def test_a_byte_that_changed_within_a_file_is_found(shop):
    archive = pack(shop, "zip")
    with zipfile.ZipFile(archive) as opened:
        [member] = [m for m in opened.infolist() if m.filename.endswith("Leek_Description.txt")]
    content = bytearray(archive.read_bytes())
    content[member.header_offset + 30 + len(member.filename) + 9] ^= 1  # 30: of the zip's header
    archive.write_bytes(content)
    code, text = call()
    assert code == 1 and f"{archive}: a damaged archive" in text and not shop.exists()


def test_an_archive_that_leaves_its_folder_is_refused(shop):
    archive = pack(shop, "tar.gz")
    with tarfile.open(archive, "w:gz") as opened:
        opened.addfile(tarfile.TarInfo("top/../../evil.jpg"), io.BytesIO())
    assert "refused to unpack 'top/../../evil.jpg'" in call()[1]


def test_the_hash_of_all_files_is_that_of_their_lines(tmp_path):
    files = {"b.txt": b"two", "a/z.txt": b"one", "a.txt": b"", ".hidden": b"x", ".h/x": b"x"}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    lines = [
        f"{hashlib.sha256(files[name]).hexdigest()}  {name}\n"
        for name in ("a.txt", "a/z.txt", "b.txt")
    ]
    expected = "sha256:" + hashlib.sha256("".join(lines).encode()).hexdigest()
    assert fetch.hash_of_all(tmp_path) == expected

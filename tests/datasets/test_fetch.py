"""Downloads, archives, and the data set omniglot, on tiny archives in the genuine layout."""

import hashlib
import http.server
import io
import os
import re
import shutil
import stat
import tarfile
import threading
import zipfile

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from proxylib import datasets
from proxylib.datasets import fetch, folder, omniglot
from proxylib.study.cli import app

ALPHABETS = {1: ("Balinese", "Greek"), 2: ("Greek", "Japanese_(katakana)")}  # Greek is in both


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Two archives of 2 alphabets × 2 characters × 3 drawers on a web server of this machine.

    The server notes the requests and the ranges asked for, which it grants if `ranges`; with `cut`
    it breaks off in the middle of what it sends.
    """
    root = tmp_path / "served"
    for n, alphabets in ALPHABETS.items():
        for alphabet in alphabets:
            for c in (1, 2):
                leaf = root / f"images_background_small{n}" / alphabet / f"character{c:02}"
                leaf.mkdir(parents=True)
                for drawer in (1, 2, 3):
                    shade = 20 * (len(alphabet) + c) % 256 + drawer
                    Image.new("L", (105, 105), shade).save(leaf / f"0{c:03}_{drawer:02}.png")
        name = f"images_background_small{n}"
        shutil.make_archive(str(root / name), "zip", root, name)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            server.requests.append(self.path)
            server.asked.append(self.headers.get("Range"))
            content = (root / self.path.strip("/")).read_bytes()
            start = (
                re.match(r"bytes=(\d+)-", self.headers.get("Range", "")) if server.ranges else None
            )
            if start and int(start[1]) >= len(content):
                self.send_error(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start[1]}-{len(content) - 1}/*")
                content = content[int(start[1]) :]
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if server.cut else content)

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.requests, server.asked, server.root = [], [], root
    server.cut = server.ranges = False
    server.url = f"http://127.0.0.1:{server.server_port}/"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(omniglot, "URL", server.url)
    register(root, monkeypatch)
    monkeypatch.setattr(omniglot, "N_CLASSES", 6)
    monkeypatch.setattr(omniglot, "N_IMAGES", 3)
    yield server
    server.shutdown()
    server.server_close()


def sha256(file):
    return "sha256:" + hashlib.sha256(file.read_bytes()).hexdigest()


def register(root, monkeypatch):
    files = sorted(root.glob("*.zip"))
    hashes = {file.name: sha256(file) for file in files}
    monkeypatch.setattr(omniglot, "HASHES", hashes)


def call():
    result = CliRunner().invoke(app, ["fetch", "omniglot", "--no-progress"])
    return result.exit_code, re.sub(r"\s+", " ", result.output)


def files_in(path):
    return sorted(str(f.relative_to(path)) for f in path.rglob("*") if f.is_file())


def test_each_character_is_there_once_and_loads_as_any_folder(home, served):
    code, text = call()
    assert code == 0, text
    root = home / "data" / "omniglot"
    assert f"omniglot: unpacked in {root}" in text
    assert len(files_in(root)) == 18
    assert files_in(root)[0] == "Balinese/character01/0001_01.png"
    found, expected = omniglot.load(), folder.load(root)
    assert torch.equal(found.images, expected.images)
    assert torch.equal(found.labels, expected.labels)
    assert found.class_names == expected.class_names
    assert (found.name, expected.name) == ("omniglot", "folder")
    assert "MIT" in found.credit
    elsewhere = root.rename(home / "elsewhere")
    assert datasets.load("omniglot", str(elsewhere)).fingerprint() == expected.fingerprint()


def test_a_second_call_does_nothing(home, served):
    call()
    requests, before = len(served.requests), (home / "data" / "omniglot").stat().st_mtime_ns
    code, text = call()
    assert code == 0 and "omniglot is there already" in text
    assert len(served.requests) == requests == 2
    assert (home / "data" / "omniglot").stat().st_mtime_ns == before


def test_archives_put_there_by_hand_need_no_network(home, served, monkeypatch):
    shutil.copytree(served.root, home / "data" / "downloads")
    monkeypatch.setattr(omniglot, "URL", "http://127.0.0.1:9/")
    assert call()[0] == 0
    assert not served.requests


def test_a_file_of_another_hash_is_downloaded_again(home, served):
    downloads = home / "data" / "downloads"
    downloads.mkdir(parents=True)
    (downloads / "images_background_small1.zip").write_text("an older one")
    assert call()[0] == 0
    assert len(served.requests) == 2
    assert len(omniglot.load()) == 18


def test_without_network_it_says_what_to_do_by_hand(home, served, monkeypatch):
    monkeypatch.setattr(omniglot, "URL", "http://127.0.0.1:9/")
    file = home / "data" / "downloads" / "images_background_small1.zip"
    code, text = call()
    assert code == 1 and f"Put the file at {file} by hand" in text
    assert f"Expected {omniglot.HASHES[file.name]}" in text
    assert "the file there now" not in text
    file.write_text("an older one")
    code, text = call()
    assert code == 1 and f"the file there now has {sha256(file)}" in text
    assert file.read_text() == "an older one"  # it is the user's


@pytest.mark.parametrize("what", ["cut", "other hash"])
def test_a_bad_download_leaves_nothing_that_is_taken_for_a_good_one(
    home, served, monkeypatch, what
):
    served.cut = what == "cut"
    if what == "other hash":
        monkeypatch.setitem(omniglot.HASHES, "images_background_small1.zip", "sha256:" + 64 * "0")
    code, text = call()
    assert code == 1 and "images_background_small1.zip: no download from http" in text
    if what == "other hash":
        sent = served.root / "images_background_small1.zip"
        assert 64 * "0" in text and f"what came has the hash {sha256(sent)}" in text
    begun = ["data/downloads/images_background_small1.zip.part"]
    assert files_in(home) == (begun if what == "cut" else [])
    assert not (home / "data" / "omniglot").exists()
    served.cut = False
    register(served.root, monkeypatch)
    assert call()[0] == 0
    assert not list(home.rglob("*.part"))


@pytest.fixture
def archive(home, served):
    """(server, address, hash, where it belongs) of a file of 3 MB, for `fetch.download`."""
    content = bytes(range(256)) * 12_000
    (served.root / "photos.tgz").write_bytes(content)
    md5 = "md5:" + hashlib.md5(content).hexdigest()
    return served, served.url + "photos.tgz", md5, home / "data" / "downloads" / "photos.tgz"


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_that_broke_off_goes_on(archive, ranges):
    server, url, md5, file = archive
    server.cut, server.ranges = True, ranges
    with pytest.raises(OSError, match="bytes came: run this again to get the rest") as error:
        fetch.download(url, md5)
    came = file.with_name("photos.tgz.part").stat().st_size
    assert 1_400_000 < came <= 1_536_000 and f"{came:,} bytes came" in str(error.value)
    assert f"Expected {md5}" in str(error.value)
    assert not file.exists()
    server.cut = False
    assert hash_of(fetch.download(url, md5)) == md5
    assert server.asked == [None, f"bytes={came}-"]
    assert [path.name for path in file.parent.iterdir()] == ["photos.tgz"]


def test_a_download_that_breaks_off_again_and_again_gets_there(archive):
    server, url, md5, file = archive
    server.cut = server.ranges = True
    sizes = [0]
    for _ in range(3):
        with pytest.raises(OSError, match="run this again"):
            fetch.download(url, md5)
        sizes.append(file.with_name("photos.tgz.part").stat().st_size)
    assert sizes == sorted(set(sizes)) and sizes[-1] > 2_500_000
    server.cut = False
    assert hash_of(fetch.download(url, md5)) == md5


def test_a_download_that_was_whole_already_is_only_put_in_place(archive):
    server, url, md5, file = archive
    server.ranges = True
    file.parent.mkdir(parents=True)
    shutil.copy(server.root / "photos.tgz", file.with_name("photos.tgz.part"))
    assert hash_of(fetch.download(url, md5)) == md5
    assert server.asked == ["bytes=3072000-"]


def test_a_beginning_of_another_file_is_thrown_away(archive):
    server, url, md5, file = archive
    server.ranges = True
    file.parent.mkdir(parents=True)
    file.with_name("photos.tgz.part").write_bytes(b"an older one")
    with pytest.raises(OSError, match="what came has the hash md5:"):
        fetch.download(url, md5)
    assert not list(file.parent.iterdir())
    assert hash_of(fetch.download(url, md5)) == md5


def test_a_download_of_unknown_hash_goes_on_as_well_and_is_asked_for_once(archive):
    server, url, md5, file = archive
    server.cut = server.ranges = True
    with pytest.raises(OSError, match="bytes came: run this again") as error:
        fetch.download(url, None)
    assert "Expected" not in str(error.value) and not file.exists()
    server.cut = False
    assert hash_of(fetch.download(url, None)) == md5
    assert fetch.download(url, None) == file and len(server.requests) == 2


def hash_of(file):
    return fetch.hash_of(file, "md5:")


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_unpacking_leaves_no_half_folder(home, served, monkeypatch, error):
    copy, count = fetch._copy, [0]

    def failing(*args):
        count[0] += 1
        if count[0] == 9:
            raise error
        copy(*args)

    monkeypatch.setattr(fetch, "_copy", failing)
    with pytest.raises(type(error)):
        omniglot.fetch()
    assert [path.name for path in (home / "data").iterdir()] == ["downloads"]
    assert omniglot.fetch() == home / "data" / "omniglot"


@pytest.mark.parametrize(
    "name",
    [
        "../evil.png",
        "a/../../evil.png",
        "/tmp/evil.png",
        r"a\..\..\evil.png",
        "C:/evil.png",
        "link",
    ],
)
def test_an_archive_that_leaves_its_folder_is_refused(tmp_path, name):
    member = zipfile.ZipInfo(name)
    if name == "link":
        member.filename = "top/A/link.png"
        member.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as archive:
        archive.writestr("top/A/good.png", "good")
        archive.writestr(member, "../../../evil.png")
    with pytest.raises(ValueError, match=r"bad\.zip: refused to unpack '.*(evil|link)\.png'"):
        fetch.unpack([tmp_path / "bad.zip"], tmp_path / "deep" / "target", lambda path: None)
    assert files_in(tmp_path) == ["bad.zip"] and not list((tmp_path / "deep").iterdir())


@pytest.mark.parametrize(
    ("name", "kind", "link"),
    [
        ("../evil.jpg", tarfile.REGTYPE, ""),
        ("top/../../evil.jpg", tarfile.REGTYPE, ""),
        ("/tmp/evil.jpg", tarfile.REGTYPE, ""),
        ("top/link.jpg", tarfile.SYMTYPE, "../../../evil.jpg"),
        ("top/link.jpg", tarfile.LNKTYPE, "/etc/passwd"),
        ("top/link.jpg", tarfile.FIFOTYPE, ""),
    ],
)
def test_a_tar_archive_that_leaves_its_folder_is_refused(tmp_path, name, kind, link):
    with tarfile.open(tmp_path / "bad.tgz", "w:gz") as archive:
        for path in ("top/good.jpg", name):
            member = tarfile.TarInfo(path)
            if path == name:
                member.type, member.linkname = kind, link
            else:
                member.size = 4
            archive.addfile(member, io.BytesIO(b"good"))
    with pytest.raises(ValueError, match=r"bad\.tgz: refused to unpack '.*(evil|link)\.jpg'"):
        fetch.unpack([tmp_path / "bad.tgz"], tmp_path / "deep" / "target", lambda path: None)
    assert files_in(tmp_path) == ["bad.tgz"] and not list((tmp_path / "deep").iterdir())


@pytest.mark.parametrize("name", ["bad.zip", "bad.tgz"])
@pytest.mark.parametrize("share", [0, 0.5, 0.9])
def test_a_damaged_archive_is_named(tmp_path, name, share):
    data = os.urandom(5000)
    if name == "bad.zip":
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("top/good.png", data)
    else:
        with tarfile.open(tmp_path / name, "w:gz") as archive:
            member = tarfile.TarInfo("top/good.png")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=rf"{name}: a damaged archive \("):
        fetch.unpack([tmp_path / name], tmp_path / "deep" / "target", lambda path: None)
    assert files_in(tmp_path) == [name]


def test_a_tar_archive_gives_its_bytes_and_nothing_else(tmp_path):
    with tarfile.open(tmp_path / "good.tgz", "w:gz") as archive:
        member = tarfile.TarInfo("./top/a/script.sh")
        member.size, member.mode, member.uid = 4, 0o4777, 1234
        archive.addfile(member, io.BytesIO(b"good"))
        folder = tarfile.TarInfo("top/b")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    for strip, expected in ((0, "top/a/script.sh"), (1, "a/script.sh")):
        target = tmp_path / f"target{strip}"
        fetch.unpack([tmp_path / "good.tgz"], target, lambda path: None, strip)
        assert files_in(target) == [expected]
        assert (target / expected).read_bytes() == b"good"
        assert not (target / expected).stat().st_mode & 0o7111


def test_an_archive_with_too_few_images_is_refused_before_it_is_in_place(home, served, monkeypatch):
    monkeypatch.setattr(omniglot, "N_CLASSES", 7)
    code, text = call()
    assert code == 1 and "expected 7 characters × 3 images" in text and "found 6" in text
    assert not (home / "data" / "omniglot").exists()


def test_a_folder_that_is_not_whole_is_told_and_kept(home, served):
    call()
    root = home / "data" / "omniglot"
    (root / "Greek" / "character02" / "0002_01.png").unlink()
    code, text = call()
    assert code == 1
    assert "found 6 characters, 17 images; not 3: Greek/character02 (2)" in text
    assert "Move the folder away" in text
    with pytest.raises(ValueError, match=r"Greek/character02 \(2\)"):
        omniglot.load()
    assert len(files_in(root)) == 17


def test_what_is_not_fetched_says_how_to_get_it(home):
    with pytest.raises(FileNotFoundError, match="run `proxylib fetch omniglot`"):
        omniglot.load()
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        datasets.load("omniglot", "nowhere")
    result = CliRunner().invoke(app, ["study", "--dataset", "omniglot"])
    assert result.exit_code == 2 and "proxylib fetch omniglot" in result.output
    assert "'kanji' is not" in CliRunner().invoke(app, ["fetch", "kanji"]).output

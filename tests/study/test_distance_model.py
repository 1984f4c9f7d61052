import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from proxylib.retrieval import embed
from proxylib.study.cli import app
from proxylib.study.distance_model import _check, load_model
from proxylib.study.runs import RunConfig, describe
from proxylib.study.settings import resolve

TRAIN = ["train", "--no-progress", "-p", "steps", "2", "-p", "batch_size", "4"]


def call(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.output


@pytest.fixture
def trained(home, image_tree, tmp_path):
    out = tmp_path / "model"
    code, output = call(*TRAIN, "--dataset", "folder", "--data-root", image_tree, "--out", out)
    assert code == 0, output
    return out


def test_the_model_comes_back_and_embeds_as_in_the_run(trained, image_tree):
    model = load_model(trained)
    _, test = RunConfig(dataset="folder", data_root=str(image_tree)).data()
    e = model.embed(test.images)
    assert e.shape == (15, 64)
    torch.testing.assert_close(e.norm(dim=1), torch.ones(15))
    torch.testing.assert_close(e, embed(model.network, test.images))
    d = model.distance(test.images[:2], test.images)
    torch.testing.assert_close(d, (e[:2, None] - e).square().sum(2), atol=1e-5, rtol=1e-4)
    card = json.loads((trained / "card.json").read_text())
    assert card["data"]["training_classes"] == 3 and card["config"]["method"] == "proxy_nca"
    assert card["metrics"].keys() >= {"recall_at_1", "nmi"} and card["provenance"]["versions"]
    assert not any("prox" in name for name in model.network.state_dict())
    checkpoint = torch.load(trained / "checkpoint.pt")  # the proxies are there
    assert checkpoint["parts"]["objective"]["proxies"].shape == (3, 64)


def test_wrong_images_are_refused(trained):
    model = load_model(trained)
    with pytest.raises(ValueError, match=r"expected \(B, 1, 32, 32\) uint8, got \(2, 3, 32, 32\)"):
        model.embed(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"nothing\.png: no such file\n  nor\.png: no such file"):
        model.read(["nothing.png", "nor.png"])


def test_what_is_no_model_is_refused(trained, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
        load_model(tmp_path)
    card = json.loads((trained / "card.json").read_text())
    card["network"]["dim"] = 3
    (trained / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match=r"(?s)no model could be made of it.*size mismatch"):
        load_model(trained)


def test_resume_begins_anew_where_no_checkpoint_was_reached(home, image_tree, tmp_path):
    out = tmp_path / "killed"
    out.mkdir()
    (out / "history.csv").write_text("step\n0\n")
    data = ["--dataset", "folder", "--data-root", image_tree, "--out", out]
    code, output = call(*TRAIN, *data, "--resume")
    assert code == 0 and (out / "model.safetensors").exists(), output


def test_a_backbone_comes_back_too(home, image_tree, tmp_path):
    out, settings = tmp_path / "model", ("-p", "backbone", "test_efficientnet", "-p", "crop", "28")
    settings += ("-p", "lr", "1e-3", "-o", "embedding_norm", "2", "--method", "proxy_triplet")
    code, output = call(
        *TRAIN, *settings, "--dataset", "folder", "--data-root", image_tree, "--out", out
    )
    assert code == 0, output
    model = load_model(out)
    assert model.card["config"]["options"]["embedding_norm"] == 2
    assert model.embed(torch.zeros(1, 1, 32, 32, dtype=torch.uint8)).shape == (1, 64)


def test_search_prints_a_table_and_saves_a_picture(trained, image_tree, tmp_path):
    query = sorted(image_tree.rglob("*.png"))[7]
    picture = tmp_path / "found.png"
    search = ["search", trained, query, "--gallery", image_tree, "--picture", picture]
    code, output = call(*search, "-k", 4)
    assert code == 0, output
    lines = output.splitlines()
    assert lines[0].split() == ["rank", "distance", "file"]
    assert lines[1].split() == ["1", "0.000", str(query.relative_to(image_tree))]
    assert len(lines) == 6
    assert np.asarray(Image.open(picture)).std() > 10
    code, output = call(*search, "-k", 31)
    assert code == 1 and "k=31: expected 1 … 30" in output
    code, output = call("search", trained, "no.png", "--gallery", image_tree)
    assert code == 1 and "no.png: no such file" in output
    code, output = call("search", trained, query, "--gallery", trained)
    assert code == 1 and "no images" in output
    code, output = call("search", tmp_path, query, "--gallery", image_tree)
    assert code == 1 and "no model.safetensors" in output


def test_a_folder_that_holds_a_run_is_not_overwritten(trained, image_tree):
    arguments = [*TRAIN, "--dataset", "folder", "--data-root", image_tree, "--out", trained]
    before = (trained / "model.safetensors").read_bytes()
    code, output = call(*arguments)
    assert code == 2 and "holds a run (checkpoint.pt, model.safetensors): --resume" in output
    code, output = call(*arguments, "--resume")
    assert code == 0 and (trained / "model.safetensors").read_bytes() == before
    code, output = call(*arguments, "--resume", "-p", "lr", "0.5")
    assert code == 1 and "of another run: lr 0.00035" in output and ", now 0.5" in output


def test_what_is_trained_is_what_the_names_resolve_to(home, image_tree, tmp_path):
    """A method, a recipe, settings, options, and options of the data, as the study takes them."""
    out = tmp_path / "model"
    code, output = call(
        *("train", "--no-progress", "--dataset", "folder", "--data-root", image_tree, "--out", out),
        *("--method", "semihard", "--recipe", "study", "-d", "size", "24"),
        *("-p", "steps", "2", "-p", "eval_every", "1", "-p", "lr", "1e-2", "-p", "dim", "8"),
        *("-o", "per_class", "2", "-o", "margin", "1"),
    )
    assert code == 0, output
    expected = resolve(
        "semihard",
        **{"dataset": "folder", "data_root": str(image_tree), "data_options": {"size": 24}},
        **{"steps": 2, "eval_every": 1, "lr": 1e-2, "dim": 8, "per_class": 2, "margin": 1.0},
    )
    card = json.loads((out / "card.json").read_text())
    assert card["config"] == json.loads(json.dumps(describe(expected)))
    assert card["config"]["batch_size"] == 6  # all that three classes fill
    assert card["images"] == {"channels": 1, "size": 24, "squeezed": False}
    assert load_model(out).embed(torch.zeros(1, 1, 24, 24, dtype=torch.uint8)).shape == (1, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-p", "stepz", "3"], "no setting 'stepz'; there are split, init, seed, steps"),
        (["-p", "method", "nca"], "no setting 'method'"),
        (["-p", "steps", "many"], "steps='many': expected <class 'int'>"),
        (["-o", "rati", "1"], "proxy_nca has no option rati"),
        (["--dataset", "folder", "--data-root", "/nowhere"], "is no folder"),
        (["--recipe", "best"], "'best' is not one of"),
        (["-p", "lr", "[1"], "lr='[1': not a YAML value"),
        (["-o", "margin", "{a"], "margin='{a': not a YAML value"),
        (["-d", "size", "[32]"], "size='[32]': expected one value"),
        (["-p", "optimizer", "SparseAdam"], "optimizer='SparseAdam': it takes sparse gradients"),
        (["-p", "optimizer", "LBFGS"], "optimizer='LBFGS': it computes the loss several times"),
        (["-p", "optimizer", "Optimizer"], "optimizer='Optimizer': it is only what"),
        (["-p", "dim", "1e3"], "dim=1000.0: expected"),
        (["--out", "/dev/null/here"], "/dev/null/here: files can't be written there"),
        (["--out", "~nobody-at-all/here"], "~nobody-at-all/here: Could not determine home"),
        (["--dataset", "folder", "--data-root", "~nobody-at-all/x"], "~nobody-at-all/x: Could not"),
        (["-d", "size", "big"], "size='big', expected 8 … 1024"),
        (["-p", "lr", "*a"], "lr='*a': not a YAML value"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(home, tmp_path, arguments, message):
    code, output = call("train", "--out", tmp_path / "out", *arguments)
    assert code == 2 and message in re.sub(r"\s+", " ", output)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("network", "dim", 0, "dim=0 is out of its range"),
        ("network", "dim", 10**12, "dim=1000000000000 is out of its range"),
        ("network", "dim", True, "dim=True is out of its range"),
        ("network", "dim", "64", "dim='64' is out of its range"),
        ("network", "batch_norm", 1, "batch_norm=1 is out of its range"),
        ("network", "channels", 2, "channels=2 is out of its range"),
        ("network", "backbone", "resnet18", "expected backbone, batch_norm, crop, dim, dropout"),
        ("network", "backbone", None, "expected backbone, batch_norm, crop"),
        ("network", "weights", True, "network: expected backbone, batch_norm, channels"),
        ("images", "size", 10**6, "card.json: no model could be made of it: images: size=1000000"),
        ("images", "size", 64, "images: size=64, but the network's is 32"),
        ("images", "squeezed", "no", "squeezed='no' is out of its range"),
        ("images", "box", [0, 0, 1, 1], "images: expected channels, size, squeezed"),
        (None, "normalize", "yes", "normalize='yes': expected true or false"),
        (None, "network", [], "expected a table with network and images"),
    ],
)
def test_a_card_that_says_something_else_is_refused(trained, part, name, value, message):
    card = json.loads((trained / "card.json").read_text())
    (card[part] if part else card)[name] = value
    (trained / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError) as caught:
        load_model(trained)
    assert message in str(caught.value)


def test_a_card_never_downloads_weights(home, image_tree, tmp_path):
    network = {"backbone": "resnet18", "dim": 4, "batch_norm": False, "crop": 0}
    network |= {"freeze_batch_norm": False, "dropout": 0.0}
    card = {"network": network, "images": {"channels": 3, "size": 8, "squeezed": True}}
    _check(card | {"normalize": True})
    for name, value in (("dropout", 1.0), ("weights", True), ("backbone", "resnet")):
        wrong = card | {"network": network | {name: value}, "normalize": True}
        with pytest.raises(ValueError, match=name):
            _check(wrong)


def test_what_cannot_be_allocated_is_told_in_a_line(home, image_tree, tmp_path):
    data = ["--dataset", "folder", "--data-root", image_tree]
    code, output = call(*TRAIN, *data, "-p", "dim", 10**12, "--out", tmp_path / "out")
    assert code == 1 and "Error: " in output and "Traceback" not in output


@pytest.mark.parametrize("name", ["history.csv", "checkpoint.pt", "model.safetensors", "card.json"])
def test_a_file_that_cannot_be_written_is_named(home, image_tree, tmp_path, name):
    out = tmp_path / "out"
    (out / name).mkdir(parents=True)
    data = ["--dataset", "folder", "--data-root", image_tree, "--out", out, "--resume"]
    code, output = call(*TRAIN, *data)
    assert code == 1 and "Traceback" not in output
    assert f"{out / name}" in output and re.search("can't be written|not a checkpoint", output)
    assert "what was there is kept: Is a directory" in output or name == "checkpoint.pt"


def test_search_copes_with_what_is_in_a_folder(trained, image_tree, tmp_path):
    gallery = tmp_path / "gallery"
    gallery.mkdir()
    images = sorted(image_tree.rglob("*.png"))
    for i, image in enumerate(images[:3]):
        shutil.copy(image, gallery / f"{i}.png")
    (gallery / ".hidden.png").write_text("no image")
    odd = os.fsencode(gallery) + b"/caf\xe9.png"
    shutil.copy(images[3], odd)
    search = ["search", trained, images[0], "--gallery", gallery, "--picture"]
    code, output = call(*search, tmp_path / "found.png")  # eight are asked for, four are there
    assert code == 0, output
    assert len(output.splitlines()) == 6 and "caf\\xe9.png" in output
    for picture, message in (
        ("found.txt", "expected a name that ends as"),
        ("found", "expected a name that ends as"),
        ("nowhere/found.png", "No such file or directory"),
    ):
        code, output = call(*search, tmp_path / picture)
        assert code == 1 and message in re.sub(r"\s+", " ", output)

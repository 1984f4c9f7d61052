"""Frozen trunks: their outputs are kept, and training sees nothing else."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from sklearn.decomposition import PCA

from proxylib.datasets import Dataset, ImageFiles
from proxylib.distances import rescale
from proxylib.objectives import ProxyLoss
from proxylib.retrieval import embed
from proxylib.study.cli import app
from proxylib.study.distance_model import load_model
from proxylib.study.experiments import pretrained_features
from proxylib.study.runs import RunConfig, trunk
from proxylib.study.runs.augmentation import Augmentation
from proxylib.study.runs.backbones import Backbone
from proxylib.study.runs.execution import Machine, execute, starting_network
from proxylib.study.runs.trunk import (
    behind_trunk,
    features,
    start_at_means,
    start_at_pca,
    through_trunk,
)

SMALL, LAST = "test_efficientnet", "blocks.2"


def pictures(n=6, size=32):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, 3, size, size), generator=generator, dtype=torch.uint8)


def data(images=None, n=6):
    images = pictures(n) if images is None else images
    return Dataset("made", images, torch.arange(len(images)) // 2, ("a", "b", "c"))


def backbone(seed=0, name=SMALL):
    torch.manual_seed(seed)
    return Backbone(name, dim=8, freeze_batch_norm=True).eval()


def run(home, folder=None, **changes):
    settings = {
        "data_options": {"n_classes": 8, "n_images": 4, "size": 32},
        **{"backbone": SMALL, "frozen": LAST, "freeze_batch_norm": True, "augment": False},
        **{"steps": 4, "eval_every": 2, "batch_size": 8, "dim": 8, "lr": 1e-2},
    }
    every = {"checkpoint_every": 2} if folder else {}
    machine = Machine(channels_last=True)  # as by default
    return execute(RunConfig(**settings | changes), machine, folder, **every)


# cutting a network


@pytest.mark.parametrize(
    ("name", "last"), [(SMALL, LAST), ("resnet18", "layer3"), ("resnet18", "layer3.0")]
)
@torch.no_grad()
def test_trunk_and_tail_are_the_network(name, last):
    model = backbone(name=name)
    made = model.trunk(pictures(), last)
    assert torch.equal(model.tail(last)(made[:, None]), model(pictures()))
    mirrored = torch.stack([made, torch.zeros_like(made)], 1)  # the first view counts
    assert torch.equal(model.tail(last)(mirrored), model(pictures()))


def test_the_tail_shares_its_parameters_and_leaves_the_network_alone():
    model = backbone()
    before, tail = set(model.state_dict()), model.tail(LAST).train()
    assert set(model.state_dict()) == before and model.last is None
    own = {id(p): n for n, p in model.named_parameters()}
    shared = {own[id(p)] for p in tail.parameters()}
    assert "network.classifier.weight" in shared and "network.blocks.3.0.conv_pw.weight" in shared
    assert not any(n.startswith(("network.conv_stem", "network.blocks.2")) for n in shared)
    assert not any(m.training for m in tail.modules() if isinstance(m, torch.nn.BatchNorm2d))


@pytest.mark.parametrize("last", ["block", "blocks.9", "blocks.2.0.bn7"])
def test_a_part_that_is_not_there(last):
    with pytest.raises(ValueError, match=rf"frozen='{last}': {SMALL} has no such part; it has .*"):
        backbone().tail(last)


def test_a_network_is_cut_on_its_main_chain_only(home):
    with pytest.raises(ValueError, match=r"frozen='layer3.0.conv1': resnet18 can't be cut there"):
        through_trunk(backbone(name="resnet18"), "layer3.0.conv1", data())


# what is kept


def test_outputs_are_computed_once_in_half_precision_and_mapped(home, monkeypatch):
    model = backbone()
    found = through_trunk(model, LAST, data())
    expected = model.trunk(pictures(), LAST).half()
    assert torch.equal(found.images[:, 0], expected) and found.images.shape[1] == 1
    assert torch.equal(found.labels, data().labels)
    both = through_trunk(model, LAST, data(), mirrored=True).images
    assert torch.equal(both[:, 0], expected)
    assert torch.equal(both[:, 1], model.trunk(pictures().flip(3), LAST).half())
    seen = []
    monkeypatch.setattr(torch, "from_numpy", lambda array: seen.append(array) or array)
    monkeypatch.setattr(Backbone, "trunk", None)  # from here on nothing can be computed
    through_trunk(backbone(seed=0), LAST, data())
    assert isinstance(seen[0], np.memmap)
    other = backbone()
    torch.nn.init.zeros_(other.embedding_layer().weight)
    through_trunk(other, LAST, data())  # what follows the trunk does not count
    changed = backbone()
    changed.network.conv_stem.weight.data += 1e-3
    statistics = backbone()
    statistics.network.bn1.running_mean += 1e-3
    with pytest.MonkeyPatch.context() as patch, pytest.raises(TypeError, match="NoneType"):
        patch.setattr(trunk, "code_of", lambda *roots: "other" if Backbone in roots else "")
        through_trunk(model, LAST, data())
    for arguments in (
        (model.to(memory_format=torch.channels_last), LAST, data()),
        (changed, LAST, data()),
        (statistics, LAST, data()),
        (model, "blocks.1", data()),
        (model, LAST, data(pictures().flip(2))),
    ):
        with pytest.raises(TypeError, match="NoneType"):
            through_trunk(*arguments)


def test_outputs_do_not_depend_on_threads_or_readers(home, tmp_path):
    files = []
    for i, picture in enumerate(pictures(70)):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(picture.permute(1, 2, 0).numpy()).save(files[-1])
    labels = torch.arange(70) // 35
    photos = Dataset("files", ImageFiles(files, 32), labels, ("a", "b"))
    first = through_trunk(backbone(), LAST, photos, workers=1).images
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        second = through_trunk(backbone(), LAST, replace(photos, images=pictures(70))).images
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(first, second)


def test_a_photograph_that_cannot_be_read_is_named_and_nothing_is_kept(home, tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(4)]
    for file in files:
        Image.new("RGB", (40, 30)).save(file)
    files[2].write_bytes(files[2].read_bytes()[:40])
    photos = Dataset("files", ImageFiles(files, 32), torch.arange(4) // 2, ("a", "b"))
    with pytest.raises(ValueError, match=r"2\.png: not a readable image"):
        through_trunk(backbone(), LAST, photos)
    Image.new("RGB", (40, 30)).save(files[2])
    assert through_trunk(backbone(), LAST, photos).images.shape[0] == 4


def test_mirrored_views_are_taken_by_chance():
    views = torch.stack([torch.zeros(400, 5), torch.ones(400, 5)], 1)[..., None, None]
    taken = Augmentation(flip=True, cached=True)(views, torch.Generator().manual_seed(0), 400)
    assert taken.shape == (400, 1, 5, 1, 1) and set(taken.unique().tolist()) == {0, 1}
    assert 150 < taken[:, 0, 0].sum() < 250
    assert Augmentation(cached=True)(views, torch.Generator(), 400) is views


# features


def by_hand(model, images):
    """What the embedding layer is given."""
    layer = model.embedding_layer()
    layer.weight.data, layer.bias.data = (
        torch.eye(layer.in_features),
        torch.zeros(layer.in_features),
    )
    with torch.no_grad():
        return model.eval()(images)


def test_features_are_what_the_embedding_layer_is_given(home):
    photos = replace(data(), images=pictures(40))
    found = features(model := backbone(), photos)
    assert found.dtype == torch.float32 and len(found) == 40
    torch.testing.assert_close(found, by_hand(model, pictures(40)))
    assert not model.embedding_layer()._forward_pre_hooks


def test_features_are_computed_once_for_a_network_whatever_follows_them(home, monkeypatch):
    photos, asked = replace(data(), images=pictures(40)), []
    monkeypatch.setattr(trunk, "embed", lambda *a, **o: asked.append(1) or embed(*a, **o))
    first = features(backbone(), photos)
    other = backbone()
    torch.nn.init.zeros_(other.embedding_layer().weight)  # what follows the features does not count
    assert torch.equal(features(other, photos), first) and len(asked) == 1
    assert not torch.equal(features(backbone(seed=1), photos), first)
    features(backbone(), replace(photos, images=255 - photos.images))
    assert len(asked) == 3


@torch.no_grad()
def test_the_head_makes_the_embedding_of_the_features(home):
    model = Backbone(SMALL, dim=8, batch_norm=True).eval()
    model.norm.running_mean += 1
    known = features(model, data())
    torch.testing.assert_close(model.head()(known), model(pictures()))
    assert not model.head().training and model.train().head().training


def test_a_run_trains_what_is_behind_the_trunk(home):
    config = RunConfig(backbone=SMALL, frozen=LAST, augment=False)
    tail, seen, again = behind_trunk(config, model := backbone(), data(), data())
    assert seen.shape[:2] == (6, 1) and torch.equal(seen, again)
    torch.testing.assert_close(tail(seen), model(pictures()), rtol=0, atol=1e-2)
    whole, images = behind_trunk(replace(config, frozen=None), model, data())
    assert whole is model and torch.equal(images, pictures())


@pytest.mark.parametrize("frozen", [None, LAST])
def test_features_that_a_pretrained_network_brings_along(home, frozen):
    options = {"n_classes": 8, "n_images": 4, "size": 32}
    network = {"backbone": SMALL, "frozen": frozen, "freeze_batch_norm": True, "augment": False}
    config = RunConfig(data_options=options, batch_size=8, dim=8, **network)
    _, test = config.data()
    torch.manual_seed(0)  # this small network has no weights to download
    expected = by_hand(starting_network(config, test.images), test.images)
    torch.manual_seed(0)
    found = pretrained_features(config)
    assert found.shape == expected.shape and len(found) == 16
    torch.testing.assert_close(found.norm(dim=1), torch.ones(16))
    # half precision between trunk and tail
    torch.testing.assert_close(found, rescale(expected, 1.0), atol=1e-2 if frozen else 1e-5, rtol=0)


# starts


def test_the_embedding_starts_as_principal_components(home):
    model, photos = backbone(), data(n=20, images=pictures(20))
    seen = through_trunk(model, LAST, photos, mirrored=True)
    known = features(model, photos).double().numpy()
    start_at_pca(tail := model.tail(LAST), features(tail, seen))
    found = model(pictures(20)).detach()
    expected = PCA(8, svd_solver="full").fit_transform(known)
    distances = torch.cdist(found, found), torch.cdist(*[torch.tensor(expected).float()] * 2)
    torch.testing.assert_close(*distances, rtol=1e-2, atol=1e-2 * distances[0].max().item())
    torch.testing.assert_close(found.mean(0), torch.zeros(8), rtol=0, atol=1e-3 * found.abs().max())
    few = backbone()  # only five images: three of the eight coordinates stay random
    before = few.embedding_layer().weight.clone()
    five = replace(seen, images=seen.images[:5])
    start_at_pca(tail := few.tail(LAST), features(tail, five))
    kept = (few.embedding_layer().weight == before).all(1)
    assert kept.tolist() == [False] * 5 + [True] * 3
    assert few(pictures(20)[:5]).mean(0).abs().max() < 1e-3 * found.abs().max()


@pytest.mark.parametrize("norms", [(None, None), (3.0, 2.0)])
def test_proxies_start_at_the_means_of_their_points(norms):
    embeddings = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    objective = ProxyLoss(
        torch.tensor([0, 0, 1, 1, 1, 0]),
        4,
        labels=torch.tensor([0, 0, 1, 1, 2, 2]),
        **dict(zip(("embedding_norm", "proxy_norm"), norms, strict=True)),
    )
    start_at_means(objective, embeddings)
    points = rescale(embeddings, norms[0])
    expected = torch.stack([points[[0, 1, 5]].mean(0), points[[2, 3, 4]].mean(0)])
    expected = expected if norms[1] is None else rescale(expected, 2.0)
    torch.testing.assert_close(objective.proxies.detach(), expected)


# runs


def test_a_run_trains_the_tail_alone_and_its_model_takes_whole_images(home):
    result = run(home, flip=True)
    untrained = run(home, flip=True, steps=0)
    moved = {n for n, w in result.weights.items() if (w != untrained.weights[n]).any()}
    assert "network.classifier.weight" in moved and "network.blocks.4.0.conv_pw.weight" in moved
    assert all(n.startswith(("network.blocks.3", "network.blocks.4", "network.conv_head",
                             "network.classifier")) for n in moved)  # fmt: skip
    _, test = result.config.data()
    with torch.no_grad():
        whole = rescale(result.model()(test.images), 1.0).numpy()
    np.testing.assert_allclose(whole, result.embeddings, atol=1e-2)
    assert not np.allclose(whole, untrained.embeddings, atol=1e-2)


@pytest.mark.parametrize("start", ["random", "pca"])
@pytest.mark.parametrize("method", ["proxy_nca", "semihard", "dynamic"])
def test_a_run_repeats_bit_for_bit_and_goes_on_where_it_was(home, tmp_path, method, start):
    options = {"per_class": 2} if method == "semihard" else {}
    options |= {"n_triplets": 50, "n_triplet_negatives": 4} if method == "dynamic" else {}
    settings = {"method": method, "embedding_start": start, "flip": True, "options": options}
    whole = run(home, **settings)
    (tmp_path / "run").mkdir()
    with pytest.MonkeyPatch.context() as patch:  # stopped after the checkpoint of step 2
        patch.setattr("proxylib.study.runs.checkpoints.Checkpoint.write_history", stop_at(4))
        with pytest.raises(KeyboardInterrupt):
            run(home, tmp_path / "run", **settings)
    resumed = run(home, tmp_path / "run", **settings)
    for other in (resumed, run(home, **settings)):
        assert np.array_equal(whole.embeddings, other.embeddings)
        assert all(np.array_equal(w, other.weights[n]) for n, w in whole.weights.items())


def stop_at(step):
    def write_history(self, rows):
        if rows[-1]["step"] == step:
            raise KeyboardInterrupt

    return write_history


def test_nothing_changes_where_nothing_is_frozen(home, monkeypatch):
    monkeypatch.setattr(trunk, "cached", None)
    assert run(home, frozen=None).history["loss"].notna().sum() == 2


# the recipe, on somebody's own photographs


@pytest.fixture
def photographs(tmp_path):
    rng = np.random.default_rng(0)
    for c in range(4):
        (tmp_path / "photos" / f"class{c}").mkdir(parents=True)
        for i in range(3):
            coarse = np.roll(np.linspace(0, 200, 108).reshape(6, 6, 3), 20 * c)
            picture = Image.fromarray((coarse + rng.integers(0, 50, (6, 6, 3))).astype(np.uint8))
            picture.resize((90 + 30 * i, 120)).save(tmp_path / "photos" / f"class{c}" / f"{i}.jpg")
    Image.new("RGBA", (50, 60), (9, 9, 9, 0)).save(tmp_path / "photos" / "class1" / "clear.png")
    return tmp_path / "photos"


def call(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.output


def test_photographs_are_learned_and_searched(home, photographs, tmp_path):
    train = ["train", "--dataset", "folder", "--data-root", photographs, "--recipe", "photos"]
    train += ["-p", "steps", 2, "-p", "batch_size", 4, "-p", "dim", 4, "--out", tmp_path / "mine"]
    code, output = call(*train)
    assert code == 0, output
    card = json.loads((tmp_path / "mine" / "card.json").read_text())
    assert card["network"]["backbone"] == "tf_efficientnet_lite0"
    assert card["images"] == {"channels": 3, "size": 128, "squeezed": False}
    assert (card["config"]["frozen"], card["config"]["steps"]) == ("blocks.4", 2)
    model = load_model(tmp_path / "mine")
    assert model.embed(model.read([photographs / "class0" / "1.jpg"])).shape == (1, 4)
    search = ["search", tmp_path / "mine", photographs / "class2" / "0.jpg"]
    code, output = call(*search, "--gallery", photographs, "--picture", tmp_path / "found.png")
    assert code == 0 and output.split()[5] == "class2/0.jpg", output
    damaged = photographs / "class3" / "2.jpg"
    damaged.write_bytes(damaged.read_bytes()[:200])
    code, output = call(*search, "--gallery", photographs, "--picture", tmp_path / "found.png")
    assert code == 1 and "class3/2.jpg: not a readable image" in output
    code, output = call(*train[:-1], tmp_path / "other")
    assert code == 2 and "class3/2.jpg: not a readable image" in output

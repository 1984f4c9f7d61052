import hashlib
from importlib import metadata

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from torch import nn
from torch.nn import functional
from torchvision import models

from proxylib.study.runs import backbones, timm_weights
from proxylib.study.runs.backbones import Backbone
from proxylib.study.runs.timm_weights import LITE0, LITE0_PACKAGE

SMALL = "test_efficientnet"


def images(n=4, channels=3, size=40):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, channels, size, size), generator=generator, dtype=torch.uint8)


# A linear layer after the mean, torchvision's only one, a transformer, a head of several layers.
@pytest.mark.parametrize(
    ("name", "penultimate", "size"),
    [
        ("resnet18", 512, 32),
        ("googlenet", 1024, 32),
        ("test_vit", 64, 160),
        ("test_convnext", 64, 32),
    ],
)
def test_any_classifier_becomes_an_embedding(name, penultimate, size):
    model = Backbone(name, dim=8).train()
    assert model.dim == 8
    assert model(images(2, size=size)).shape == (2, 8)
    assert model.embedding_layer().weight.shape == (8, penultimate)
    assert not any(p.shape[0] == 1000 for p in model.parameters() if p.ndim == 1)


def test_the_embedding_is_made_of_what_the_classifier_saw():
    torch.manual_seed(0)
    whole = timm.create_model("resnet18").eval()
    model = Backbone("resnet18", dim=8).eval()
    model.network.load_state_dict(
        {name: value for name, value in whole.state_dict().items() if "fc" not in name},
        strict=False,
    )
    seen = []
    whole.fc.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    mean = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        whole((images() / 255 - mean) / std)
        expected = seen[0] @ model.network.fc.weight.T + model.network.fc.bias
        torch.testing.assert_close(model(images()), expected, rtol=1e-4, atol=1e-5)


def test_grey_is_as_three_equal_channels():
    model = Backbone(SMALL, dim=8).eval()
    grey = images(channels=1)
    with torch.no_grad():
        torch.testing.assert_close(model(grey), model(grey.expand(-1, 3, -1, -1)))


def test_only_the_middle_is_looked_at_in_evaluation():
    model = Backbone(SMALL, dim=8, crop=32).eval()
    changed = images().clone()
    changed[:, :, :4], changed[:, :, -4:] = 0, 255
    with torch.no_grad():
        assert torch.equal(model(images()), model(changed))
        assert torch.equal(model(images()), model(images()[:, :, 4:36, 4:36]))


def test_frozen_batch_norm_keeps_its_values_and_splits_a_batch():
    model = Backbone(SMALL, dim=8, freeze_batch_norm=True).train()
    norms = [m for m in model.network.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [m.running_mean.clone() for m in norms]
    whole = model(images())
    torch.testing.assert_close(whole, torch.cat([model(images()[:1]), model(images()[1:])]))
    assert all(torch.equal(m.running_mean, b) for m, b in zip(norms, before, strict=True))
    assert not any(p.requires_grad for m in norms for p in m.parameters())
    free = Backbone(SMALL, dim=8).train()
    assert not torch.allclose(free(images())[:1], free(images()[:2])[:1])


def test_googlenet_gives_what_torchvision_gives_and_comes_back(monkeypatch):
    name, size = "googlenet", 64
    torch.manual_seed(0)
    trained = models.get_model(name, weights=None, init_weights=False)  # stands for a download
    monkeypatch.setattr(
        models.WeightsEnum, "get_state_dict", lambda self, *args, **options: trained.state_dict()
    )
    weights = models.get_model_weights(name).DEFAULT
    whole = models.get_model(name, weights=weights).eval()
    seen = []
    whole.fc.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    model = Backbone(name, dim=8, weights=True).eval()
    again = Backbone(name, dim=8).eval()
    again.load_state_dict(model.state_dict())
    mean, std = (
        torch.tensor(v).view(3, 1, 1) for v in (weights.transforms().mean, weights.transforms().std)
    )
    with torch.no_grad():
        whole((images(size=size) / 255 - mean) / std)
        expected = seen[0] @ model.network.fc.weight.T + model.network.fc.bias
        torch.testing.assert_close(model(images(size=size)), expected, rtol=1e-3, atol=1e-4)
        assert torch.equal(model(images(size=size)), again(images(size=size)))
    assert model.train()(images(size=size)).shape == (4, 8)


def test_weights_that_cannot_be_had_say_where_to_put_them(monkeypatch):
    def no_network(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", no_network)
    with pytest.raises(OSError, match=r"(?s)googlenet: .*no route.*googlenet.*pth.*checkpoints"):
        Backbone("googlenet", weights=True)


def test_dropout_is_of_training_only():
    model = Backbone(SMALL, dim=8, dropout=0.5, freeze_batch_norm=True)
    with torch.no_grad():
        assert torch.equal(model.eval()(images()), model(images()))
        assert not torch.equal(model.train()(images()), model(images()))


def test_the_embedding_can_be_standardised():
    embeddings = Backbone(SMALL, dim=8, batch_norm=True).train()(images(16))
    torch.testing.assert_close(embeddings.mean(0), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(embeddings.var(0, correction=0), torch.ones(8), atol=0.02, rtol=0)


def test_names():
    assert {"googlenet", "resnet18", "resnet50.a1_in1k", LITE0} <= set(backbones.names())
    assert "resnet81" not in backbones.names() and "convnet" not in backbones.names()


def test_the_embedding_is_a_linear_layer_or_it_is_said():
    model = Backbone("resnet18", dim=8)
    model.network.fc = nn.Conv2d(512, 8, 1)
    with pytest.raises(ValueError, match="resnet18: its last layer is no linear one but Conv2d"):
        model.embedding_layer()


# weights of timm's models: from Hugging Face's cache, or from the package of EfficientNet-Lite0


def test_weights_in_the_cache_are_taken_and_nothing_is_downloaded(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    name = "test_resnet.r160_in1k"
    with pytest.raises(OSError, match=rf"{name}: its weights are not on this machine, .*{name}'"):
        Backbone(name, weights=True)
    torch.manual_seed(0)
    trained = timm.create_model(name)
    folder = tmp_path / f"models--timm--{name}"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    file = folder / "snapshots" / "abc" / "model.safetensors"
    save_file(trained.state_dict(), file)
    state, expected = Backbone(name, weights=True).network.state_dict(), trained.state_dict()
    assert all(torch.equal(state[n], expected[n]) for n in expected if not n.startswith("fc."))
    before = timm_weights.weights_hash(name)
    assert before == hashlib.sha256(file.read_bytes()).hexdigest()


def test_lite0_needs_its_package(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(OSError, match=f"not installed: expected the package {LITE0_PACKAGE}"):
        Backbone(LITE0, weights=True)
    Backbone(LITE0)  # random weights need none


def test_lite0_is_checked_by_its_hash(tmp_path, monkeypatch):
    file = tmp_path / "other.pth"
    file.write_bytes(b"something else")
    monkeypatch.setattr(timm_weights, "weights_file", lambda name: file)
    with pytest.raises(
        ValueError, match=r"other.pth: its SHA-256 is .*, expected 579344248a93e230"
    ):
        Backbone(LITE0, weights=True)


def photographs(side):
    """(2, 3, side, side) uint8: a temple and a flower, from scikit-learn."""
    pictures = [torch.from_numpy(p.copy()).permute(2, 0, 1) for p in load_sample_images().images]
    smaller = functional.interpolate(torch.stack(pictures).float(), (side, side), mode="area")
    return smaller.round().byte()


@pytest.mark.parametrize("side", [128, 113, 224])
def test_lite0_computes_what_a_second_implementation_does(side):
    """EfficientNet-Lite0 written down once more, on the package's own names."""
    state = torch.load(timm_weights.weights_file(LITE0), weights_only=True)
    x = (photographs(side) - 127.5) / 127.5

    def layer(name, norm, x, stride=1, groups=1, act=True):
        weight = state[f"{name}.weight"]
        missing = [  # as TensorFlow pads: what is odd goes to the right and below
            max(0, (-(-n // stride) - 1) * stride + weight.shape[-1] - n) for n in x.shape[2:]
        ]
        (top, left), (bottom, right) = [m // 2 for m in missing], [m - m // 2 for m in missing]
        x = functional.conv2d(
            functional.pad(x, (left, right, top, bottom)), weight, None, stride, groups=groups
        )
        stored = ("running_mean", "running_var", "weight", "bias")
        x = functional.batch_norm(x, *(state[f"{norm}.{n}"] for n in stored), eps=1e-3)
        return x.clamp(0, 6) if act else x

    x = layer("_conv_stem", "_bn0", x, 2)
    strided = {1, 3, 5, 11}  # the first blocks of stages 1, 2, 3 and 5
    for i in range(16):
        block, before = f"_blocks.{i}", x
        if i:
            x = layer(f"{block}._expand_conv", f"{block}._bn0", x)
        x = layer(
            f"{block}._depthwise_conv", f"{block}._bn1", x, 2 if i in strided else 1, x.shape[1]
        )
        x = layer(f"{block}._project_conv", f"{block}._bn2", x, act=False)
        x = x + before if x.shape == before.shape else x
    features = layer("_conv_head", "_bn1", x).mean((2, 3))
    expected = features @ state["_fc.weight"].T + state["_fc.bias"]

    whole = timm.create_model(LITE0).eval()
    whole.load_state_dict(timm_weights.lite0_weights())
    model, seen = Backbone(LITE0, dim=8, weights=True).eval(), []
    model.embedding_layer().register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        torch.testing.assert_close(
            whole((photographs(side) - 127.5) / 127.5), expected, rtol=1e-5, atol=1e-5
        )
        model(photographs(side))
    torch.testing.assert_close(seen[0], features, rtol=1e-5, atol=1e-5)
    # 442 bell cote, 832 stupa, 663 monastery: ILSVRC has no Chinese temple
    assert side < 128 or int(expected[0].argmax()) in (442, 663, 832)

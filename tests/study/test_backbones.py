import pytest
import torch
from torch import nn
from torchvision import models

from proxylib.study.runs import backbones
from proxylib.study.runs.backbones import Backbone

SMALL = "shufflenet_v2_x0_5"


def images(n=4, channels=3, size=40):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (n, channels, size, size), generator=generator, dtype=torch.uint8)


# One of each way in which torchvision writes a classifier: fc, with auxiliary ones (googlenet),
# classifier[-1], a convolution (squeezenet), heads.head (vit), head (swin).
@pytest.mark.parametrize(
    ("name", "penultimate", "size"),
    [
        ("resnet18", 512, 32),
        ("googlenet", 1024, 32),
        ("mobilenet_v3_small", 1024, 32),
        ("squeezenet1_1", 512, 32),
        ("vit_b_32", 768, 224),
        ("swin_t", 768, 32),
    ],
)
def test_any_classifier_becomes_an_embedding(name, penultimate, size):
    model = Backbone(name, dim=8).train()
    assert model.dim == 8
    assert model(images(2, size=size)).shape == (2, 8)
    assert not any(p.shape[0] == 1000 for p in model.parameters() if p.ndim == 1)
    layers = [m for m in model.network.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert layers[-1].weight.shape[:2] == (8, penultimate)


def test_the_embedding_is_made_of_what_the_classifier_saw():
    torch.manual_seed(0)
    whole = models.resnet18().eval()
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


@pytest.mark.parametrize(("name", "size"), [("googlenet", 64), ("inception_v3", 80)])
def test_weights_give_what_torchvision_gives_and_come_back(name, size, monkeypatch):
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
    for name in ("resnet18", "googlenet", "inception_v3"):
        with pytest.raises(OSError, match=rf"(?s){name}: .*no route.*{name}.*pth.*checkpoints"):
            Backbone(name, weights=True)


def test_dropout_is_of_training_only():
    model = Backbone(SMALL, dim=8, dropout=0.5, freeze_batch_norm=True)
    with torch.no_grad():
        assert torch.equal(model.eval()(images()), model(images()))
        assert not torch.equal(model.train()(images()), model(images()))


def test_the_embedding_can_be_standardised():
    embeddings = Backbone(SMALL, dim=8, batch_norm=True).train()(images(16))
    torch.testing.assert_close(embeddings.mean(0), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(embeddings.var(0, correction=0), torch.ones(8), atol=0.02, rtol=0)


def test_unknown_networks_and_those_without_a_classifier(monkeypatch):
    with pytest.raises(ValueError, match="resnet81"):
        Backbone("resnet81")
    assert "resnet18" in backbones.names() and "resnet81" not in backbones.names()
    monkeypatch.setattr(models, "get_model", lambda *args, **options: nn.Linear(3, 10))
    with pytest.raises(ValueError, match="resnet18: found no layer of 1000 outputs to replace"):
        Backbone("resnet18")

"""Every registered method trains through the one loop."""

import pytest
import torch

from proxylib import training
from proxylib.augmentation import Augmentation
from proxylib.datasets import Dataset
from proxylib.methods import METHODS, build_objective
from proxylib.models import ConvNet
from proxylib.pretraining import pretrained_model
from proxylib.training import train

LABELS = torch.arange(10).repeat_interleave(4)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def toy():
    """Ten classes of noisy patterns, four images each."""
    patterns = 255 * torch.rand(10, 1, 16, 16, generator=rng())
    noise = 40 * torch.randn(40, 1, 16, 16, generator=rng(1))
    images = (patterns[LABELS] + noise).clamp(0, 255).to(torch.uint8)
    return Dataset("toy", images, LABELS, tuple("abcdefghij"))


def run(method, steps=12, model=None, **options):
    torch.manual_seed(0)
    data, generator = toy(), rng()
    model = model or ConvNet(1, 16, 8, widths=(8, 8)).normalize_like(data.images)
    objective = build_objective(method, data.labels, 8, generator, **options)
    optimizer = torch.optim.Adam(
        [
            {"params": model.parameters(), "lr": METHODS[method].lr},
            {"params": objective.parameters(), "lr": METHODS[method].proxy_lr},
        ]
    )
    return train(
        model,
        objective,
        data,
        optimizer,
        steps=steps,
        batch_size=8,
        generator=generator,
        augment=Augmentation(),
        eval_every=4,
    )


@pytest.mark.parametrize("method", METHODS)
def test_trains_and_repeats_bit_for_bit(method):
    history = run(method)
    assert history["step"].tolist() == [0, 4, 8, 12]
    assert history["samples"].tolist() == [0, 32, 64, 96]
    losses = history["loss"].tolist()[1:]
    assert losses[-1] < losses[0]
    assert run(method)["loss"].tolist()[1:] == losses


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 0.5},
        {"ratio": 2.5},
        {"assignment": "random"},
        {"assignment": "dynamic", "reassign_every": 5},
        {
            "assignment": "dynamic",
            "restart_dead": True,
            "reassign_every": 2,
            "n_triplets": 100,
            "n_triplet_negatives": 3,
        },
        {"n_negatives": 3, "embedding_norm": None, "proxy_norm": None},
    ],
    ids=str,
)
def test_proxy_variants_train(options):
    history = run("proxy_nca", **options)
    assert history["loss"][1:].notna().all()
    n_proxies = round(10 * options.get("ratio", 1))
    assert history["proxies_in_use"].between(1, n_proxies).all()
    if options.get("assignment") != "dynamic":
        assert history["proxies_in_use"].eq(n_proxies).all()


def test_batch_norm_centres_the_embedding():
    images = toy().images
    model = ConvNet(1, 16, 8, widths=(8, 8), batch_norm=True).normalize_like(images)
    embeddings = model(images)
    torch.testing.assert_close(embeddings.mean(0), torch.zeros(8), atol=1e-4, rtol=0)
    torch.testing.assert_close(embeddings.var(0, correction=0), torch.ones(8), atol=1e-2, rtol=0)


@pytest.mark.parametrize(("channels", "batch_norm"), [(1, False), (3, True)])
def test_pretrained_start_is_made_once(channels, batch_norm, tmp_path, monkeypatch):
    monkeypatch.setenv("PROXYLIB_HOME", str(tmp_path))
    first = pretrained_model(channels, 16, 8, batch_norm, steps=2)
    monkeypatch.setattr(training, "train", lambda *args, **kwargs: pytest.fail("trained again"))
    again = pretrained_model(channels, 16, 8, batch_norm, steps=2)
    images = torch.full((2, channels, 16, 16), 99, dtype=torch.uint8)
    assert torch.equal(first.eval()(images), again.eval()(images))
    assert not torch.equal(first.embedding.weight, ConvNet(channels, 16, 8).embedding.weight)


@pytest.mark.parametrize("method", METHODS)
def test_diverged_training_names_step_and_points(method):
    class Broken(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(8))

        def forward(self, images):
            return self.weight * torch.full((len(images), 8), torch.nan)

    with pytest.raises(FloatingPointError, match=r"at step 1 \(embeddings of training points \["):
        run(method, model=Broken())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: build_objective("svm", LABELS, 8, rng()), "unknown method 'svm', expected one of"),
        (lambda: build_objective("lifted", LABELS, 8, rng(), l2=1), "lifted has no option l2; it"),
        (lambda: build_objective("proxy_nca", LABELS, 8, rng(), assignment="x"), "assignment='x'"),
        (lambda: build_objective("proxy_nca", LABELS, 8, rng(), ratio=0.01), "n_proxies=0"),
        (lambda: build_objective("proxy_nca", LABELS, 8, rng(), ratio=9), "fewer than their"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()

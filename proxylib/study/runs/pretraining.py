"""A network that has learned to tell other things apart, to start from."""

import torch
from torch import Tensor

from proxylib.baselines import Softmax
from proxylib.datasets import Dataset, load
from proxylib.datasets.caching import cached
from proxylib.datasets.code import code_of
from proxylib.models import ConvNet
from proxylib.study.runs import distributed
from proxylib.study.runs.augmentation import Augmentation
from proxylib.study.runs.loading import Batches
from proxylib.training import train


def pretrained_model(
    channels: int, size: int, dim: int, batch_norm: bool = False, steps: int = 1200
) -> ConvNet:
    """The network after plain classification of other scripts, `init="pretrained"`.

    The patent fine-tunes a network that has learned to tell other things apart (ILSVRC); to kanji,
    Latin letters, digits, kana and radicals are such things. Softmax over the 260 characters of
    `load("kanji", subset="other")` × 40 images; one fixed seed, run once and then read from the
    cache.

    Args:
        channels, size, dim, batch_norm: see `ConvNet`.
        steps: batches of 32 images, Adam with learning rate 1e-3.
    """
    model = ConvNet(channels, size, dim, batch_norm=batch_norm)
    model.load_state_dict(cached(_pretrain, channels, size, dim, batch_norm, steps, key(size)))
    return model


def key(size: int) -> str:
    """Hash of what decides the pre-trained network beside its size: code, data, torch."""
    return f"{code_of(_pretrain)} {_data(size).fingerprint()} {torch.__version__}"


def _data(size: int) -> Dataset:
    return load("kanji", subset="other", n_images=40, size=size)


def _pretrain(
    channels: int, size: int, dim: int, batch_norm: bool, steps: int, key: str
) -> dict[str, Tensor]:
    data = _data(size)
    images = data.images.expand(-1, channels, -1, -1)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # only then does it repeat bit for bit
    try:
        with torch.random.fork_rng(devices=[]), distributed.alone():
            torch.manual_seed(0)
            model = ConvNet(channels, size, dim, batch_norm=batch_norm).normalize_like(images)
            objective = Softmax(data.labels, dim)
            generator = torch.Generator().manual_seed(0)
            batches = Batches(objective, images, 32, generator, Augmentation(affine=True))
            optimizer = torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=1e-3)
            for _ in train(model, objective, optimizer, batches, steps=steps):
                pass
    finally:
        torch.set_num_threads(threads)
    return model.state_dict()

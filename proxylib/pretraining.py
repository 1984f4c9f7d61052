"""A network that has learned to tell other things apart, to start from."""

import dataclasses

import torch
from torch import Tensor

from proxylib import distributed
from proxylib.baselines import Classification
from proxylib.caching import cached, code_fingerprint
from proxylib.datasets import load
from proxylib.models import ConvNet
from proxylib.training import train

CODE = ("pretraining.py", "training.py", "loading.py", "augmentation.py", "models.py")
CODE += ("baselines.py", "objectives.py", "samplers.py")


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
    data = load("kanji", subset="other", n_images=40, size=size)
    code = code_fingerprint(*CODE)
    key = f"{code} {data.fingerprint()} {torch.__version__}"
    model = ConvNet(channels, size, dim, batch_norm=batch_norm)
    model.load_state_dict(cached(_pretrain, channels, size, dim, batch_norm, steps, key))
    return model


def _pretrain(
    channels: int, size: int, dim: int, batch_norm: bool, steps: int, key: str
) -> dict[str, Tensor]:
    data = load("kanji", subset="other", n_images=40, size=size)
    images = data.images.expand(-1, channels, -1, -1)
    data = dataclasses.replace(data, images=images)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # only then does it repeat bit for bit
    try:
        with torch.random.fork_rng(devices=[]), distributed.alone():
            torch.manual_seed(0)
            model = ConvNet(channels, size, dim, batch_norm=batch_norm).normalize_like(images)
            objective = Classification(data.labels, dim)
            train(
                model,
                objective,
                data,
                torch.optim.Adam([*model.parameters(), *objective.parameters()], lr=1e-3),
                steps=steps,
                batch_size=32,
                generator=torch.Generator().manual_seed(0),
            )
    finally:
        torch.set_num_threads(threads)
    return model.state_dict()

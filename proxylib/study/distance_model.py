"""The distance model to take away: weights and a card in a folder, nothing else needed."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from proxylib.datasets import Dataset, ImageFiles, read_file
from proxylib.datasets.base import report
from proxylib.datasets.paths import expanded
from proxylib.distances import pairwise_distance
from proxylib.retrieval import embed, nearest_neighbors
from proxylib.study.methods import METHODS
from proxylib.study.runs import backbones
from proxylib.study.runs.checkpoints import write
from proxylib.study.runs.config import describe
from proxylib.study.runs.execution import RunResult, build_network

WEIGHTS, CARD = "model.safetensors", "card.json"
LARGEST = 10_000  # width of an embedding or side of an image that a card may ask for


class DistanceModel:
    """A trained network that says how far images are from each other.

    Attributes:
        network: images (B, C, H, W) → embeddings (B, D), in evaluation mode.
        card: what it is and where it is from; plain values.

    Example:
        >>> model = load_model("runs/mine")  # doctest: +SKIP
        >>> images = model.read(["a.png", "b.png"])  # doctest: +SKIP
        >>> model.distance(images[:1], images[1:])  # doctest: +SKIP
    """

    def __init__(self, network: nn.Module, card: dict):
        self.network, self.card = network.eval(), card

    def read(self, files: Iterable[str | Path]) -> Tensor:
        """Image files as the model takes them: (B, C, S, S) uint8.

        Raises:
            ValueError: files that can't be read, all in one message.
        """
        pixels, problems = [], []
        for file in files:
            try:
                pixels.append(read_file(file, **self.card["images"]))
            except ValueError as error:
                problems.append(str(error))
        report("images", problems)
        return torch.stack(pixels)

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings (B, D) float32 of images (B, C, S, S) uint8, rescaled as in evaluation.

        Raises:
            ValueError: images of another shape; says which.
        """
        size, channels = self.card["images"]["size"], self.card["images"]["channels"]
        if images.ndim != 4 or tuple(images.shape[1:]) != (channels, size, size):
            raise ValueError(
                f"images: expected (B, {channels}, {size}, {size}) uint8, got "
                f"{tuple(images.shape)}; `read` brings files to this shape"
            )
        return embed(self.network, images, self.card["normalize"])

    def distance(self, a: Tensor, b: Tensor) -> Tensor:
        """Squared Euclidean distances (A, B) between images a (A, C, S, S) and b (B, C, S, S)."""
        return pairwise_distance(self.embed(a), self.embed(b))

    def search(
        self, image: str | Path, gallery: Sequence[Path], k: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The k images of the gallery nearest to one image.

        Returns:
            The query (1, C, S, S); which files, (1, k) int64; distances (1, k), unsquared.

        Raises:
            ValueError: files that can't be read, or k is more than there are.
        """
        query, batch = self.read([image]), 64
        parts = [
            self.embed(self.read(gallery[start : start + batch]))
            for start in range(0, len(gallery), batch)
        ]
        return query, *nearest_neighbors(self.embed(query), k, torch.cat(parts))


def save_model(folder: Path, result: RunResult, train: Dataset, provenance: dict) -> None:
    """Write `model.safetensors` and `card.json`, from which `load_model` makes the model again.

    The proxies are left out: after training nobody needs them (the patent discards them too).

    Args:
        folder: existing.
        result: of `execution.execute`.
        train: the training classes.
        provenance: versions, commit and so on; plain values.
    """
    card = {
        "network": result.network,
        "images": {
            "channels": train.images.shape[1],
            "size": train.images.shape[2],
            "squeezed": isinstance(train.images, ImageFiles),
        },
        "normalize": METHODS[result.config.method].normalize,
        "config": describe(result.config),
        "data": {
            "name": train.name,
            "credit": train.credit,
            "training_classes": train.n_classes,
            "training_images": len(train),
            "fingerprint": train.fingerprint(),
        },
        "metrics": {name: float(value) for name, value in result.metrics.items()},
        "provenance": provenance,
    }
    weights = {k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in result.weights.items()}
    write(folder / WEIGHTS, lambda file: file.write(save(weights)))
    text = json.dumps(card, indent=2, ensure_ascii=False) + "\n"
    write(folder / CARD, lambda file: file.write(text.encode()))


def load_model(folder: str | Path) -> DistanceModel:
    """The model that `save_model` (`proxylib train --out`) wrote; nothing is unpickled.

    Raises:
        FileNotFoundError: no model there.
        ValueError: card and weights don't fit or can't be read, or the card says what
            `save_model` never writes.
    """
    folder = expanded(folder)
    for name in (WEIGHTS, CARD):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder}: no {name}: expected the folder that `proxylib train --out` wrote"
            )
    name = CARD
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        _check(card)
        name = WEIGHTS
        network = build_network(**card["network"])
        network.load_state_dict(load_file(folder / WEIGHTS))
    except Exception as error:
        raise ValueError(f"{folder / name}: no model could be made of it: {error}") from error
    return DistanceModel(network, card)


def _check(card: object) -> None:
    """Raises ValueError unless network and images are described as `save_model` does it.

    So nobody's card makes `build_network` download weights or ask for all memory.
    """
    size = range(1, LARGEST + 1)
    switch, channels, width = (False, True), (1, 3), {"dim": size, "batch_norm": (False, True)}
    expected = {
        "network": {"backbone": ("convnet",), "channels": channels, "size": size, **width},
        "images": {"channels": channels, "size": size, "squeezed": switch},
    }
    if not isinstance(card, dict) or not all(isinstance(card.get(n), dict) for n in expected):
        raise ValueError(f"expected a table with {' and '.join(expected)}")
    if card["network"].get("backbone") != "convnet":
        expected["network"] = {"backbone": backbones.names(), "crop": range(LARGEST + 1), **width}
        expected["network"] |= {"freeze_batch_norm": switch, "dropout": None}
    for part, fields in expected.items():
        if card[part].keys() != fields.keys():
            raise ValueError(
                f"{part}: expected {', '.join(sorted(fields))}, got {', '.join(sorted(card[part]))}"
            )
        for name, allowed in fields.items():
            value = card[part][name]
            if allowed is None:
                fits = type(value) in (int, float) and 0 <= value < 1
            else:
                fits = type(value) is type(allowed[0]) and value in allowed
            if not fits:
                raise ValueError(f"{part}: {name}={value!r} is out of its range")
            if part == "images" and value != card["network"].get(name, value):
                raise ValueError(
                    f"images: {name}={value}, but the network's is {card['network'][name]}"
                )
    if type(card.get("normalize")) is not bool:
        raise ValueError(f"normalize={card.get('normalize')!r}: expected true or false")

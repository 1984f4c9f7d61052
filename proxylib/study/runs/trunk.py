"""What a network makes of the images before it is trained: computed once, and kept."""

import hashlib
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from proxylib.datasets import Dataset
from proxylib.datasets.caching import cached
from proxylib.datasets.code import code_of
from proxylib.distances import rescale
from proxylib.objectives import ProxyLoss
from proxylib.retrieval import embed
from proxylib.study.runs.backbones import Backbone
from proxylib.study.runs.config import RunConfig
from proxylib.study.runs.loading import read

BATCH = 32  # images at once


def through_trunk(
    model: Backbone,
    last: str,
    data: Dataset,
    mirrored: bool = False,
    workers: int = 0,
    progress: bool = False,
) -> Dataset:
    """The data set with the trunk's outputs in place of its images, for `model.tail(last)`.

    They are computed once on one thread, in half precision, and then read from the cache as a file
    mapped into memory. They are found again for the same images, weights of the trunk, code,
    versions of torch and timm, device, and memory layout.

    Args:
        model: the whole network; its trunk does not change.
        last: the trunk's last part, see `Backbone.tail`.
        mirrored: keep two views of each image, itself and mirrored; else V = 1.
        workers: processes that read image files.
        progress: show a bar while they are computed.

    Returns:
        Images (N, V, …) float16.

    Raises:
        ValueError: the network is no chain up to there, or an image file can't be read.
    """
    trained = model.tail(last).state_dict().keys() - {"mean", "std"}
    key = f"{last} {mirrored} {_key(model, trained, data)} {code_of(_outputs, Backbone)}"
    unhashed = {"model": model.eval(), "images": data.images, "workers": workers}
    unhashed["progress"] = progress
    outputs = cached(_outputs, key, last, mirrored, unhashed=unhashed, mapped=True)
    return replace(data, images=torch.from_numpy(outputs))


def behind_trunk(config: RunConfig, model: nn.Module, *parts: Dataset) -> tuple:
    """The part of a network that a run trains, and what this part is given.

    Without a frozen trunk these are the whole network and the images. Else they are the network's
    tail and the outputs of its trunk, see `through_trunk`, which also says what it raises.

    Args:
        model: the whole network, as `starting_network` makes it.
        parts: data sets.

    Returns:
        What is trained, then for each data set what it is given.
    """
    if not config.frozen:
        return model, *(part.images for part in parts)
    model = model.to(memory_format=torch.channels_last)  # as the runs compute them
    seen = (through_trunk(model, config.frozen, part).images for part in parts)
    return model.tail(config.frozen), *seen


def _key(model: Backbone, left_out: Iterable[str], data: Dataset) -> str:
    """Another text for other data, and for a model of other weights but those left out."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        if name not in left_out:
            digest.update(f"{name} {tensor.stride()}".encode())
            digest.update(tensor.cpu().contiguous().numpy())
    device = next(model.parameters()).device.type
    versions = f"{torch.__version__} {version('timm')} {version('torchvision')} {device}"
    return f"{data.fingerprint()} {model.name} {model.crop} {versions} {digest.hexdigest()}"


@torch.inference_mode()
def _outputs(
    key: str, last: str, mirrored: bool, model: Backbone, images, workers: int, progress: bool
) -> np.ndarray:
    device, threads = next(model.parameters()).device, torch.get_num_threads()
    torch.set_num_threads(1)  # only then does it repeat bit for bit
    indices = torch.arange(len(images)).split(BATCH)
    outputs = None
    try:
        batches = tqdm(read(images, indices, workers), "trunk", len(indices), disable=not progress)
        for rows, batch in zip(indices, batches, strict=True):
            batch = batch.to(device)
            views = [batch, batch.flip(3)] if mirrored else [batch]
            made = torch.stack([model.trunk(view, last) for view in views], 1)
            if outputs is None:
                _check(model, last, batch, made)
                outputs = np.empty((len(images), *made.shape[1:]), np.float16)
            outputs[rows] = made.half().cpu().numpy()
    finally:
        torch.set_num_threads(threads)
    return outputs


def _check(model: Backbone, last: str, images: Tensor, made: Tensor) -> None:
    try:
        same = torch.allclose(model(images), model.tail(last)(made), rtol=1e-3, atol=1e-4)
    except (RuntimeError, ValueError, IndexError):  # shapes that do not fit
        same = False
    if not same:
        raise ValueError(
            f"frozen={last!r}: {model.name} can't be cut there, for what follows needs more than "
            "what comes out of this part: choose a part of the main chain"
        )


@torch.no_grad()
def start_at_means(objective: ProxyLoss, embeddings: Tensor) -> None:
    """Let each proxy be the mean of the embeddings of its points.

    Random proxies would soon undo what the embedding's own start is worth. Without free norms only
    the direction counts, but the length sets how fast the optimiser turns it: that of a random
    start.

    Args:
        objective: with a static assignment; its proxies are changed.
        embeddings: (N, D) of the training points, as the model makes them.
    """
    embeddings = rescale(embeddings, objective.embedding_norm).to(objective.proxies)
    sums = torch.zeros_like(objective.proxies).index_add(0, objective.assignment, embeddings)
    means = sums / objective.assignment.bincount(minlength=objective.n_proxies)[:, None]
    if objective.proxy_norm is not None:
        means = rescale(means, means.shape[1] ** 0.5)
    objective.proxies.copy_(means)


def features(model: Backbone, data: Dataset, workers: int = 0) -> Tensor:
    """(N, F) float32: what the network makes of the images just before its embedding layer.

    Computed once, and then read from the cache, as the outputs of a trunk. Processes that train
    together do not share the work: one of them may find the features in its cache already.

    Args:
        model: a whole network or a tail.
        data: its images as the model takes them, see `loading.read`.
        workers: processes that read image files.
    """
    head = {id(weight) for weight in model.head().state_dict(keep_vars=True).values()}
    weights = model.state_dict(keep_vars=True)
    left_out = {name for name, weight in weights.items() if id(weight) in head}
    key = f"{model.last} {_key(model, left_out, data)} {code_of(_features, Backbone)}"
    unhashed = {"model": model, "images": data.images, "workers": workers}
    return torch.from_numpy(cached(_features, key, unhashed=unhashed))


def _features(key: str, model: Backbone, images, workers: int) -> np.ndarray:
    seen = []
    hook = model.embedding_layer().register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].cpu())
    )
    try:
        embed(model, read(images, torch.arange(len(images)).split(BATCH), workers))
    finally:
        hook.remove()
    return torch.cat(seen).numpy()


@torch.no_grad()
def start_at_pca(model: Backbone, known: Tensor) -> None:
    """Let the embedding be the principal components of the features, centred.

    Where there are fewer images or features than the embedding is wide, the coordinates that are
    left over stay random; at zero they would get no gradient.

    Args:
        model: its last layer is changed.
        known: (N, F), its `features` of the training classes.
    """
    from sklearn.decomposition import PCA  # not above, for it takes long to import

    layer, known = model.embedding_layer(), known.double().numpy()
    n = min(model.dim, *known.shape)
    pca = PCA(n, svd_solver="covariance_eigh").fit(known)
    layer.weight[:n] = torch.from_numpy(pca.components_)
    layer.bias.copy_(-layer.weight @ torch.from_numpy(pca.mean_).to(layer.weight))

"""Embedding, exact nearest neighbours, Recall@K and NMI (paper section 5)."""

import torch
from sklearn.cluster import KMeans
from sklearn.metrics import normalized_mutual_info_score
from torch import Tensor, nn
from torch.nn import functional

from proxylib import distributed
from proxylib.loading import read
from proxylib.losses import pairwise_distance, rescale


@torch.inference_mode()
def embed(
    model: nn.Module, images, normalize: bool = True, batch_size: int = 256, workers: int = 0
) -> Tensor:
    """Embeddings (N, D) of images (N, C, H, W) by the model in evaluation mode, on the CPU.

    Of several processes (distributed.py) each embeds a part, and all get all.

    Args:
        images: a tensor or `datasets.ImageFiles`.
        normalize: rescale to unit length.
        workers: processes that read image files.

    Raises:
        ValueError: an embedding that is not finite.
    """
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    mine = torch.arange(len(images))[distributed.share(len(images))].split(batch_size)
    parts = [model(batch.to(device)).cpu() for batch in read(images, mine, workers)]
    model.train(was_training)
    embeddings = distributed.gather_rows(torch.cat(parts))
    embeddings = rescale(embeddings, 1.0 if normalize else None)
    if not (finite := embeddings.isfinite().all(1)).all():
        raise ValueError(
            f"{(~finite).sum()} of {len(finite)} embeddings are not finite (first: image "
            f"{int((~finite).nonzero()[0])}); training has diverged"
        )
    return embeddings


def raw_pixels(images, side: int = 32) -> Tensor:
    """The pixels themselves as an embedding (N, C·side²) float32: what learning has to beat.

    Larger images are shrunk to `side`, smaller ones stay as they are.
    """
    if images.shape[3] <= side:
        return images[:].flatten(1).float()
    parts = (functional.adaptive_avg_pool2d(part.float(), side) for part in images.split(256))
    return torch.cat([part.flatten(1) for part in parts])


@torch.inference_mode()
def nearest_neighbors(
    queries: Tensor, k: int, gallery: Tensor | None = None, chunk: int = 1024
) -> tuple[Tensor, Tensor]:
    """The k nearest gallery points of each query, exact, by Euclidean distance.

    Equal distances are ranked by the smaller gallery index. Memory: a few (chunk, N) matrices.

    Args:
        queries: (Q, D) float.
        k: number of neighbours.
        gallery: (N, D); None means that the queries are the gallery, and then the query itself
            is left out by its index (not by distance: duplicates of it count).
        chunk: queries handled at once.

    Returns:
        Indices (Q, k) int64 into the gallery and unsquared distances (Q, k), nearest first.

    Raises:
        ValueError: k is not between 1 and the number of candidates.
    """
    itself = gallery is None
    gallery = queries if itself else gallery
    n = len(gallery)
    if not 1 <= k <= n - itself:
        raise ValueError(f"k={k}: expected 1 … {n - itself}, the number of candidates")
    indices, distances = [], []
    for start in range(0, len(queries), chunk):
        d = pairwise_distance(queries[start : start + chunk], gallery)
        if itself:
            d[torch.arange(len(d)), torch.arange(start, start + len(d))] = torch.inf
        value, index = _smallest(d, k)
        indices.append(index)
        distances.append(value.clamp_min(0).sqrt())
    return torch.cat(indices), torch.cat(distances)


def _smallest(d: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest of each row; among equals the leftmost. (topk alone promises no order.)"""
    value, index = d.topk(min(k + 1, d.shape[1]), largest=False)
    index, order = index.sort(dim=1)
    value, by_value = value.gather(1, order).sort(dim=1, stable=True)
    index = index.gather(1, by_value)
    if value.shape[1] > k:
        # A tie across the cut: topk may have kept the wrong ones of the equals.
        tied = (value[:, k - 1] == value[:, k]).nonzero().flatten()
        value, index = value[:, :k], index[:, :k]
        if len(tied):
            value[tied], index[tied] = (part[:, :k] for part in d[tied].sort(dim=1, stable=True))
    return value, index


def recall_at_k(
    embeddings: Tensor, labels: Tensor, ks: tuple[int, ...] = (1, 2, 4, 8)
) -> dict[str, float]:
    """Recall@K: the share of queries with a point of their label among the K nearest others.

    Queries = gallery; the query itself is left out by its index. A query that is the only one
    of its label counts as not found.

    Args:
        embeddings: (N, D) float.
        labels: (N,) int64.
        ks: the values of K; one above N − 1 means all other points.

    Returns:
        `{"recall_at_1": fraction, …}`.
    """
    neighbors, _ = nearest_neighbors(embeddings, min(max(ks), len(labels) - 1))
    hit = labels[neighbors] == labels[:, None]
    return {f"recall_at_{k}": hit[:, :k].any(1).double().mean().item() for k in ks}


def nmi(embeddings: Tensor, labels: Tensor, seed: int = 0) -> float:
    """Normalised mutual information 2·I(Ω, C) / (H(Ω) + H(C)) of a k-means clustering (Eq. 8).

    k is the number of labels; k-means++ from one seeded start.

    Args:
        embeddings: (N, D) float.
        labels: (N,) int64.
    """
    kmeans = KMeans(len(labels.unique()), n_init=1, random_state=seed)
    clusters = kmeans.fit_predict(embeddings.double().numpy())
    return normalized_mutual_info_score(labels.numpy(), clusters, average_method="arithmetic")

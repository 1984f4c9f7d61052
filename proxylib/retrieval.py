"""Embedding, exact nearest neighbours, Recall@K and NMI (paper section 5)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from proxylib.distances import centred, pairwise_distance, rescale


@torch.inference_mode()
def embed(
    model: nn.Module,
    images: Tensor | Iterable[Tensor],
    normalize: bool = True,
    batch_size: int = 256,
) -> Tensor:
    """Embeddings (N, D) of images by the model in evaluation mode, on the CPU.

    Args:
        model: images (B, C, H, W) → (B, D), on any device.
        images: (N, C, H, W), or whatever else has `split` or yields such batches.
        normalize: rescale to unit length.
        batch_size: images of a tensor that are embedded at once.

    Returns:
        (N, D) float, in the order of the images.

    Raises:
        ValueError: an embedding that is not finite.
    """
    was_training, device = model.training, next(model.parameters()).device
    batches = images.split(batch_size) if hasattr(images, "split") else images
    model.eval()
    embeddings = torch.cat([model(batch.to(device)).cpu() for batch in batches])
    model.train(was_training)
    if not (finite := embeddings.isfinite().all(1)).all():
        raise ValueError(
            f"{(~finite).sum()} of {len(finite)} embeddings are not finite (first: image "
            f"{int((~finite).nonzero()[0])}); training has diverged"
        )
    return rescale(embeddings, 1.0 if normalize else None)


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
    queries, gallery = centred(queries, queries if itself else gallery)
    n = len(gallery)
    if not 1 <= k <= n - itself:
        raise ValueError(f"k={k}: expected 1 … {n - itself}, the number of candidates")
    indices, distances = [], []
    for start in range(0, len(queries), chunk):
        d = pairwise_distance(queries[start : start + chunk], gallery)  # (chunk, N)
        if itself:  # query i of the chunk is point start + i of the gallery
            d.diagonal(start).fill_(torch.inf)
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
    embeddings: Tensor,
    labels: Tensor,
    ks: tuple[int, ...] = (1, 2, 4, 8),
    gallery: tuple[Tensor, Tensor] | None = None,
) -> dict[str, float]:
    """Recall@K: the share of queries with a point of their label among the K nearest others.

    Args:
        embeddings, labels: (N, D) float and (N,) int64 of the queries.
        ks: the values of K; one above the number of candidates means all of them.
        gallery: the candidates' (G, D) and (G,); None = the queries, but for the query itself.

    Returns:
        `{"recall_at_1": fraction, …}`; a query without a candidate of its label is not found.
    """
    points, found = gallery or (None, labels)
    most = len(found) - (gallery is None)  # the query itself is left out by its index
    neighbors, _ = nearest_neighbors(embeddings, min(max(ks), most), points)
    hit = found[neighbors] == labels[:, None]
    return {f"recall_at_{k}": hit[:, :k].any(1).double().mean().item() for k in ks}


def nmi(embeddings: Tensor, labels: Tensor, seed: int = 0) -> float:
    """Normalised mutual information 2·I(Ω, C) / (H(Ω) + H(C)) of a k-means clustering (Eq. 8).

    k is the number of labels; k-means++ from one seeded start.

    Args:
        embeddings: (N, D) float.
        labels: (N,) int64.

    Raises:
        ImportError: scikit-learn, which does the clustering, is not installed.
    """
    try:
        from sklearn.cluster import KMeans
        from sklearn.metrics import normalized_mutual_info_score
    except ImportError as error:
        raise ImportError("nmi needs scikit-learn: pip install 'proxylib[study]'") from error
    kmeans = KMeans(len(labels.unique()), n_init=1, random_state=seed)
    clusters = kmeans.fit_predict(embeddings.double().numpy())
    return normalized_mutual_info_score(labels.numpy(), clusters, average_method="arithmetic")

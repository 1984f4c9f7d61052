"""Embedding, exact nearest neighbours, Recall@K and NMI (paper section 5)."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional

from proxylib.distances import check_points, rescale

GROUP = 16  # successive points of the gallery of which only the nearest is noted at first
TILE = 512  # points compared with as many at once: what they need stays in the cache
BLOCK = 128  # tiles within which a distance serves both points; their least ones take 0.3 GB
GATHERED = 2**20  # numbers of gallery points whose distances are then computed exactly at once


@torch.no_grad()  # not inference mode: what comes out may go into a loss
def embed(
    model: nn.Module,
    images: Tensor | Iterable[Tensor],
    normalize: bool = True,
    batch_size: int = 64,
) -> Tensor:
    """Embeddings (N, D) of images by the model in evaluation mode, on the CPU.

    Args:
        model: images (B, C, H, W) → (B, D), on any device.
        images: (N, C, H, W), or whatever else has `split` or yields such batches.
        normalize: rescale to unit length.
        batch_size: images of a tensor that are embedded at once; more are slower on a CPU.

    Returns:
        (N, D) float, in the order of the images. One that is not finite, for training has
        diverged, raises ValueError.
    """
    was_training, device = model.training, next(model.parameters()).device
    batches = images.split(batch_size) if hasattr(images, "split") else images
    model.eval()
    embeddings = torch.cat([model(batch.to(device)).cpu() for batch in batches])
    model.train(was_training)
    check_points(embeddings, "embeddings")
    return rescale(embeddings, 1.0 if normalize else None)


@torch.no_grad()
def nearest_neighbors(
    queries: Tensor, k: int, gallery: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k nearest gallery points of each query, exact, by Euclidean distance.

    A distance is computed from the difference of its two points, in the type of the queries (at
    least float32), whatever the others are; equal ones are ranked by the smaller gallery index.
    Matrix products only rule out what cannot be near, by a bound on their rounding. Memory: a few
    copies of the gallery, (512, N / 16) matrices, and 0.3 GB more if queries are the gallery.

    Args:
        queries: (Q, D).
        k: number of neighbours.
        gallery: (N, D); None means that the queries are the gallery, and then the query itself
            is left out by its index (not by distance: duplicates of it count).

    Returns:
        Indices (Q, k) int64 into the gallery and unsquared distances (Q, k), nearest first.

    Raises:
        ValueError: k is not between 1 and the number of candidates; points that are not finite,
            or no matrices.
    """
    itself = gallery is None
    queries = queries.to(torch.promote_types(queries.dtype, torch.float32))
    gallery = queries if itself else gallery.to(queries.dtype)
    check_points(queries, "queries")
    if not itself:
        check_points(gallery, "gallery points")
    n, dim = gallery.shape
    if queries.shape[1] != dim:
        raise ValueError(
            f"expected queries and gallery of one width, got {queries.shape[1]} and {dim}"
        )
    if not 1 <= k <= n - itself:
        raise ValueError(f"k={k}: expected 1 … {n - itself}, the number of candidates")
    group = GROUP if GROUP * (k + itself) <= n else 1
    centre = gallery.mean(0)  # far from the origin a product has no digits left for distances
    gallery = functional.pad(gallery, (0, 0, 0, -n % TILE), value=torch.inf)
    # (q, ½‖q‖², 1) times a tile (D + 2, TILE) is ½‖q − g‖². In a tile the points are in such an
    # order that columns i, i + TILE / group, … are a group of successive ones.
    half = (gallery - centre).square().sum(1, keepdim=True) / 2
    tiles = torch.cat([centre - gallery, torch.ones_like(half), half], 1)
    tiles[n:, :dim] = 0
    tiles = tiles.view(-1, TILE // group, group, dim + 2).permute(0, 3, 2, 1).flatten(2)
    error = (dim + 10) * torch.finfo(gallery.dtype).eps
    found, least = [], {}  # least[a, b]: (points of tile a, groups of tile b)
    for a, part in enumerate(queries.split(TILE)):
        size = (part - centre).square().sum(1, keepdim=True)
        q = torch.cat([part - centre, size / 2, torch.ones_like(size)], 1)
        for b, tile in enumerate(tiles):
            if (a, b) not in least:
                product = q @ tile
                least[a, b] = product.view(len(q), group, -1).amin(1)
                if itself and a < b and a // BLOCK == b // BLOCK and group > 1:
                    back = product.view(-1, group, TILE).amin(1).view(-1, group, TILE // group)
                    least[b, a] = back.permute(2, 1, 0).flatten(0, 1)
        row = torch.cat([least.pop((a, b))[: len(q)] for b in range(len(tiles))], 1)
        # A product is off by error / 4·(‖q‖ + ‖g‖)² at most, and so is half the squared distance
        # below. With ‖g‖ ≤ ‖q‖ + ‖q − g‖ that is what may part a neighbour from the k least.
        groups = _least(row, k + itself, 8 * error * size + 1e-37, 4 * error)
        own = torch.arange(a * TILE, a * TILE + len(q), device=q.device)[:, None]
        step = max(1, GATHERED // (groups.shape[1] * group * dim))
        for q, g, i in zip(*(t.split(step) for t in (part, groups, own)), strict=True):
            near = gallery.view(-1, group * dim).index_select(0, g.flatten()).view(len(q), -1, dim)
            d = torch.linalg.vector_norm(q[:, None] - near, dim=2)
            index = (g[..., None] * group + torch.arange(group, device=d.device)).flatten(1)
            d = d.masked_fill(index == i, torch.inf) if itself else d
            nearest = _least(d, k)
            value, order = d.gather(1, nearest).sort(stable=True)
            found.append((index.gather(1, nearest.gather(1, order[:, :k])), value[:, :k]))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def _least(values: Tensor, k: int, more: Tensor | float = 0.0, rate: float = 0.0) -> Tensor:
    """Columns, left to right, with all values ≤ (1 + rate)·(k-th smallest of the row) + more."""
    value, column = values.topk(min(k + 4, values.shape[1]), largest=False)
    cut = (1 + rate) * value[:, k - 1 : k] + more
    if not (value[:, -1:] > cut).all():  # perhaps there are more; NaN is never ruled out
        value, column = values.topk(int((~(values > cut)).sum(1).max()), largest=False)
    return column[:, : int((~(value > cut)).sum(1).max())].sort().values


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

    Raises:
        ValueError: embeddings that are not finite, another number of labels, or a K below 1.
    """
    _check_labelled(embeddings, labels)
    if gallery:
        _check_labelled(*gallery)
    if not ks or min(ks) < 1:
        raise ValueError(f"ks={ks}: expected one or more numbers, 1 or more")
    points, found = gallery or (None, labels)
    most = len(found) - (gallery is None)  # the query itself is left out by its index
    neighbors, _ = nearest_neighbors(embeddings, min(max(ks), most), points)
    hit = found[neighbors] == labels[:, None]
    return {f"recall_at_{k}": hit[:, :k].any(1).double().mean().item() for k in ks}


def nmi(embeddings: Tensor, labels: Tensor, seed: int = 0) -> float:
    """Normalised mutual information 2·I(Ω, C) / (H(Ω) + H(C)) of a k-means clustering (Eq. 8).

    k is the number of labels; float32, one seeded start: k-means++ up to 1,000 labels. Beyond them
    random points, for k-means++ is as much work as 2 + log k iterations, more than there are.

    Args:
        embeddings: (N, D) float.
        labels: (N,) int64.

    Raises:
        ImportError: scikit-learn, which does the clustering, is not installed.
        ValueError: embeddings that are not finite, or another number of labels.
    """
    _check_labelled(embeddings, labels)
    try:
        from sklearn.cluster import KMeans
        from sklearn.metrics import normalized_mutual_info_score
    except ImportError as error:
        raise ImportError("nmi needs scikit-learn: pip install 'proxylib[study]'") from error
    k = len(labels.unique())
    kmeans = KMeans(k, init="k-means++" if k <= 1000 else "random", n_init=1, random_state=seed)
    clusters = kmeans.fit_predict(embeddings.float().numpy())
    score = normalized_mutual_info_score(labels.numpy(), clusters, average_method="arithmetic")
    return float(score)  # older versions give a number of numpy's


def _check_labelled(embeddings: Tensor, labels: Tensor) -> None:
    check_points(embeddings, "embeddings")
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"expected a label for each of the {len(embeddings)} embeddings, got labels "
            f"{tuple(labels.shape)}"
        )

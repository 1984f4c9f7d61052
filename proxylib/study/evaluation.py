"""How good an embedding of a data set is, and what it retrieves; queries and gallery apart."""

import torch
from torch import Tensor

from proxylib.datasets import Dataset
from proxylib.retrieval import nearest_neighbors, nmi, recall_at_k


def quality(embeddings: Tensor, dataset: Dataset, clusters: bool = True) -> dict[str, float]:
    """Recall@K and NMI of the embeddings (N, D) of a data set's images.

    If it has queries of its own, they are searched for in its gallery, and they alone are
    clustered.

    Returns:
        `recall_at_1`, … and, if `clusters`, `nmi`; see the functions of these names.
    """
    asked, labels, gallery = embeddings, dataset.labels, None
    if dataset.queries is not None:
        asked, labels = embeddings[dataset.queries], labels[dataset.queries]
        gallery = embeddings[~dataset.queries], dataset.labels[~dataset.queries]
    found = recall_at_k(asked, labels, gallery=gallery)
    return found | ({"nmi": nmi(asked, labels)} if clusters else {})


def search(embeddings: Tensor, dataset: Dataset, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """The k nearest images of every query of a data set, of which (N, D) are the embeddings.

    Returns:
        Which images are the queries, (Q,) int64; the images found, (Q, k) int64, nearest first;
        their distances (Q, k), unsquared. A smaller gallery gives all it has.
    """
    if dataset.queries is None:
        queries = torch.arange(len(dataset))
        return queries, *nearest_neighbors(embeddings, min(k, len(dataset) - 1))
    queries, gallery = (part.nonzero().flatten() for part in (dataset.queries, ~dataset.queries))
    points = embeddings[gallery]
    found, distances = nearest_neighbors(embeddings[queries], min(k, len(gallery)), points)
    return queries, gallery[found], distances

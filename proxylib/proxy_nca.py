"""Proxy-NCA as most people want it: one proxy per class, called with embeddings and labels."""

from functools import partial

import torch
from torch import Tensor

from proxylib.losses import nca_loss
from proxylib.objectives import ProxyLoss


class ProxyNCA(ProxyLoss):
    """Proxy-NCA with one proxy per class, to be called with embeddings and labels.

    Its proxies are parameters, so give them to the optimiser, best with a learning rate some 100
    times that of the network. Value and gradients are those of `ProxyLoss` with the assignment by
    label (Eq. 4 and 5, Algorithm 1).

    Args:
        n_classes: C.
        dim: D, width of the embedding.
        generator: source of the proxies' random start; None = torch's own.
        include_positive: see `nca_loss`.
        options: see `ProxyLoss`: `embedding_norm`, `proxy_norm`, `squared`, `n_negatives`,
            `shared_negatives`, `sparse`.

    Raises:
        ValueError: fewer than 2 classes; as `ProxyLoss`.

    Example:
        >>> loss_fn = ProxyNCA(n_classes=98, dim=64)
        >>> loss = loss_fn(torch.randn(32, 64), torch.randint(98, (32,)))
    """

    def __init__(
        self,
        n_classes: int,
        dim: int,
        generator: torch.Generator | None = None,
        *,
        include_positive: bool = False,
        **options,
    ):
        if n_classes < 2:
            raise ValueError(f"n_classes={n_classes}: expected 2 or more")
        classes = torch.arange(n_classes)  # a class is its own only training point
        loss = partial(nca_loss, include_positive=include_positive)
        super().__init__(classes, dim, generator, classes, loss=loss, **options)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Mean loss (scalar) of embeddings (B, D) with labels (B,) int64 of 0 … C − 1.

        Tensors of other shapes or types, or an unknown label, raise ValueError.
        """
        n, dim = self.proxies.shape
        shapes = tuple(embeddings.shape), tuple(labels.shape)
        types = embeddings.is_floating_point(), labels.dtype == torch.int64
        if labels.ndim != 1 or not all(types) or shapes[0] != (*shapes[1], dim):
            raise ValueError(
                f"expected embeddings (B, {dim}) and labels (B,) int64, got {shapes[0]} and "
                f"{shapes[1]} {labels.dtype}; embeddings are {embeddings.dtype}, expected floats"
            )
        if wrong := {label for label in labels.tolist() if not 0 <= label < n}:
            raise ValueError(f"labels: expected 0 … {n - 1}, got {sorted(wrong)[:10]}")
        return super().forward(embeddings, labels, labels)

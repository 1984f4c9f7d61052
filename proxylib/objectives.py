"""What a training step minimises."""

import torch
from torch import Tensor, nn

from proxylib.losses import nca_loss, pairwise_distance, rescale
from proxylib.proxies import assign_by_label, exclusive_label, init_proxies, negative_mask


class ProxyNCA(nn.Module):
    """Proxy-NCA with static assignment, one proxy per label (Algorithm 1, method 900).

    The NCA loss of each anchor x over (x, p(y), p(Z)): its positive proxy is that of the drawn
    positive y, its negative proxies are all those that serve a point of another label.

    Args:
        labels: (N,) int64 labels of the training points.
        dim: D, width of the embedding.
        generator: source of the proxies' random start.
        embedding_norm, proxy_norm: lengths N_x and N_p to which embeddings and proxies are
            rescaled before distances are taken; None leaves them free, as the patent trained.
            N_x·N_p acts as an inverse temperature and decides the result.
        include_positive: see `nca_loss`.
    """

    def __init__(
        self,
        labels: Tensor,
        dim: int,
        generator: torch.Generator,
        embedding_norm: float | None = 3.0,
        proxy_norm: float | None = 3.0,
        include_positive: bool = False,
    ):
        super().__init__()
        self.embedding_norm, self.proxy_norm = embedding_norm, proxy_norm
        self.include_positive = include_positive
        assignment = assign_by_label(labels)
        n_proxies = int(assignment.max()) + 1
        self.register_buffer("labels", labels)
        self.register_buffer("assignment", assignment)
        self.register_buffer("exclusive", exclusive_label(assignment, labels, n_proxies))
        self.proxies = nn.Parameter(init_proxies(n_proxies, dim, generator))

    def forward(self, embeddings: Tensor, anchors: Tensor, positives: Tensor) -> Tensor:
        """Mean loss over the anchors that have a negative.

        Args:
            embeddings: (B, D) of the anchors.
            anchors: (B,) int64, which training points they are.
            positives: (B,) int64, for each a point y ≠ x of the same label.

        Returns:
            Scalar, at least float32.
        """
        distances = pairwise_distance(
            rescale(embeddings, self.embedding_norm), rescale(self.proxies, self.proxy_norm)
        )
        d_pos = distances.gather(1, self.assignment[positives, None]).squeeze(1)
        mask = negative_mask(self.exclusive, self.labels[anchors])
        losses = nca_loss(d_pos, distances, mask, self.include_positive)
        return losses.sum() / mask.any(1).sum().clamp_min(1)

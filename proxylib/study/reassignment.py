"""Two other ways to re-assign in method 1000: from clusters, and by an oracle."""

import torch
from torch import Tensor
from torch.nn import functional

from proxylib.distances import rescale
from proxylib.dynamic import DynamicProxyLoss


class ClusterProxyLoss(DynamicProxyLoss):
    """At each re-assignment all proxies move to the centres of a k-means of all embeddings.

    So a proxy stands where points are, whatever the gradient made of it since the last time. Still
    no label is needed. Deep clustering works like this (Caron et al., arXiv 1807.05520); starting
    proxies anew from samples is also a part of CCP (Gurbuz et al., arXiv 2209.09060).

    Args:
        args, options: as in `DynamicProxyLoss`.
    """

    @torch.no_grad()
    def reassign(self, embeddings: Tensor) -> None:
        from sklearn.cluster import KMeans  # not above, for it takes long to import

        points = embeddings.float()
        if self.proxy_norm is not None:  # else lengths are learned, and count
            points = functional.normalize(points)
        k_means = KMeans(self.n_proxies, n_init=1, random_state=0).fit(points.cpu().numpy())
        centers = torch.from_numpy(k_means.cluster_centers_).to(self.proxies)
        if self.proxy_norm is not None:  # the length that a random start has, as in `_move`
            centers = rescale(centers, centers.shape[1] ** 0.5)
        self.proxies.copy_(centers)
        super().reassign(embeddings)


class OracleProxyLoss(DynamicProxyLoss):
    """All points of a label go to the one proxy that is nearest to the mean of their embeddings.

    A yardstick, no method, for it knows the labels: method 1000 without a label torn apart. It is
    no upper bound, for its proxies still stand where the gradient put them.

    Args:
        args, options: as in `DynamicProxyLoss`.
        truth: (N,) int64 labels of the training points; the loss doesn't see them.
    """

    def __init__(self, *args, truth: Tensor, **options):
        super().__init__(*args, **options)
        self.register_buffer("truth", truth.clone(), persistent=False)

    def _nearest(self, embeddings: Tensor) -> Tensor:
        points = functional.normalize(embeddings.float())
        sums = points.new_zeros(int(self.truth.max()) + 1, points.shape[1])
        return super()._nearest(sums.index_add_(0, self.truth, points))[self.truth]

    def _follow(self, anchors: Tensor, nearest) -> None:
        """No point leaves its label between two re-assignments."""

"""Distance metric learning with proxies: Proxy-NCA (US 10,387,749 B2, arXiv 1703.07464).

This is the core: losses, proxies, objectives, bounds, a small network and retrieval. It needs
torch and numpy only. Data sets are in `proxylib.datasets`, the reproducible study in
`proxylib.study`; neither is imported here.

Example:
    >>> import torch
    >>> from proxylib import ConvNet, ProxyNCA
    >>> model, loss_fn = ConvNet(channels=3, size=32, dim=64), ProxyNCA(n_classes=98, dim=64)
    >>> proxies = {"params": loss_fn.parameters(), "lr": 0.1}
    >>> optimizer = torch.optim.Adam([{"params": model.parameters()}, proxies], lr=1e-3)
    >>> images, labels = torch.randint(256, (16, 3, 32, 32)), torch.randint(98, (16,))
    >>> loss = loss_fn(model(images), labels)  # in your training loop
    >>> loss.backward()
    >>> optimizer.step()
"""

from proxylib.baselines import InstanceLoss, LiftedStructure, NPairs, SemiHardTriplet
from proxylib.bounds import (
    Triplets,
    bound_statistics,
    expected_ranking_bound,
    nca_bound,
    proxy_errors,
    ranking_bound,
    triplet_bound,
)
from proxylib.distances import pairwise_distance, rescale
from proxylib.dynamic import DynamicProxyLoss
from proxylib.losses import (
    contrastive_loss,
    mean_contrastive_loss,
    mean_triplet_loss,
    nca_loss,
    ranking_loss,
    triplet_loss,
)
from proxylib.models import ConvNet
from proxylib.objectives import Objective, ProxyLoss
from proxylib.proxies import (
    assign_by_label,
    assign_nearest,
    assign_random,
    assign_static,
    init_proxies,
)
from proxylib.proxy_nca import ProxyNCA
from proxylib.retrieval import embed, nearest_neighbors, nmi, recall_at_k
from proxylib.struct_clust import StructClust
from proxylib.training import train

__version__ = "0.2.0"

__all__ = ["ConvNet", "DynamicProxyLoss", "InstanceLoss", "LiftedStructure", "NPairs"]
__all__ += ["Objective", "ProxyLoss", "ProxyNCA", "SemiHardTriplet", "StructClust", "Triplets"]
__all__ += ["assign_by_label", "assign_nearest", "assign_random", "assign_static"]
__all__ += ["bound_statistics", "contrastive_loss", "embed", "expected_ranking_bound"]
__all__ += ["init_proxies", "mean_contrastive_loss", "mean_triplet_loss", "nca_bound", "nca_loss"]
__all__ += ["nearest_neighbors", "nmi", "pairwise_distance", "proxy_errors", "ranking_bound"]
__all__ += ["ranking_loss", "recall_at_k", "rescale", "train", "triplet_bound"]
__all__ += ["triplet_loss"]

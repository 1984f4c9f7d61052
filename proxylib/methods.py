"""The registry of methods: from a name to an objective with its batches and settings."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from proxylib.baselines import InstanceLoss, LiftedStructure, NPairs, SemiHardTriplet
from proxylib.objectives import Dynamic, Objective, ProxyLoss
from proxylib.proxies import assign_random, assign_static
from proxylib.samplers import draw_triplets
from proxylib.struct_clust import StructClust


@dataclass(frozen=True)
class Method:
    """How to train by a method. Whatever is not given in a run comes from here.

    Attributes:
        label: name for figures and tables.
        build: (labels, dim, generator, **options) → objective.
        options: keyword arguments of `build` that differ from its own defaults.
        lr, proxy_lr: learning rates of the network and of the proxies.
        batch_size: embedded points per step.
        normalize: bring embeddings to unit length at evaluation.
    """

    label: str
    build: Callable[..., Objective]
    options: dict[str, object] = field(default_factory=dict)
    lr: float = 1e-3
    proxy_lr: float = 0.1
    batch_size: int = 32
    normalize: bool = True

    def defaults(self) -> dict[str, object]:
        """All options that `objective` takes, with their values if not given."""
        parameters = [
            *inspect.signature(self.build).parameters.values(),
            # What a builder passes on as **options.
            *(_PROXY_OPTIONS if self.build is build_proxy_loss else ()),
        ]
        given = {p.name: p.default for p in parameters if p.default is not p.empty}
        return {**given, **self.options}


def build_proxy_loss(
    labels: Tensor,
    dim: int,
    generator: torch.Generator,
    *,
    ratio: float = 1.0,
    assignment: str = "static",
    n_triplets: int = 0,
    n_triplet_negatives: int = 32,
    reassign_every: int = 100,
    start: str = "nearest",
    proxies_from_embeddings: bool = False,
    restart_every: int = 0,
    **options,
) -> ProxyLoss:
    """A proxy objective for labelled training points.

    Args:
        labels: (N,) int64.
        dim: D, width of the embedding.
        generator: source of everything random.
        ratio: proxies per label; their number is rounded.
        assignment: `"static"` (by label, fractional, or several per label: `assign_static`),
            `"random"` (fixed, whatever the label) or `"dynamic"`.
        n_triplets: 0 = the objective knows the labels and Z is all points of other labels; else
            it only gets so many triplets, drawn once.
        n_triplet_negatives: points Z of each of those.
        reassign_every, start, proxies_from_embeddings, restart_every: see `Dynamic`.
        options: see `ProxyLoss`.

    Raises:
        ValueError: an unknown assignment, or as in `assign_static` and `ProxyLoss`.
    """
    n_proxies = round(ratio * (int(labels.max()) + 1))
    dynamic = None
    if assignment == "static":
        vector = assign_static(labels, n_proxies, generator)
    elif assignment in ("random", "dynamic"):
        vector = assign_random(len(labels), n_proxies, generator)
        if assignment == "dynamic":
            dynamic = Dynamic(reassign_every, start, proxies_from_embeddings, restart_every)
    else:
        raise ValueError(
            f"assignment={assignment!r}: expected one of 'static', 'random', 'dynamic'"
        )
    if n_triplets:
        triplets = draw_triplets(labels, n_triplets, n_triplet_negatives, generator)
        supervision = {"triplets": triplets}
    else:
        supervision = {"labels": labels}
    return ProxyLoss(
        vector, dim, generator, n_proxies=n_proxies, dynamic=dynamic, **supervision, **options
    )


_PROXY_OPTIONS = [
    p
    for p in inspect.signature(ProxyLoss).parameters.values()
    if p.name not in ("labels", "triplets", "n_proxies", "dynamic")
]


def _of_batches(objective: type[Objective]) -> Callable[..., Objective]:
    """A builder for a tuple method: no width to know, nothing random inside."""

    def build(labels: Tensor, dim: int, generator: torch.Generator, **options) -> Objective:
        return objective(labels, **options)

    build.__signature__ = inspect.signature(objective)
    return build


METHODS: dict[str, Method] = {
    "proxy_nca": Method("Proxy-NCA", build_proxy_loss),
    "proxy_triplet": Method("Proxy-Triplet", build_proxy_loss, {"loss": "triplet"}, proxy_lr=1e-2),
    "npairs": Method("N-pairs", _of_batches(NPairs)),
    "struct_clust": Method("Struct Clust", _of_batches(StructClust)),
    "lifted": Method("Lifted structure", _of_batches(LiftedStructure), lr=2e-3),
    "semihard": Method("Triplet semi-hard", _of_batches(SemiHardTriplet)),
    "nca": Method("NCA", _of_batches(InstanceLoss)),
    "contrastive": Method(
        "Contrastive",
        _of_batches(InstanceLoss),
        {"loss": "contrastive", "squared": False, "embedding_norm": 1.0},
    ),
}


def build_objective(
    method: str, labels: Tensor, dim: int, generator: torch.Generator, **options
) -> Objective:
    """The objective of a method, its options completed from the registry.

    Args:
        method: a name in `METHODS`.
        labels: (N,) int64 labels of the training points.
        dim: D, width of the embedding.
        generator: source of everything random in it.
        options: see `METHODS[method].defaults()`.

    Raises:
        ValueError: an unknown method or option, or a value out of its range.

    Example:
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> objective = build_objective("semihard", labels, 8, torch.Generator(), per_class=2)
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}, expected one of {', '.join(METHODS)}")
    known = METHODS[method].defaults()
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(
            f"{method} has no option {', '.join(unknown)}; it has {', '.join(sorted(known))}"
        )
    return METHODS[method].build(labels, dim, generator, **{**METHODS[method].options, **options})

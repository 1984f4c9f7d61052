"""The registry of methods: from a name to an objective with its batches and settings.

A new method is one entry of `METHODS`. Its options and their defaults are the keywords of its
objective and of its loss; names, looks and tuning axes stand in the entry and nowhere else.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import get_args

import torch
from torch import Tensor

from proxylib.baselines import (
    PER_CLASS,
    InstanceLoss,
    LiftedStructure,
    NPairs,
    SemiHardTriplet,
    Softmax,
)
from proxylib.dynamic import DynamicProxyLoss
from proxylib.losses import Loss, mean_contrastive_loss, mean_triplet_loss, nca_loss
from proxylib.objectives import Objective, ProxyLoss
from proxylib.proxies import assign_random, assign_static
from proxylib.samplers import draw_triplets
from proxylib.struct_clust import StructClust
from proxylib.study.peers import PeerLoss
from proxylib.study.reassignment import ClusterProxyLoss, OracleProxyLoss


@dataclass(frozen=True)
class Axis:
    """One setting that tuning varies; the neighbours of its present value are tried."""

    names: tuple[str, ...]  # fields of `RunConfig` or options of the method; all take the one value
    values: tuple  # in order
    tries: int = 2  # values tried, those nearest to the present one in the order

    def alternatives(self, settings: Mapping[str, object]) -> list[dict[str, object]]:
        """`settings` with each of the nearest other values; of two as near, the smaller first."""
        now = settings[self.names[0]]
        order = sorted({*self.values, now})
        at = order.index(now)
        others = sorted((v for v in order if v != now), key=lambda v: abs(order.index(v) - at))
        return [{**settings, **dict.fromkeys(self.names, v)} for v in others[: self.tries]]


@dataclass(frozen=True)
class Method:
    """How to train by a method. Whatever a run does not say comes from here."""

    label: str  # name for figures and tables
    # Called with the labels, with `dim` and `generator` if it takes them, and with the options.
    objective: Callable[..., Objective]
    loss: Loss | None  # of the objective, one of losses.py; None if it has none to choose
    color: int  # in all figures, a place in the palette
    marker: str  # in all figures
    axes: tuple[Axis, ...]  # two of its own that tuning walks, beside those of all methods
    # Options whose default is another than that of the objective and the loss; with `PeerLoss` all.
    defaults: Mapping[str, object] = field(default_factory=dict)
    has_proxies: bool = False  # it learns proxies; else it is a baseline
    is_reference: bool = False  # in the benchmark only where a pre-trained network is trained
    # From which networks A1 tunes it; only those that a random start suits are in the benchmark.
    starts: tuple[str, ...] = ("random", "pretrained")
    lr: float = 1e-3  # learning rate of the network
    proxy_lr: float = 0.1  # of the proxies
    batch_size: int = 32  # embedded points per step, for which the learning rates are meant
    augment: bool = True  # random affine changes of the training images
    batch_norm: bool = False  # of the embedding
    normalize: bool = True  # bring embeddings to unit length at evaluation

    @cached_property
    def options(self) -> dict[str, object]:
        """Every option with its default; the docstrings of objective and loss explain them."""
        return {name: parameter.default for name, parameter in self.parameters.items()}

    @cached_property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """Every option with its type, too."""
        found, new = _keywords(self.objective) | _keywords(self.loss), inspect.Parameter
        return found | {
            n: found.get(n, new(n, new.KEYWORD_ONLY)).replace(default=v)
            for n, v in self.defaults.items()
        }

    def code(self) -> list[Callable]:
        """The definitions that make this method what it is, for the cache's fingerprint."""
        return [getattr(self.objective, "func", self.objective), *filter(None, [self.loss])]


def _keywords(function: Callable | None) -> dict[str, inspect.Parameter]:
    """Keyword-only parameters, but for the loss and what a partial fixes."""
    if function is None:
        return {}
    fixed = {"loss", *getattr(function, "keywords", {})}
    found = inspect.signature(function).parameters.values()
    return {p.name: p for p in found if p.kind is p.KEYWORD_ONLY and p.name not in fixed}


def proxies_by_label(
    labels: Tensor,
    dim: int,
    generator: torch.Generator,
    *,
    ratio: float = 1.0,
    assignment: str = "static",
    n_triplets: int = 0,
    n_triplet_negatives: int = 32,
    **options,
) -> ProxyLoss:
    """A proxy objective for labelled training points.

    Args:
        labels: (N,) int64.
        dim: D, width of the embedding.
        generator: source of everything random.
        ratio: proxies per label; their number is rounded.
        assignment: `"static"` (by label, fractional, or several per label: `assign_static`);
            `"dynamic"` (`DynamicProxyLoss`, from a random assignment), or with another
            re-assignment `"clusters"` or `"oracle"` (reassignment.py).
        n_triplets: 0 = the objective knows the labels and Z is all points of other labels; else
            it only gets so many triplets, drawn once.
        n_triplet_negatives: points Z of each of those.
        options: see `ProxyLoss`, and `DynamicProxyLoss` for those that only the latter has.

    Raises:
        ValueError: as in `assign_static` and `ProxyLoss`.
    """
    n_proxies = round(ratio * (int(labels.max()) + 1))
    if assignment == "static":
        vector, objective = assign_static(labels, n_proxies, generator), ProxyLoss
        for name in _keywords(DynamicProxyLoss):
            options.pop(name, None)
    else:
        vector = assign_random(len(labels), n_proxies, generator)
        objective = DynamicProxyLoss if assignment == "dynamic" else ClusterProxyLoss
        if assignment == "oracle":
            objective = partial(OracleProxyLoss, truth=labels)
    triplets = None
    if n_triplets:
        triplets = draw_triplets(labels, n_triplets, n_triplet_negatives, generator)
        labels = None
    return objective(vector, dim, generator, labels, triplets, n_proxies, **options)


# Its options are also those of the objectives it chooses from, but for `sparse`: a run has one
# optimiser, for network and proxies, and the network's gradient is dense.
_own = list(inspect.signature(proxies_by_label).parameters.values())[:-1]
_all = _keywords(ProxyLoss) | _keywords(DynamicProxyLoss)
_passed = [parameter for name, parameter in _all.items() if name != "sparse"]
proxies_by_label.__signature__ = inspect.Signature([*_own, *_passed])

PROXY_LR = Axis(("proxy_lr",), (0.005, 0.02, 0.05, 0.1, 0.2, 0.4))
_NORMS = Axis(("embedding_norm", "proxy_norm"), (1.0, 2.0, 3.0, 4.0, 6.0))
_NORM = Axis(("embedding_norm",), (1.0, 2.0, 3.0, 4.0, 6.0))
_WEIGHT_DECAY = Axis(("weight_decay",), (0.0, 1e-4, 1e-3))
_FREE = {"embedding_norm": None, "proxy_norm": None}
_DYNAMIC = {"assignment": "dynamic", "n_triplets": 64_000, "reassign_every": 25}
_DYNAMIC |= {"restart_dead": True}
_PER_CLASS = Axis(("per_class",), (2, 4, 8))


def _successor(label: str, loss: str, color: int, marker: str, **defaults) -> Method:
    """A loss of pytorch-metric-learning; A1 leaves it alone, 09 tunes its learning rates."""
    learns = "per_class" not in defaults  # vectors, in place of proxies
    objective = partial(PeerLoss, loss=loss)
    return Method(label, objective, None, color, marker, (), defaults, learns, starts=())


# Defaults were chosen on the tuning characters of kanji, batch 32, 3,000 steps, one seed: with and
# without augmentation × two values of what matters most (l2, margin, norm, γ, or lr), for every
# method. Not from that grid: Proxy-Triplet's norms and lifted's `normalize` (a few more runs
# there), and Proxy-NCA's norms of 3, kept although 4 came out 0.4 points better: noise.
METHODS: dict[str, Method] = {
    "proxy_nca": Method(
        "Proxy-NCA", proxies_by_label, nca_loss, 0, "o", (_NORMS, PROXY_LR), has_proxies=True
    ),
    # As the patent trained: lengths are learned, too.
    "proxy_nca_free": Method(
        "Proxy-NCA, free norms",
        proxies_by_label,
        nca_loss,
        9,
        "h",
        (PROXY_LR, _WEIGHT_DECAY),
        _FREE,
        has_proxies=True,
        batch_norm=True,  # from a random start it hardly trains without
    ),
    "proxy_triplet": Method(
        "Proxy-Triplet",
        proxies_by_label,
        mean_triplet_loss,
        1,
        "s",
        (Axis(("margin",), (0.1, 0.3, 1.0, 2.0)), PROXY_LR),
        {"margin": 0.3, "embedding_norm": 1.0, "proxy_norm": 1.0},
        has_proxies=True,
    ),
    "npairs": Method(
        "N-pairs",
        NPairs,
        None,
        2,
        "D",
        (Axis(("l2",), (0.005, 0.02, 0.05)), Axis(("l2",), (0.002, 0.02, 0.1))),
        augment=False,
    ),
    "struct_clust": Method(
        "Struct Clust",
        StructClust,
        None,
        3,
        "^",
        (Axis(("gamma",), (0.1, 0.3, 1.0, 3.0, 10.0)), _NORM),
        augment=False,
    ),
    "lifted": Method(
        "Lifted structure",
        LiftedStructure,
        None,
        4,
        "v",
        (Axis(("margin",), (0.25, 0.5, 1.0, 2.0, 4.0)), _PER_CLASS),
        lr=2e-3,
        normalize=False,
    ),
    "semihard": Method(
        "Triplet semi-hard",
        SemiHardTriplet,
        None,
        5,
        "P",
        (Axis(("margin",), (0.1, 0.2, 0.5, 1.0)), _PER_CLASS),
        augment=False,
    ),
    "nca": Method("NCA", InstanceLoss, nca_loss, 6, "*", (_NORM, _PER_CLASS), augment=False),
    "contrastive": Method(
        "Contrastive",
        partial(InstanceLoss, squared=False),
        mean_contrastive_loss,
        7,
        "X",
        (Axis(("margin",), (0.35, 0.7, 1.0, 1.4)), Axis(("pull",), (0.03, 0.1, 0.3, 1.0))),
        {"embedding_norm": 1.0},
    ),
    "softmax": Method(
        "Softmax",
        Softmax,
        None,
        8,
        ">",
        (Axis(("proxy_lr",), (2e-4, 1e-3, 5e-3, 2e-2)), _WEIGHT_DECAY),
        is_reference=True,
        starts=("random",),
        proxy_lr=1e-3,
    ),
    # From triplets without labels and a pre-trained start; what makes it work is seen in 06.
    "dynamic": Method(
        "Proxy-NCA, dynamic",
        proxies_by_label,
        nca_loss,
        0,
        "o",
        (PROXY_LR,),
        _DYNAMIC,
        has_proxies=True,
        starts=("pretrained",),
        proxy_lr=0.02,
        augment=False,
        batch_norm=True,
    ),
    "dynamic_free": Method(
        "Proxy-NCA, dynamic, free norms",
        proxies_by_label,
        nca_loss,
        9,
        "h",
        (PROXY_LR,),
        _DYNAMIC | _FREE,
        has_proxies=True,
        starts=("pretrained",),
        proxy_lr=0.02,
        augment=False,
        batch_norm=True,
    ),
    # What came after, for 09: losses of pytorch-metric-learning with their own defaults, but for
    # the scale of its ProxyNCALoss (1 there): 9 is the product of our norms.
    "proxy_anchor": _successor("Proxy-Anchor", "ProxyAnchorLoss", 1, "D", margin=0.1, alpha=32.0),
    "soft_triple": _successor(
        "SoftTriple", "SoftTripleLoss", 2, "<", centers_per_class=10, la=20.0, margin=0.01
    ),
    "normalized_softmax": _successor(
        "Normalised softmax", "NormalizedSoftmaxLoss", 3, "p", temperature=0.05
    ),
    "sub_center_arcface": _successor(
        "Sub-center ArcFace",
        "SubCenterArcFaceLoss",
        4,
        "s",
        **{"margin": 28.6, "scale": 64.0, "sub_centers": 3},
    ),
    "multi_similarity": _successor(
        "Multi-similarity",
        "MultiSimilarityLoss",
        5,
        "d",
        **{"alpha": 2.0, "beta": 50.0, "base": 0.5, "per_class": PER_CLASS},
    ),
    "supcon": _successor("SupCon", "SupConLoss", 6, "H", temperature=0.1, per_class=PER_CLASS),
    "pml_proxy_nca": _successor("Proxy-NCA (PML)", "ProxyNCALoss", 7, "8", softmax_scale=9.0),
}
ASSIGNMENTS = ("static", "dynamic", "clusters", "oracle")
# Smallest value of an option, and whether it is allowed itself.
LOWEST = {
    **dict.fromkeys(("embedding_norm", "proxy_norm", "ratio", "gamma_decay"), (0, False)),
    **dict.fromkeys(("margin", "pull", "l2", "gamma", "n_triplets", "reassign_every"), (0, True)),
    **{"per_class": (2, True), "n_triplet_negatives": (1, True), "n_negatives": (1, True)},
    **dict.fromkeys(("alpha", "beta", "la", "scale", "softmax_scale", "temperature"), (0, False)),
    **{"base": (-1, True), "centers_per_class": (1, True), "sub_centers": (1, True)},
}
REFERENCES = tuple(name for name, method in METHODS.items() if method.is_reference)
BENCHMARK = tuple(n for n, m in METHODS.items() if "random" in m.starts and not m.is_reference)
BASELINES = tuple(name for name in BENCHMARK if not METHODS[name].has_proxies)
SUCCESSORS = tuple(n for n, m in METHODS.items() if getattr(m.objective, "func", 0) is PeerLoss)


def complete_options(method: str, options: Mapping[str, object]) -> dict[str, object]:
    """All options of a method: those given, the rest from the registry.

    Raises:
        TypeError: a value of another type.
        ValueError: an unknown method or option, or a value out of its range.
    """
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"unknown method {method!r}, expected one of {', '.join(METHODS)}")
    known = METHODS[method].options
    if unknown := sorted(options.keys() - known.keys()):
        raise ValueError(
            f"{method} has no option {', '.join(unknown)}; it has {', '.join(sorted(known))}"
        )
    parameters = METHODS[method].parameters
    return known | {name: _checked(parameters[name], value) for name, value in options.items()}


def _checked(parameter: inspect.Parameter, value: object) -> object:
    """The value of an option if its type and range are right; an int as float where one is due."""
    name, kind = parameter.name, parameter.annotation
    kind = type(parameter.default) if kind is parameter.empty else kind
    kinds = get_args(kind) or (kind,)
    if float in kinds and type(value) is int:
        value = float(value)  # 3 and 3.0 are one configuration
    if type(value) not in (type(None) if k is None else k for k in kinds):
        raise TypeError(f"{name}={value!r}: expected {getattr(kind, '__name__', kind)}")
    if name == "assignment" and value not in ASSIGNMENTS:
        raise ValueError(f"assignment={value!r}: expected one of {', '.join(ASSIGNMENTS)}")
    low, included = LOWEST.get(name, (-math.inf, True))
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}={value}: expected a finite number")
    if isinstance(value, int | float) and not (value > low or (included and value == low)):
        raise ValueError(
            f"{name}={value}: expected {'at least' if included else 'more than'} {low}"
        )
    return value


def build_objective(
    method: str, labels: Tensor, dim: int, generator: torch.Generator, **options
) -> Objective:
    """The objective of a method, its options completed from the registry.

    Args:
        method: a name in `METHODS`.
        labels, dim, generator: as in `proxies_by_label`.
        options: those of `METHODS[method].options` that shall differ.

    Raises:
        ValueError: an unknown method or option, or a value out of its range.

    Example:
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> objective = build_objective("semihard", labels, 8, torch.Generator(), per_class=2)
    """
    options = complete_options(method, options)
    entry = METHODS[method]
    if entry.loss:
        own = {name: options.pop(name) for name in _keywords(entry.loss)}
        options["loss"] = partial(entry.loss, **own)
    takes = inspect.signature(entry.objective).parameters
    given = {"dim": dim, "generator": generator}
    options |= {name: value for name, value in given.items() if name in takes}
    return entry.objective(labels, **options)

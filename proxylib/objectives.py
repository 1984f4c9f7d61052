"""What a training step minimises: the common interface, and the objectives over proxies."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from proxylib.distances import check_norm, pairwise_distance, rescale
from proxylib.fused import Negatives, Settings, fused_loss, nearest_proxy
from proxylib.losses import (
    Loss,
    includes_positive,
    mean_over_anchors,
    sums_over_negatives,
    unwrapped,
)
from proxylib.proxies import (
    SHARED,
    UNUSED,
    check_assignment,
    check_labels,
    draw_distinct,
    exclusive_label,
    init_proxies,
    negative_mask,
    negative_mask_of_points,
)
from proxylib.samplers import Stream, anchor_batches, check_triplets, triplet_batches

NORM = 3.0  # default of N_x and N_p: their product is an inverse temperature


class Objective(nn.Module):
    """A loss plus the sampler that feeds it; the only interface that `training.train` uses.

    Args:
        labels: (N,) int64 labels of the training points, every value of 0 … C−1 occurs; None if
            the objective learns from triplets.
    """

    def __init__(self, labels: Tensor | None):
        super().__init__()
        if labels is not None:
            check_labels(labels)
        self.register_buffer("labels", labels)

    def batches(self, batch_size: int, generator: torch.Generator) -> Stream:
        """Endless stream of index tuples (see samplers.py); the first entry is embedded."""
        raise NotImplementedError

    def before_step(self, step: int, embed_all: Callable[[], Tensor]) -> None:
        """Called before each step, 1, 2, …; `embed_all()` gives all training points (N, D)."""

    def forward(self, embeddings: Tensor, *batch: Tensor) -> Tensor:
        """Embeddings (B, D) of the batch's first entry, and the batch → scalar loss."""
        raise NotImplementedError

    def metrics(self) -> dict[str, float]:
        """Numbers for the training history beside the loss; none unless overridden."""
        return {}


class ProxyLoss(Objective):
    """Any loss over (x, p(y), p(Z)) instead of (x, y, Z): Algorithm 1, Eq. 7.

    With `nca_loss` this is Proxy-NCA, with `mean_triplet_loss` Proxy-Triplet. The positive proxy
    is that of the drawn positive y, the negative ones are those that serve a point of Z: all
    points of other labels, or, given `triplets`, the listed ones. The positive proxy is among
    them exactly if it serves a point of Z.

    `forward` is `compare`, then `score`. A loss that sums by proxy instead of by anchor overrides
    `score`. Where neither is overridden, Eq. 4 and the triplet hinge over all proxies at squared
    distances are computed by `fused.fused_loss`: the same up to rounding, faster, in less memory.

    Args:
        assignment: (N,) int64, the proxy of each training point; see proxies.py.
        dim: D, width of the embedding.
        generator: source of the proxies' random start, of sampled negatives and of restarts;
            None = torch's own.
        labels: (N,) int64 labels of the training points; or
        triplets: (T, 2 + K) int64 rows x, y, Z of training points, and no label at all.
        n_proxies: P; default: as many as `assignment` names.
        loss: of distances, one of losses.py with its settings fixed by `functools.partial`; None
            only where `score` is overridden.
        embedding_norm, proxy_norm: lengths N_x and N_p to which embeddings and proxies are
            rescaled before distances are taken; None leaves them free, as the patent trained.
            N_x·N_p acts as an inverse temperature and decides the result.
        squared: ‖x−p‖² (paper, section 3.1) or ‖x−p‖.
        drop_positive: never count the positive proxy as a negative. With dynamic assignment all
            points on one proxy is then a trivial optimum.
        n_negatives: k negative proxies drawn per anchor and step, without replacement; None = all.
            Only these are looked at, so a step costs no more for more proxies. In a loss that sums
            over its negatives, as NCA, each of the k drawn counts for n / k of the n there are: an
            unbiased estimate of the sum in Eq. 4. Its logarithm is too small on average (Jensen),
            less so the larger k. The hinges average over the violating ones drawn: no correction
            needed.
        shared_negatives: draw k proxies once for the whole batch, as is usual with very many
            classes: B times fewer rows to fetch. An anchor takes those that are its negatives; if
            none is, it is left out and counted. Each estimate is unbiased as before, but the
            anchors' errors are no longer independent of each other.
        sparse: the proxies' gradient holds only the rows of positives and drawn proxies, for an
            optimiser of its own, `torch.optim.SparseAdam` or SGD. Else it is dense, for any
            optimiser, and making it costs as much as there are proxies.

    Raises:
        ValueError: neither or both of labels and triplets; points without a proxy; with a
            static assignment, proxies without a point, or fewer negatives than are to be drawn;
            `shared_negatives` or `sparse` without `n_negatives`; a norm that is not positive.
        TypeError: `n_negatives` in a subclass that overrides what looks at all proxies.

    Example:
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> objective = ProxyLoss(labels, 8, labels=labels, loss=nca_loss)
        >>> loss = objective(torch.ones(2, 8), torch.tensor([0, 3]), torch.tensor([1, 2]))
    """

    is_static = True  # the assignment stays as given

    def __init__(
        self,
        assignment: Tensor,
        dim: int,
        generator: torch.Generator | None = None,
        labels: Tensor | None = None,
        triplets: Tensor | None = None,
        n_proxies: int | None = None,
        *,
        loss: Loss | None = None,
        embedding_norm: float | None = NORM,
        proxy_norm: float | None = NORM,
        squared: bool = True,
        drop_positive: bool = False,
        n_negatives: int | None = None,
        shared_negatives: bool = False,
        sparse: bool = False,
    ):
        super().__init__(labels)
        if (labels is None) == (triplets is None):
            raise ValueError("expected either labels or triplets, got both or neither")
        if loss is not None and not callable(loss):
            raise TypeError(f"loss={loss!r}: expected a function of distances, as losses.nca_loss")
        check_norm(embedding_norm, "embedding_norm")
        check_norm(proxy_norm, "proxy_norm")
        if n_proxies is None:
            n_proxies = int(assignment.max()) + 1 if len(assignment) else 0
        self.n_proxies = n_proxies
        check_assignment(assignment, self.n_proxies, labels, all_used=self.is_static)
        self.loss, self.squared, self.drop_positive = loss, squared, drop_positive
        self.embedding_norm, self.proxy_norm = embedding_norm, proxy_norm
        self.n_negatives, self.generator = n_negatives, generator
        self.shared_negatives, self.sparse = shared_negatives, sparse
        self.proxies = nn.Parameter(init_proxies(self.n_proxies, dim, generator))
        self.register_buffer("assignment", assignment.clone())
        self.register_buffer("triplets", triplets)
        for name in ("exclusive", "in_use", "n_own"):  # see `_update_exclusive`
            self.register_buffer(name, None, persistent=False)
        self.register_buffer("without_negative", torch.tensor(0))
        if triplets is not None:
            check_triplets(triplets, len(assignment))
        self._update_exclusive()
        self._check_n_negatives()

    def batches(self, batch_size: int, generator: torch.Generator) -> Stream:
        if self.labels is None:
            return triplet_batches(self.triplets.cpu(), batch_size, generator)
        return anchor_batches(self.labels.cpu(), batch_size, generator)

    def forward(
        self,
        embeddings: Tensor,
        anchors: Tensor,
        positives: Tensor,
        negatives: Tensor | None = None,
    ) -> Tensor:
        """Mean loss over the anchors that have a negative; the others are counted.

        Args:
            embeddings: (B, D) of the anchors.
            anchors: (B,) int64, which training points they are.
            positives: (B,) int64, for each a point y ≠ x of the same label.
            negatives: (B, K) int64, the points Z; only without labels.

        Returns:
            Scalar, at least float32.
        """
        if (settings := self._fused_settings()) is not None:
            self._follow(anchors, lambda: nearest_proxy(embeddings, self.proxies, settings))
            if not self._one_each:
                settings = settings._replace(negatives=self._negatives(anchors, negatives))
            positive = self.assignment[positives]
            loss, without = fused_loss(embeddings, self.proxies, positive, settings)
            if without:
                self.without_negative += without
            return loss
        if self.n_negatives is not None:
            d_pos, d_neg, mask = self._compare_sampled(embeddings, anchors, positives)
            self.without_negative += (~mask.any(1)).sum()
            return mean_over_anchors(self.loss(d_pos, d_neg, mask), mask)
        distances, positive, mask = self.compare(embeddings, anchors, positives, negatives)
        self.without_negative += (~mask.any(1)).sum()
        return self.score(distances, positive, mask)

    def compare(
        self,
        embeddings: Tensor,
        anchors: Tensor,
        positives: Tensor,
        negatives: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Distances (B, P); positive proxies (B,) int64; which are negative, (B, P) bool."""
        distances = self.distances(embeddings)  # (B, P)
        self._follow(anchors, lambda: distances.detach().argmin(1))
        return distances, *self.roles(anchors, positives, negatives)

    def distances(self, embeddings: Tensor) -> Tensor:
        """(B, D) → (B, P) distances to all proxies, both rescaled."""
        return pairwise_distance(
            rescale(embeddings, self.embedding_norm),
            rescale(self.proxies, self.proxy_norm),
            self.squared,
        )

    def roles(
        self, anchors: Tensor, positives: Tensor, negatives: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Positive proxies (B,) int64 and negative proxies (B, P) bool of the anchors."""
        positive = self.assignment[positives]  # (B,)
        mask = self._negatives(anchors, negatives)(slice(None))
        if self._hides_positive:
            mask = mask.scatter(1, positive[:, None], False)
        return positive, mask  # (B,), (B, P)

    def score(self, distances: Tensor, positive: Tensor, mask: Tensor) -> Tensor:
        """Scalar loss of what `compare` returns: Eq. 4 (or another) per anchor, then the mean."""
        if self.loss is None:
            raise TypeError("no loss: expected a function of distances, as loss=losses.nca_loss")
        d_pos = distances.gather(1, positive[:, None]).squeeze(1)  # (B,)
        return mean_over_anchors(self.loss(d_pos, distances, mask), mask)

    def _compare_sampled(
        self, embeddings: Tensor, anchors: Tensor, positives: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Distances to the positive (B,) and to proxies drawn, and which are negatives (B, K)."""
        norms = Settings(embedding_norm=self.embedding_norm, proxy_norm=self.proxy_norm)
        self._follow(anchors, lambda: nearest_proxy(embeddings, self.proxies, norms))
        positive, labels = self.assignment[positives], self.labels[anchors]  # (B,)
        k, rows = self.n_negatives, 1
        if not self.shared_negatives:  # so many more that k of them are negatives of each anchor
            k, rows = k + int(self.n_own[labels].max()) + self._hides_positive, len(anchors)
        drawn = draw_distinct(len(self.in_use), k, rows, self.generator).to(labels.device)
        drawn = self.in_use[drawn]  # (1, K) or (B, K)
        mask = negative_mask(self.exclusive[drawn], labels)  # (B, K)
        available = len(self.in_use) - self.n_own[labels]  # (B,)
        if self._hides_positive:
            mask &= drawn != positive[:, None]
            available = available - (self.exclusive[positive] == SHARED).long()
        columns, place = drawn[0], None
        if not self.shared_negatives:
            mask &= mask.cumsum(1) <= self.n_negatives
            wanted = drawn.where(mask, positive[:, None])  # the positive is fetched anyhow
            columns, place = wanted.unique(return_inverse=True)  # (U,), (B, K) places in it
        both = torch.cat([positive, columns])
        fetched = functional.embedding(both, self.proxies, sparse=self.sparse)  # (B + U, D)
        distances = pairwise_distance(
            rescale(embeddings, self.embedding_norm),
            rescale(fetched, self.proxy_norm),
            self.squared,
        )
        d_pos, d_neg = distances[:, : len(positive)].diagonal(), distances[:, len(positive) :]
        d_neg = d_neg if place is None else d_neg.gather(1, place)  # (B, K)
        if sums_over_negatives(self.loss):  # each one drawn stands for available / drawn
            taken = mask.sum(1).clamp_min(1)
            d_neg = d_neg - (available.clamp_min(1).to(d_neg) / taken).log()[:, None]
        return d_pos, d_neg, mask

    def metrics(self) -> dict[str, float]:
        """Proxies that serve a point; anchors since the last call that had no negative."""
        used = self.assignment.bincount(minlength=self.n_proxies) > 0
        without = self.without_negative.item()
        self.without_negative.zero_()
        return {"proxies_in_use": used.sum().item(), "anchors_without_negative": without}

    @property
    def _hides_positive(self) -> bool:
        """Whether the positive proxy is no negative, even if it serves a point of Z."""
        return self.drop_positive or includes_positive(self.loss)  # which adds it itself

    def _fused_settings(self) -> Settings | None:
        """What `fused_loss` needs, but for the batch; None where only `compare` and `score` do."""
        function, fixed = unwrapped(self.loss)
        known = getattr(function, "is_fused", False) and self.squared
        if not known or self.n_negatives is not None or self._overridden():
            return None
        return Settings(
            hide_positive=self._hides_positive or self._one_each,
            embedding_norm=self.embedding_norm,
            proxy_norm=self.proxy_norm,
            **{**function.__kwdefaults__, **fixed},
        )

    def _overridden(self) -> list[str]:
        """The methods that look at all proxies, and of which a subclass has its own."""
        names = ("compare", "distances", "roles", "score")
        return [n for n in names if getattr(type(self), n) is not getattr(ProxyLoss, n)]

    def _negatives(self, anchors: Tensor, negatives: Tensor | None) -> Negatives:
        """Which are negatives of the anchors, for a part of the proxies."""
        if self.labels is None:
            mask = negative_mask_of_points(self.assignment, negatives, self.n_proxies)
            return lambda part: mask[:, part]
        exclusive, labels = self.exclusive, self.labels[anchors]
        return lambda part: negative_mask(exclusive[part], labels)

    def _follow(self, anchors: Tensor, nearest: Callable[[], Tensor]) -> None:
        """Called before the roles are read; `nearest()` is each anchor's nearest proxy (B,)."""

    def _update_exclusive(self) -> None:
        """Recompute, after `assignment` changed, what follows from it and the labels.

        Whom each proxy serves (P,), which serve anybody, how many serve each label alone (C,), and
        whether, for good, each label has one proxy of its own and there is no other.
        """
        self._one_each = False
        if self.labels is not None:
            self.exclusive = exclusive_label(self.assignment, self.labels, self.n_proxies)
            self.in_use = (self.exclusive != UNUSED).nonzero().squeeze(1)
            own, n_labels = self.exclusive[self.exclusive >= 0], int(self.labels.max()) + 1
            self.n_own = own.bincount(minlength=n_labels)
            if self.is_static and n_labels == self.n_proxies:
                self._one_each = bool((self.n_own == 1).all())

    def _load_from_state_dict(self, *args) -> None:
        super()._load_from_state_dict(*args)
        self._update_exclusive()

    def _check_n_negatives(self) -> None:
        if self.n_negatives is None:
            if self.shared_negatives or self.sparse:
                raise ValueError("shared_negatives and sparse: expected n_negatives with them")
            return
        if own := self._overridden():
            raise TypeError(f"n_negatives: {type(self).__name__} has its own {', '.join(own)}")
        if self.labels is None:
            raise ValueError(
                f"n_negatives={self.n_negatives}: triplets bring their own negatives; draw fewer "
                "points Z instead"
            )
        most = self.n_proxies
        if self.is_static:  # else the number changes, and an anchor takes what there is
            negatives = len(self.in_use) - self.n_own  # (C,) of each label
            if self._hides_positive:
                shares = self.labels[self.exclusive[self.assignment] == SHARED].unique()
                negatives[shares] -= 1
            most = int(negatives.min())
        if not 1 <= self.n_negatives <= most:
            raise ValueError(
                f"n_negatives={self.n_negatives}: expected 1 … {most}, the negative proxies that "
                "every anchor has"
            )

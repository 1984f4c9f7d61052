"""What a training step minimises: the common interface, and the objectives over proxies."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from proxylib.losses import LOSSES, anchor_loss, pairwise_distance, rescale
from proxylib.proxies import (
    SHARED,
    UNUSED,
    assign_nearest,
    check_assignment,
    check_labels,
    exclusive_label,
    init_proxies,
    negative_mask,
    negative_mask_of_points,
    sample_negatives,
)
from proxylib.samplers import (
    Stream,
    anchor_batches,
    check_triplets,
    pair_batches,
    triplet_batches,
)


class Objective(nn.Module):
    """A loss together with the batches it needs. `training.train` knows nothing else of it.

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

    def before_step(self, step: int, embed: Callable[[], Tensor]) -> None:
        """Called before each step, 1, 2, …; `embed()` gives all training points (N, D)."""

    def forward(self, embeddings: Tensor, *batch: Tensor) -> Tensor:
        """Embeddings (B, D) of the batch's first entry, and the batch → scalar loss."""
        raise NotImplementedError

    def metrics(self) -> dict[str, float]:
        """What the training history should tell beside the loss."""
        return {}


@dataclass(frozen=True)
class Dynamic:
    """Dynamic assignment (method 1000): points follow their nearest proxy.

    The points of a batch are re-assigned at every step, all points at an interval. The defaults
    are the patent's rule; `restart_dead` departs from it, to keep proxies from dying out.

    Attributes:
        reassign_every: steps between exact re-assignments of the whole training set (1016), each
            of which embeds it; 0 = the batch's points only.
        start: `"nearest"`, or `"random"` to keep the assignment given at the start (1004).
        restart_dead: at each re-assignment, proxies that no point is nearest to move to the
            embeddings of random points. A dead proxy is nobody's positive or negative, so it gets
            no gradient and would stay dead, while the living ones serve more and more labels.

    Raises:
        ValueError: a value out of its range.
    """

    reassign_every: int = 100
    start: str = "nearest"
    restart_dead: bool = False

    def __post_init__(self):
        if self.start not in ("nearest", "random"):
            raise ValueError(f"start={self.start!r}: expected 'nearest' or 'random'")
        if self.reassign_every < (1 if self.restart_dead else 0):
            raise ValueError(
                f"reassign_every={self.reassign_every}: expected 0 or more steps, and 1 or more "
                "for restart_dead"
            )


class ProxyLoss(Objective):
    """Any tuple loss over (x, p(y), p(Z)) instead of (x, y, Z): Algorithm 1, Eq. 7.

    With `loss="nca"` this is Proxy-NCA, with `"triplet"` Proxy-Triplet. The positive proxy is
    that of the drawn positive y, the negative ones are those that serve a point of Z: all points
    of other labels, or, given `triplets`, the listed ones. The positive proxy is among them
    exactly if it serves a point of Z.

    Args:
        assignment: (N,) int64, the proxy of each training point; see proxies.py.
        dim: D, width of the embedding.
        generator: source of the proxies' random start, of sampled negatives and of restarts.
        labels: (N,) int64 labels of the training points; or
        triplets: (T, 2 + K) int64 rows x, y, Z of training points, and no label at all.
        n_proxies: P; default: as many as `assignment` names.
        loss: `"nca"`, `"triplet"` or `"contrastive"`.
        margin: M of the hinges, in the unit of the distances.
        embedding_norm, proxy_norm: lengths N_x and N_p to which embeddings and proxies are
            rescaled before distances are taken; None leaves them free, as the patent trained.
            N_x·N_p acts as an inverse temperature and decides the result.
        squared: ‖x−p‖² (paper, section 3.1) or ‖x−p‖.
        include_positive: see `nca_loss`.
        drop_positive: never count the positive proxy as a negative. With dynamic assignment all
            points on one proxy is then a trivial optimum.
        n_negatives: negative proxies drawn per anchor and step; None = all. For `"nca"` each
            counts for n / k of the n there are: an unbiased estimate of the sum in Eq. 4. Its
            logarithm is too small on average (Jensen), less so the larger k. The hinges average
            over the violating ones drawn, which needs no correction.
        dynamic: None = the assignment stays as given.

    Raises:
        ValueError: neither or both of labels and triplets; points without a proxy; with a
            static assignment, proxies without a point, or fewer negatives than are to be drawn.

    Example:
        >>> labels = torch.tensor([0, 0, 1, 1])
        >>> objective = ProxyLoss(labels, 8, torch.Generator().manual_seed(0), labels=labels)
        >>> loss = objective(torch.ones(2, 8), torch.tensor([0, 3]), torch.tensor([1, 2]))
    """

    def __init__(
        self,
        assignment: Tensor,
        dim: int,
        generator: torch.Generator,
        *,
        labels: Tensor | None = None,
        triplets: Tensor | None = None,
        n_proxies: int | None = None,
        loss: str = "nca",
        margin: float = 1.0,
        embedding_norm: float | None = 3.0,
        proxy_norm: float | None = 3.0,
        squared: bool = True,
        include_positive: bool = False,
        drop_positive: bool = False,
        n_negatives: int | None = None,
        dynamic: Dynamic | None = None,
    ):
        super().__init__(labels)
        if (labels is None) == (triplets is None):
            raise ValueError("expected either labels or triplets, got both or neither")
        if loss not in LOSSES:
            raise ValueError(f"unknown loss {loss!r}, expected one of {', '.join(LOSSES)}")
        if loss == "contrastive" and squared:
            raise ValueError("the contrastive loss takes unsquared distances: set squared=False")
        self.n_proxies = int(assignment.max()) + 1 if n_proxies is None else n_proxies
        check_assignment(assignment, self.n_proxies, labels, all_used=dynamic is None)
        self.loss, self.margin, self.include_positive = loss, margin, include_positive
        self.embedding_norm, self.proxy_norm, self.squared = embedding_norm, proxy_norm, squared
        self.drop_positive, self.n_negatives = drop_positive, n_negatives
        self.dynamic, self.generator = dynamic, generator
        self.proxies = nn.Parameter(init_proxies(self.n_proxies, dim, generator))
        self.register_buffer("assignment", assignment.clone())
        self.register_buffer("triplets", triplets)
        self.register_buffer("exclusive", None)
        self.register_buffer("without_negative", torch.tensor(0))
        if triplets is not None:
            check_triplets(triplets, len(assignment))
        self._assigned()
        if n_negatives is not None:
            self._check_n_negatives()

    def batches(self, batch_size: int, generator: torch.Generator) -> Stream:
        if self.labels is None:
            return triplet_batches(self.triplets.cpu(), batch_size, generator)
        if self.dynamic is not None:
            return pair_batches(self.labels.cpu(), batch_size, generator)
        return anchor_batches(self.labels.cpu(), batch_size, generator)

    def before_step(self, step: int, embed: Callable[[], Tensor]) -> None:
        """Initial assignment (1002, 1004), re-assignment of all points (1016)."""
        if (dynamic := self.dynamic) is None:
            return
        if step == 1:
            if dynamic.start == "nearest":
                self.reassign(embed())
        elif dynamic.reassign_every and (step - 1) % dynamic.reassign_every == 0:
            self.reassign(embed())

    @torch.no_grad()
    def reassign(self, embeddings: Tensor) -> None:
        """Every training point to its nearest proxy (1016), given all embeddings (N, D)."""
        self.assignment = self._nearest(embeddings)
        if self.dynamic and self.dynamic.restart_dead:
            dead = self.assignment.bincount(minlength=self.n_proxies) == 0
            self._move(dead.nonzero().flatten(), embeddings)
            self.assignment = self._nearest(embeddings)
        self._assigned()

    def _nearest(self, embeddings: Tensor) -> Tensor:
        return assign_nearest(
            rescale(embeddings.to(self.proxies.device), self.embedding_norm),
            rescale(self.proxies, self.proxy_norm),
        )

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
        distances = pairwise_distance(
            rescale(embeddings, self.embedding_norm),
            rescale(self.proxies, self.proxy_norm),
            self.squared,
        )
        if self.dynamic is not None:  # 1016, for the points at hand
            self.assignment[anchors] = distances.detach().argmin(1)
            self._assigned()
        positive = self.assignment[positives, None]
        d_pos, d_neg = distances.gather(1, positive).squeeze(1), distances
        if self.labels is None:
            mask = negative_mask_of_points(self.assignment, negatives, self.n_proxies)
        else:
            mask = negative_mask(self.exclusive, self.labels[anchors])
        if self.drop_positive:
            mask = mask.scatter(1, positive, False)
        if self.n_negatives is not None:
            available = mask.sum(1, keepdim=True)
            chosen, mask = sample_negatives(mask, self.n_negatives, self.generator)
            d_neg = distances.gather(1, chosen)
            if self.loss == "nca":  # each one drawn stands for available / drawn of them
                drawn = mask.sum(1, keepdim=True)
                d_neg = d_neg - (available.clamp_min(1) / drawn.clamp_min(1)).log()
        losses = anchor_loss(self.loss, d_pos, d_neg, mask, self.margin, self.include_positive)
        has_negative = mask.any(1)
        self.without_negative += (~has_negative).sum()
        return (losses * has_negative).sum() / has_negative.sum().clamp_min(1)

    def metrics(self) -> dict[str, float]:
        """Proxies that serve a point; anchors since the last call that had no negative."""
        used = self.assignment.bincount(minlength=self.n_proxies) > 0
        without = self.without_negative.item()
        self.without_negative.zero_()
        return {"proxies_in_use": used.sum().item(), "anchors_without_negative": without}

    @torch.no_grad()
    def _move(self, which: Tensor, embeddings: Tensor) -> None:
        """These proxies go to the embeddings of random points."""
        chosen = torch.randperm(len(embeddings), generator=self.generator)[: len(which)]
        start = embeddings[chosen].to(self.proxies)
        if self.proxy_norm is not None:
            # Only the direction counts, but the length sets how fast the optimiser turns it:
            # the same as that of a random start.
            start = rescale(start, start.shape[1] ** 0.5)
        self.proxies[which] = start

    def _assigned(self) -> None:
        """What follows from a new assignment."""
        if self.labels is not None:
            self.exclusive = exclusive_label(self.assignment, self.labels, self.n_proxies)

    def _check_n_negatives(self) -> None:
        if self.labels is None:
            raise ValueError(
                f"n_negatives={self.n_negatives}: triplets bring their own negatives; draw fewer "
                "points Z instead"
            )
        most = self.n_proxies
        if self.dynamic is None:  # else the number changes, and an anchor takes what there is
            own = self.exclusive[self.exclusive >= 0].bincount(minlength=1)
            most = int((self.exclusive != UNUSED).sum() - own.max())
            most -= self.drop_positive and bool((self.exclusive == SHARED).any())
        if not 1 <= self.n_negatives <= most:
            raise ValueError(
                f"n_negatives={self.n_negatives}: expected 1 … {most}, the negative proxies that "
                "every anchor has"
            )

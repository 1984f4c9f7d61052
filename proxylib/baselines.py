"""The tuple methods that the patent compares with, and plain classification.

Tuple methods take batches of classes × instances (`class_batches`). Shapes: B points in a batch,
M pairs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from proxylib.distances import check_norm, pairwise_distance, rescale
from proxylib.losses import Loss, mean_over_anchors, triplet_loss
from proxylib.objectives import NORM, Objective
from proxylib.samplers import Stream, anchor_batches, class_batches

PER_CLASS = 4  # default number of points of each class in a batch


class BatchObjective(Objective):
    """Common part of the tuple methods.

    Args:
        labels: (N,) int64 labels of the training points.
        per_class: points of each class in a batch.
        embedding_norm: length to which embeddings are rescaled; None = free.
    """

    def __init__(self, labels: Tensor, per_class: int, embedding_norm: float | None):
        super().__init__(labels)
        check_norm(embedding_norm, "embedding_norm")
        self.per_class, self.embedding_norm = per_class, embedding_norm

    def batches(self, batch_size: int, generator: torch.Generator) -> Stream:
        return class_batches(self.labels.cpu(), batch_size, self.per_class, generator)

    def forward(self, embeddings: Tensor, points: Tensor) -> Tensor:
        """Scalar loss of a batch: embeddings (B, D) of the training points (B,) int64."""
        return self.batch_loss(rescale(embeddings, self.embedding_norm), self.labels[points])

    def batch_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss of rescaled embeddings (B, D) with labels (B,)."""
        raise NotImplementedError


def positive_pairs(labels: Tensor, ordered: bool = True) -> tuple[Tensor, Tensor]:
    """Pairs of equal label as places in the batch (M,), (M,): (a, p) and (p, a), or a < p only."""
    same = labels[:, None] == labels
    same = same.fill_diagonal_(False) if ordered else same.triu(1)
    return same.nonzero(as_tuple=True)


class InstanceLoss(BatchObjective):
    """The instance loss L(x, y, Z): the same functions as `ProxyLoss`, over points.

    Mean over all ordered positive pairs (x, y) of the batch; Z = its points of other labels.
    With `nca_loss` the patent's Eq. 4, with `mean_triplet_loss` Eq. 3 over all triplets of the
    batch, with `mean_contrastive_loss` and unsquared distances the pairs of Hadsell et al. 2006.

    Args:
        labels, per_class: as in `BatchObjective`.
        loss, squared: as in `ProxyLoss`.
        embedding_norm: length N_x of the embeddings; None = free. N_x² is the inverse
            temperature of the NCA loss.
    """

    def __init__(
        self,
        labels: Tensor,
        *,
        loss: Loss,
        squared: bool = True,
        per_class: int = PER_CLASS,
        embedding_norm: float | None = NORM,
    ):
        super().__init__(labels, per_class, embedding_norm)
        self.loss, self.squared = loss, squared

    def batch_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        distances = pairwise_distance(embeddings, embeddings, self.squared)  # (B, B)
        anchor, positive = positive_pairs(labels)  # (M,), (M,)
        mask = (labels[:, None] != labels).index_select(0, anchor)  # (M, B)
        losses = self.loss(distances[anchor, positive], distances.index_select(0, anchor), mask)
        return mean_over_anchors(losses, mask)


class SemiHardTriplet(BatchObjective):
    """Triplet loss with semi-hard negatives (Schroff et al. 2015, FaceNet).

    Mean over all ordered positive pairs (a, p) of [M + D_ap − D_an]₊ with squared distances of
    normalised embeddings. The negative n is the nearest one with D_an > D_ap; if there is none,
    the farthest.

    Args:
        labels, per_class: as in `BatchObjective`.
        margin: M; 0.2 in the source, which trained on faces.
    """

    def __init__(self, labels: Tensor, *, margin: float = 0.5, per_class: int = PER_CLASS):
        super().__init__(labels, per_class, embedding_norm=1.0)
        self.margin = margin

    def batch_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        distances = pairwise_distance(embeddings, embeddings)
        anchor, positive = positive_pairs(labels)
        d_pos, d_neg = distances[anchor, positive], distances.index_select(0, anchor)
        is_negative = (labels[:, None] != labels).index_select(0, anchor)
        is_beyond = is_negative & (d_neg > d_pos[:, None])
        nearest_beyond = d_neg.masked_fill(~is_beyond, torch.inf).argmin(1, keepdim=True)
        farthest = d_neg.masked_fill(~is_negative, -torch.inf).argmax(1, keepdim=True)
        chosen = torch.where(is_beyond.any(1, keepdim=True), nearest_beyond, farthest)
        has_negative = is_negative.any(1, keepdim=True)
        losses = triplet_loss(d_pos, d_neg.gather(1, chosen), self.margin, has_negative)
        return losses.sum() / has_negative.sum().clamp_min(1)


class LiftedStructure(BatchObjective):
    """Lifted structured embedding (Oh Song et al. 2016, Eq. 4 there).

    J = 1/(2|P|) Σ_P [J_ij]₊² over the unordered positive pairs (i, j), with
    J_ij = log(Σ_{k∈N(i)} e^{M−D_ik} + Σ_{l∈N(j)} e^{M−D_jl}) + D_ij, D unsquared.

    Args:
        labels, per_class: as in `BatchObjective`.
        margin: M, 1 in the source.
        embedding_norm: None = free, as in the source.
    """

    def __init__(
        self,
        labels: Tensor,
        *,
        margin: float = 1.0,
        per_class: int = PER_CLASS,
        embedding_norm: float | None = None,
    ):
        super().__init__(labels, per_class, embedding_norm)
        self.margin = margin

    def batch_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        distances = pairwise_distance(embeddings, embeddings, squared=False)
        i, j = positive_pairs(labels, ordered=False)
        is_negative = labels[:, None] != labels
        if not len(i) or not is_negative.any():
            return (distances * 0).sum()
        # Of two points of one label both or neither have negatives, and here every label has.
        near = (self.margin - distances).masked_fill(~is_negative, -torch.inf).logsumexp(1)
        losses = torch.relu(torch.logaddexp(near[i], near[j]) + distances[i, j]).square()
        return losses.mean() / 2


class NPairs(BatchObjective):
    """Multi-class N-pair loss (Sohn 2016): N classes with an anchor and a positive each.

    1/N Σ_i log(1 + Σ_{j≠i} exp(f_iᵀf_j⁺ − f_iᵀf_i⁺)) + λ · mean ‖f‖² over all 2N embeddings. The
    l2 term stands in for a norm: it keeps the inner products from growing without end.

    Args:
        labels: as in `BatchObjective`.
        l2: λ.
        embedding_norm: None = free, as in the source.
    """

    per_class = 2

    def __init__(self, labels: Tensor, *, l2: float = 0.02, embedding_norm: float | None = None):
        super().__init__(labels, self.per_class, embedding_norm)
        self.l2 = l2

    def batch_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        of_anchor, of_positive = labels[::2], labels[1::2]
        if len(labels) % 2 or (of_anchor != of_positive).any():
            raise ValueError(
                f"N-pairs: expected anchor, positive, anchor, positive, …, got labels "
                f"{labels[:10].tolist()}"
            )
        logits = embeddings[::2] @ embeddings[1::2].T
        target = torch.arange(len(logits), device=logits.device)
        size = embeddings.square().sum(1).mean()
        return functional.cross_entropy(logits, target) + self.l2 * size


class Softmax(Objective):
    """Plain classification: softmax cross-entropy of a linear classifier on the embedding.

    Args:
        labels: (N,) int64 labels of the training points.
        dim: D, width of the embedding.
    """

    def __init__(self, labels: Tensor, dim: int):
        super().__init__(labels)
        self.classifier = nn.Linear(dim, int(labels.max()) + 1)

    def batches(self, batch_size: int, generator: torch.Generator) -> Stream:
        return anchor_batches(self.labels.cpu(), batch_size, generator)

    def forward(self, embeddings: Tensor, points: Tensor, *_: Tensor) -> Tensor:
        """Scalar loss of a batch: embeddings (B, D) of the training points (B,) int64."""
        return functional.cross_entropy(self.classifier(embeddings), self.labels[points])

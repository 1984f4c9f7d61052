"""Structured clustering by facility location (Oh Song et al. 2017), the strongest baseline."""

import torch
from torch import Tensor
from torch.nn import functional

from proxylib.baselines import PER_CLASS, BatchObjective
from proxylib.distances import pairwise_distance

TIE = 1e-5  # scores closer than this are equal: sums of distances, in float32
DECAY_STEPS = 100  # between two decays of γ
SWAPS = 2  # passes of PAM over the medoids, each exchanged for the best point


class StructClust(BatchObjective):
    """Structured clustering by facility location (Oh Song et al. 2017).

    [max_S {F(X, S) + γ (1 − NMI(S))} − F̃]₊ with F(X, S) = −Σ_i min_{j∈S} ‖f_i − f_j‖ over sets S
    of as many medoids as the batch has classes, and F̃ = Σ_k max_{j∈class k} F(X_k, {j}). The
    maximum is found greedily and refined by swaps of medoids (PAM); the assignment of points to
    medoids is constant for the gradient. NMI is that of the evaluation (Eq. 8).

    Args:
        labels, per_class: as in `BatchObjective`.
        gamma: γ, the "margin multiplier" of the patent (section 4 of the paper).
        gamma_decay: factor on γ after every `DECAY_STEPS` steps, 0.94 in the patent.
        embedding_norm: length of the embeddings; None = free.
    """

    def __init__(
        self,
        labels: Tensor,
        *,
        gamma: float = 1.0,
        gamma_decay: float = 0.94,
        per_class: int = PER_CLASS,
        embedding_norm: float | None = 1.0,
    ):
        super().__init__(labels, per_class, embedding_norm)
        self.gamma, self.gamma_decay, self.current_gamma = gamma, gamma_decay, gamma

    def before_step(self, step: int, embed_all) -> None:
        self.current_gamma = self.gamma * self.gamma_decay ** ((step - 1) // DECAY_STEPS)

    def batch_loss(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        distances = pairwise_distance(embeddings, embeddings, squared=False)
        labels = labels.unique(return_inverse=True)[1]
        n_classes = int(labels.max()) + 1
        with torch.no_grad():
            fixed = distances.clone().fill_diagonal_(0)
            medoids = worst_medoids(fixed, labels, self.current_gamma)
            cluster = fixed[:, medoids].argmin(1)
            margin = self.current_gamma * (1 - batch_nmi(cluster[:, None], labels, n_classes)[0])
            # The best medoid of each class: the least sum of distances within the class.
            within = (fixed * (labels[:, None] == labels)).sum(0)
            in_class = labels == torch.arange(n_classes, device=labels.device)[:, None]
            oracle = within.masked_fill(~in_class, torch.inf).argmin(1)
        # A medoid's distance to itself is 0 and has no gradient.
        points = torch.arange(len(labels), device=labels.device)
        to_medoid, to_oracle = medoids[cluster], oracle[labels]
        score = -(distances[points, to_medoid] * (points != to_medoid)).sum()
        score_oracle = -(distances[points, to_oracle] * (points != to_oracle)).sum()
        return torch.relu(score + margin - score_oracle)


def worst_medoids(distances: Tensor, labels: Tensor, gamma: float, swaps: int = SWAPS) -> Tensor:
    """Medoids S that (nearly) maximise F(X, S) + γ (1 − NMI): loss-augmented inference.

    All B candidates for a medoid are scored at once, so the loops run over medoids only.

    Args:
        distances: (B, B), 0 on the diagonal.
        labels: (B,) int64 0 … K−1.
        gamma: γ.
        swaps: passes of PAM refinement.

    Returns:
        (K,) int64 points of the batch.
    """
    n_classes = int(labels.max()) + 1
    medoids = torch.empty(n_classes, dtype=torch.int64, device=labels.device)

    def best_candidate(others: Tensor, slot: int) -> tuple[Tensor, Tensor]:
        """The point that serves best beside the other medoids, and the score with it."""
        held, place = functional.pad(distances[:, others], (0, 1), value=torch.inf).min(1)
        place = place + (place >= slot)  # the candidate's own cluster is `slot`
        moves = distances < held[:, None]  # (point, candidate)
        score = -torch.where(moves, distances, held[:, None]).sum(0)
        clusters = torch.where(moves, slot, place[:, None])
        score = score + gamma * (1 - batch_nmi(clusters, labels, n_classes))
        score[others] = -torch.inf
        # Two points that make a cluster serve it equally well. Let the order of the batch decide
        # between them, not the last bit.
        candidate = (score > score.max() - TIE).int().argmax()
        return candidate, score[candidate]

    for k in range(n_classes):
        medoids[k], value = best_candidate(medoids[:k], k)
    for _ in range(swaps):
        before = value
        for k in range(n_classes):
            others = torch.cat([medoids[:k], medoids[k + 1 :]])
            candidate, swapped = best_candidate(others, k)
            if swapped > value + TIE:
                medoids[k], value = candidate, swapped
        if value == before:
            break
    return medoids


def batch_nmi(clusters: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """NMI (Eq. 8) of several clusterings of the same points with their labels.

    Args:
        clusters: (B, R) int64 0 … K−1, one clustering a column.
        labels: (B,) int64 0 … K−1.
        n_classes: K.

    Returns:
        (R,) float32; 1 if there is only one class and one cluster.
    """

    def entropy(cells: Tensor, n_cells: int) -> Tensor:
        """−Σ p log p over the cells of each column is the mean of −log p over its points."""
        cells = cells + n_cells * torch.arange(cells.shape[1], device=cells.device)
        return -(cells.flatten().bincount()[cells] / len(cells)).log().mean(0)

    of_cluster, of_label = entropy(clusters, n_classes), entropy(labels[:, None], n_classes)
    joint = entropy(clusters * n_classes + labels[:, None], n_classes**2)
    total = of_cluster + of_label
    return torch.where(total > 0, 2 * (total - joint) / total, 1.0)

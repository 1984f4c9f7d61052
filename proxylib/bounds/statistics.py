"""Exact statistics of the bounds over all triplets of a data set, without enumerating them.

Every sum here is over the triplets (x, y, z) in which y ≠ x has the label of x and z has another.
Per anchor, every statistic is a count of pairs (y, z) with u_y > v_z, or a sum of [u_y − v_z]₊:
sort v once and find each u by binary search, O(N log N). What depends on the proxies only is
computed once for each (x, p_y, p_z) and weighted with the number of triplets that share it (Eq. 7).
"""

import math
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from proxylib.bounds.inequalities import TOLERANCE, allowance, check_margin, inverse_norms
from proxylib.bounds.triplets import proxy_errors, unit

_CHUNK = 1_000_000  # elements of the largest temporary matrix: 8 MB
_CHECKED = ("published", "corrected")
_SQUARED = {"squared": 1.0, "half": 0.5}
_TIE, _ANGLE_TIE = 1e-12, 1e-7  # rounding of distances, and of an arc cosine near 0


@torch.inference_mode()
def bound_statistics(
    embeddings: Tensor,
    labels: Tensor,
    proxies: Tensor,
    assignment: Tensor,
    *,
    margin: float = 1.0,
    embedding_norm: float | None = None,
    proxy_norm: float | None = None,
    distance: str = "squared",
    max_anchors: int | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """Both sides of every bound over all triplets of a data set, in one flat row.

    Embeddings and proxies of any length are re-scaled to the unit sphere first, as the patent does
    to judge its bounds. Anchors are taken in chunks, in float64 on one thread of the CPU,
    which changes no result: O(N² log N) time and below 100 MB beside the inputs. 1.5·10⁸ triplets
    of 3,200 points with 200 proxies take 2 s.

    Args:
        embeddings: (N, D) of the training points; labels: (N,) int64; proxies: (P, D);
            assignment: (N,) int64, see `proxylib.proxies`.
        margin: M ≥ 0 of the triplet loss, in units of the distance.
        embedding_norm, proxy_norm: N_x and N_p of the training; None = free, taken as 1.
        distance: `"squared"` ‖·‖² or `"half"` ½‖·‖².
        max_anchors: at most so many anchors, drawn by `seed`; their y and z, and ε, are still
            over all points. None = all.

    Returns:
        Floats; a `*_violations` is a number of triplets (of pairs (x, y) for NCA).
        - `exact` 1 or 0 (anchors were sampled), `anchors`, `triplets`, `alpha`, `epsilon` (max)
          and `epsilon_mean`, both of ‖·‖².
        - `ranking_gap` (mean), `ranking_gap_max`, and what is allowed: `ranking_allowed_own` (mean
          over triplets), `ranking_allowed_*`, `ranking_violations_*` for `*` in published,
          corrected.
        - `order_left`, the share of triplets in wrong order, `order_proxy`, the same by proxies,
          and `order_right_*` the two right sides of the expected ranking bound.
        - `nca_left`, `nca_right_*`, `nca_slack_*` (means), `nca_min_slack_*`, `nca_violations_*`:
          Z is all points of other labels, and p(Z) has one entry for each.
        - `nca_right_distinct`: the corrected right side written with the loss that training
          minimises, in which each negative proxy occurs once, however many points it serves.
          In place of (1−α)·log|Z| it then needs (1−α)·log Σ_j n_j^{1/(1−α)} (Hölder).
        - `triplet_*`: as `nca_*`.
        - `certified_worst`, `_own`, `_angle`: share of the triplets of which the proxies alone
          prove d(x,y) < d(x,z), from ε; from each point's own error; and from it by the triangle
          inequality of angles, the most that these numbers can prove.

    Raises:
        ValueError: no triplets (each label has one point, or there is one label), α > 1, M < 0,
            max_anchors < 1, shapes that don't match, or vectors without direction.

    Example:
        >>> points, labels = torch.eye(4), torch.tensor([0, 0, 1, 1])
        >>> row = bound_statistics(points, labels, proxies=torch.eye(4)[[0, 2]], assignment=labels)
        >>> round(row["epsilon"], 6), row["nca_violations_corrected"]
        (2.0, 0.0)
    """
    check_margin(margin)
    alpha = inverse_norms(embedding_norm, proxy_norm)
    if distance not in _SQUARED:
        raise ValueError(f"distance={distance!r}: expected 'squared' or 'half'")
    labels, assignment = labels.cpu(), assignment.cpu()
    points, proxies = unit(embeddings.cpu(), "embeddings"), unit(proxies.cpu(), "proxies")
    n, n_proxies = len(points), len(proxies)
    fits = points.ndim == proxies.ndim == 2 and points.shape[1] == proxies.shape[1]
    if not fits or labels.shape != (n,) or assignment.shape != (n,):
        raise ValueError(
            f"expected embeddings (N, D), labels (N,), proxies (P, D), assignment (N,); got "
            f"{tuple(points.shape)}, {tuple(labels.shape)}, {tuple(proxies.shape)}, "
            f"{tuple(assignment.shape)}"
        )
    classes, labels, sizes = labels.unique(return_inverse=True, return_counts=True)
    anchors = (sizes[labels] > 1).nonzero().flatten()
    if len(classes) < 2 or not len(anchors):
        raise ValueError(
            f"no triplets: {n} points in {len(classes)} labels; expected at least two labels, "
            "and one with two points or more"
        )
    if max_anchors is not None and max_anchors < 1:
        raise ValueError(f"max_anchors={max_anchors}: expected 1 or more, or None for all")
    if sampled := max_anchors is not None and max_anchors < len(anchors):
        order = torch.randperm(len(anchors), generator=torch.Generator().manual_seed(seed))
        anchors = anchors[order[:max_anchors]]
    error = proxy_errors(points, proxies, assignment, normalize=False, squared=False)
    epsilon = error.max().item() ** 2
    names = [(name, c) for name in ("ranking", "nca", "triplet") for c in _CHECKED]
    allowed = {key: allowance(*key, distance, epsilon) for key in names}
    setup = _Setup(points, proxies, assignment, error, alpha, margin, _SQUARED[distance], allowed)
    sums: dict[str, float] = defaultdict(float)
    gap_max: dict[str, float] = defaultdict(lambda: -math.inf)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # many small operations: on busy cores two threads took 30 × as long
    try:
        for label in labels[anchors].unique():
            same = labels == label
            members, others = same.nonzero()[:, 0], (~same).nonzero()[:, 0]
            n_groups = len(assignment[members].unique()) * n_proxies
            for x in anchors[same[anchors]].split(max(1, _CHUNK // max(n, n_groups))):
                _add(sums, gap_max, setup, x, members, others)
    finally:
        torch.set_num_threads(threads)
    return _row(sums, gap_max, setup, {"exact": float(not sampled), "anchors": float(len(anchors))})


@dataclass
class _Setup:
    points: Tensor
    proxies: Tensor
    assignment: Tensor
    error: Tensor  # (N,) unsquared
    alpha: float
    margin: float
    factor: float  # of ‖·‖² in the distance
    allowed: dict[tuple[str, str], float]


class _Sorted:
    """Rows v (n, K), asked about pairs with the entries of u (n, m) in the same row."""

    def __init__(self, v: Tensor):
        self.v = torch.from_numpy(np.sort(v.numpy(), axis=1))  # twice as fast as torch's

    def below(self, u: Tensor) -> Tensor:
        """How many v < u: (n, m)."""
        return torch.searchsorted(self.v, u.contiguous())

    def above(self, u: Tensor) -> Tensor:
        """How many v > u: (n, m)."""
        return self.v.shape[1] - torch.searchsorted(self.v, u.contiguous(), right=True)

    def excess(self, u: Tensor) -> Tensor:
        """Sum of [u − v]₊ over v: (n, m)."""
        count = self.below(u)
        return count * u - functional.pad(self.v.cumsum(1), (1, 0)).gather(1, count)


def _add(sums, gap_max, s: _Setup, x: Tensor, members: Tensor, others: Tensor) -> None:
    """Add the triplets of some anchors x of one label to the sums and the largest gaps.

    Letters: n anchors; y over the m members of their label, x itself with weight 0; z over the K
    others; j and k over the proxies that serve the one and the other. a = d(x, y), b = d(x, z),
    and in capitals the same to their proxies.
    """
    alpha, margin = s.alpha, s.margin
    serves_y, serves_z = s.assignment[members], s.assignment[others]
    of_y, group_y, n_y = serves_y.unique(return_inverse=True, return_counts=True)
    of_z, group_z, n_z = serves_z.unique(return_inverse=True, return_counts=True)
    cos_point, cos_proxy = s.points[x] @ s.points.T, s.points[x] @ s.proxies.T
    a, b = (s.factor * (2 - 2 * cos_point[:, i]) for i in (members, others))
    a_group, b_group = (s.factor * (2 - 2 * cos_proxy[:, i]) for i in (of_y, of_z))  # (n,j), (n,k)
    a_proxy, b_proxy = a_group[:, group_y], b_group[:, group_z]
    itself = members == x[:, None]
    weight = (~itself).double()
    n_z = n_z.double()

    def add(key: str, values: Tensor, weights: Tensor = weight) -> None:
        sums[key] += (values * weights).sum().item()

    add("pairs", weight)
    add("triplets", weight * len(others))

    # The points: order, hinge, and how far the proxies move each difference of distances.
    ordered = _Sorted(b)
    add("order_left", ordered.below(a - _TIE))  # Σ H(a − b), Eq. 2
    add("triplet_left", ordered.excess(a + margin))  # Σ [a + M − b]₊, Eq. 3
    # The gap of the ranking bound is |(a − b) − (A − B)| = |(a − A) − (b − B)|: with
    # |u − v| = 2[u − v]₊ − u + v its sum over z is again a sum of excesses.
    move_y, move_z = a - a_proxy, b - b_proxy  # (n, m), (n, K)
    ordered = _Sorted(move_z)
    gap = 2 * ordered.excess(move_y) - len(others) * move_y + move_z.sum(1, keepdim=True)
    add("ranking_gap", gap)
    for constant in _CHECKED:
        c = s.allowed["ranking", constant] + TOLERANCE
        add(f"ranking_violations_{constant}", ordered.below(move_y - c) + ordered.above(move_y + c))
    low, high = move_z.aminmax(dim=1, keepdim=True)
    largest = torch.maximum(move_y - low, high - move_y).masked_fill(itself, -math.inf)
    gap_max["ranking"] = max(gap_max["ranking"], largest.max().item())

    # Certificates: the worst y that the proxy allows is still nearer than the worst z. By Eq. 9
    # |a − A| ≤ c‖ŷ − p̂_y‖ =: reach of y, so A + reach(y) < B − reach(z) proves a < b.
    reach = 2 * s.factor * s.error  # (N,)
    add("ranking_allowed_own", len(others) * reach[members] + reach[others].sum())
    certified = _Sorted(b_proxy - reach[others]).above(a_proxy + reach[members] + _TIE)
    add("certified_own", certified)
    # The same with angles: ∠(x, y) ≤ ∠(x, p_y) + ∠(p_y, y), the latter 2·arcsin(error / 2).
    angle, turn = cos_proxy.clamp(-1, 1).arccos(), 2 * (s.error / 2).clamp_max(1).arcsin()
    angle_y, angle_z = angle[:, serves_y] + turn[members], angle[:, serves_z] - turn[others]
    add("certified_angle", _Sorted(angle_z).above(angle_y + _ANGLE_TIE))

    # The proxies: once for each (x, j, k), times n, the number of triplets in it (Eq. 7).
    share = (n_y - (of_y == s.assignment[x, None]).long())[:, :, None] * n_z  # (n, j, k)
    delta = a_group[:, :, None] - b_group[:, None]  # δ = A − B
    hinge = (delta + alpha * margin).clamp_min(0)  # αL = α[δ/α + M]₊, Prop. 4.2
    add("order_proxy", delta > _TIE, share)  # Σ n·H(A − B)
    add("triplet_right", hinge, share)
    add("certified_worst", delta < -s.allowed["ranking", "corrected"] - _TIE, share)
    for constant in _CHECKED:  # Pr[|A − B| ≤ constant] of the expected ranking bound
        near = delta.abs() <= s.allowed["ranking", constant] + TOLERANCE
        add(f"order_right_{constant}", near, share)

    # Within a group the right side of Prop. 4.2 is one number, αL + (1 − α)M; so the largest gap
    # of the group is that of its largest a and its smallest b.
    index_y, index_z = group_y.expand_as(a), group_z.expand_as(b)
    worst_a = torch.full_like(a_group, -math.inf).scatter_reduce(
        1, index_y, a.masked_fill(itself, -math.inf), "amax"
    )
    worst_b = torch.full_like(b_group, math.inf).scatter_reduce(1, index_z, b, "amin")
    floor = hinge + (1 - alpha) * margin
    gap = (worst_a[:, :, None] - worst_b[:, None] + margin).clamp_min(0) - floor
    gap = gap.masked_fill(share == 0, -math.inf)
    gap_max["triplet"] = max(gap_max["triplet"], gap.max().item())
    for constant in _CHECKED:
        c = s.allowed["triplet", constant] + TOLERANCE
        broken = gap.amax(2) > c  # (n, j); mostly nowhere, and then there is nothing to count
        for j in broken.any(0).nonzero()[:, 0]:
            rows, ys = broken[:, j], group_y == j
            limit = b[rows] + (floor[rows, j] + c - margin)[:, group_z]
            count = _Sorted(limit).below(a[rows][:, ys])
            add(f"triplet_violations_{constant}", count, weight[rows][:, ys])

    # NCA, Prop. 4.1: Z is everything of another label; one proxy term for each z, or for each
    # proxy. left = a + log Σ_z e^−b; right = αL + (1 − α)·log|Z|, L with distances A/α and B/α.
    left = a + torch.logsumexp(-b, 1, keepdim=True)
    scaled = -b_group / alpha
    right = a_proxy + alpha * torch.logsumexp(scaled + n_z.log(), 1, keepdim=True)
    right = right + (1 - alpha) * math.log(len(others))
    distinct = a_proxy + alpha * torch.logsumexp(scaled, 1, keepdim=True)
    # Hölder, the norm of order 1/(1−α): Σ n_k·e^{u_k} ≤ ‖n‖·(Σ e^{u_k/α})^α; max n for α = 1.
    norm = n_z.max().log()
    if alpha < 1:
        norm = (1 - alpha) * torch.logsumexp(n_z.log() / (1 - alpha), 0)
    add("nca_left", left)
    add("nca_right", right)
    add("nca_right_distinct", distinct + norm)
    gap = (left - right).masked_fill(itself, -math.inf)
    gap_max["nca"] = max(gap_max["nca"], gap.max().item())
    for constant in _CHECKED:
        add(f"nca_violations_{constant}", gap > s.allowed["nca", constant] + TOLERANCE)


def _row(sums: dict, gap_max: dict, s: _Setup, row: dict[str, float]) -> dict[str, float]:
    """Sums to means, and the constants on the right sides."""
    of = {key: sums["pairs" if key.startswith("nca") else "triplets"] for key in sums}
    mean = {key: total / of[key] for key, total in sums.items()}
    mean["triplet_right"] += (1 - s.alpha) * s.margin
    row |= {"triplets": sums["triplets"], "alpha": s.alpha, "margin": s.margin}
    row |= {"epsilon": s.error.max().item() ** 2, "epsilon_mean": s.error.square().mean().item()}
    row |= {"ranking_gap": mean["ranking_gap"], "ranking_gap_max": gap_max["ranking"]}
    row["ranking_allowed_own"] = mean["ranking_allowed_own"]
    for key in ("order_left", "order_proxy", "certified_worst", "certified_own", "certified_angle"):
        row[key] = mean[key]
    for constant in _CHECKED:
        row[f"order_right_{constant}"] = mean["order_proxy"] + mean[f"order_right_{constant}"]
        row[f"ranking_allowed_{constant}"] = s.allowed["ranking", constant]
        row[f"ranking_violations_{constant}"] = sums[f"ranking_violations_{constant}"]
        for name in ("nca", "triplet"):
            c, left, right = s.allowed[name, constant], mean[f"{name}_left"], mean[f"{name}_right"]
            row[f"{name}_left"] = left
            row[f"{name}_right_{constant}"] = right + c
            row[f"{name}_slack_{constant}"] = right + c - left
            row[f"{name}_min_slack_{constant}"] = c - gap_max[name]
            row[f"{name}_violations_{constant}"] = sums[f"{name}_violations_{constant}"]
    row["nca_right_distinct"] = mean["nca_right_distinct"] + s.allowed["nca", "corrected"]
    return row

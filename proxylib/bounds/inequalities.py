"""The proxy error ε, and how far a loss over proxies can be from the loss over the points.

All of it lives on the unit sphere: x̂, ŷ, ẑ are points and p̂ proxies of length 1. ε is the largest
‖ŷ − p̂(y)‖² over the points that serve as positive or negative; an anchor's own proxy plays no part.
For unit vectors d(x̂, ŷ) − d(x̂, p̂_y) = c·x̂ᵀ(p̂_y − ŷ), which is at most c‖ŷ − p̂_y‖ ≤ c√ε by
Cauchy–Schwarz (Eq. 9–11), with c = 2 if d is ‖·‖² and c = 1 if it is ½‖·‖². A triplet pays this
twice, once for its positive and once for its negative: together 4√ε or 2√ε.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proxylib.bounds.triplets import Triplets, checked
from proxylib.distances import check_norm
from proxylib.losses import nca_loss, ranking_loss, triplet_loss

TOLERANCE = 1e-9  # of `holds`: everything here is computed in float64
_PER_ERROR = {"squared": 2.0, "half": 1.0, "plain": 1.0}  # |d(x,y) − d(x,p)| ≤ this · ‖y − p‖
_CONSTANTS = ("corrected", "published", "own", "shared")


@dataclass(frozen=True)
class Bound:
    """Both sides of an inequality left ≤ right, and the conventions under which it was read.

    `allowance` is the part of `right` that pays for the proxies' error; `epsilon` is always
    max ‖ŷ − p̂(y)‖², whatever the convention. Tensors are float64.
    """

    name: str
    left: Tensor
    right: Tensor
    allowance: Tensor
    epsilon: float
    alpha: float
    distance: str
    constant: str
    epsilon_as: str

    @property
    def slack(self) -> Tensor:
        """How loose the bound is."""
        return self.right - self.left

    @property
    def holds(self) -> Tensor:
        """bool, up to `TOLERANCE` for rounding."""
        return self.slack >= -TOLERANCE

    @property
    def ratio(self) -> Tensor:
        """Actual gap / allowance: above 1 the bound is broken, at 1 it is attained."""
        return (self.left - self.right + self.allowance) / self.allowance

    def summary(self) -> dict[str, float | int | str]:
        """Counts and means over the triplets, and the conventions."""
        conventions = ("name", "distance", "constant", "epsilon_as", "epsilon", "alpha")
        return {key: getattr(self, key) for key in conventions} | {
            "checked": self.left.numel(),
            "violations": int((~self.holds).sum()),
            "left": self.left.mean().item(),
            "right": self.right.mean().item(),
            "slack": self.slack.mean().item(),
            "min_slack": self.slack.min().item(),
        }


def inverse_norms(embedding_norm: float | None, proxy_norm: float | None) -> float:
    """α = 1 / (N_x·N_p); a free norm (None) counts as 1, the unit sphere.

    A norm that is not positive raises ValueError, and α > 1: the bounds are false there.
    """
    check_norm(embedding_norm, "embedding_norm")
    check_norm(proxy_norm, "proxy_norm")
    alpha = 1 / ((embedding_norm or 1.0) * (proxy_norm or 1.0))
    if alpha > 1 + 1e-9:
        raise ValueError(
            f"α = 1/(N_x·N_p) = {alpha:.4g} from N_x={embedding_norm}, N_p={proxy_norm}: the "
            "bounds of NCA and triplet loss need α ≤ 1, that is norms whose product is at least 1"
        )
    return min(alpha, 1.0)


def ranking_bound(
    triplets: Triplets,
    *,
    distance: str = "squared",
    constant: str = "corrected",
    epsilon: float | None = None,
    epsilon_as: str | None = None,
) -> Bound:
    """|{d(x,y) − d(x,z)} − {d(x,p_y) − d(x,p_z)}| ≤ constant, for each triplet.

    Patent section 2.3, paper section 3.3. The printed 2ε is the triangle
    inequality: right for the unsquared distance with ε = max ‖·‖, wrong for ‖·‖² (4√ε).

    Args:
        triplets: unit vectors; each of the K negatives makes a triplet.
        distance: `"squared"` ‖·‖² (the paper's), `"half"` ½‖·‖² or `"plain"` ‖·‖.
        constant: `"published"`; `"corrected"`, 4√ε for ‖·‖², else 2√ε; `"own"`, the triplet's own
            errors in place of the worst, 2(‖ŷ−p̂_y‖ + ‖ẑ−p̂_z‖) for ‖·‖², else half of it;
            `"shared"`, sharper where the anchor is as near to p_y as y is, which holds with one
            proxy per label: ε covers ‖x̂−p̂_y‖² too, and 4√ε becomes 2√ε + 3ε − ε² for ε ≤ 1.
        epsilon: ε = max ‖·‖² over a larger set of points, e.g. all; None = over these triplets.
        epsilon_as: what the letter ε means in the published formula: `"squared"` max ‖·‖², `"half"`
            ½ max ‖·‖² or `"plain"` max ‖·‖. None = plain with the plain distance, else squared.

    Returns:
        `Bound` of (B, K) sides.

    Raises:
        ValueError: points off the unit sphere, no negatives, an unknown name, or `epsilon` below
            the errors of these triplets.

    Example:
        >>> x, y = torch.eye(2).split(1)
        >>> bound = ranking_bound(Triplets(x, x, y[None], y, y[None]))  # p_y is where z is
        >>> bound.left, bound.right  # |{0 − 2} − {2 − 2}| and 4√2
        (tensor([[2.0000]], dtype=torch.float64), tensor([[5.6569]], dtype=torch.float64))
    """
    distances, common = _prepare("ranking", triplets, distance, constant, epsilon, epsilon_as)
    d_pos, d_neg, proxy_pos, proxy_neg = distances
    left = ((d_pos[:, None] - d_neg) - (proxy_pos[:, None] - proxy_neg)).abs()
    return Bound(left=left, right=common["allowance"], alpha=1.0, **common)


def expected_ranking_bound(
    triplets: Triplets,
    *,
    distance: str = "squared",
    constant: str = "corrected",
    epsilon: float | None = None,
    epsilon_as: str | None = None,
) -> Bound:
    """E[L(x,y,z)] ≤ E[L(x,p_y,p_z)] + Pr[|d(x,p_y) − d(x,p_z)| ≤ constant], L the ranking loss.

    A triplet that the points get wrong and the proxies right has been moved across 0 by at most
    the constant. Arguments, sources and errors as in `ranking_bound`; the sides are scalars, the
    means over all triplets given, and `allowance` is the probability.
    """
    distances, common = _prepare("expected", triplets, distance, constant, epsilon, epsilon_as)
    d_pos, d_neg, proxy_pos, proxy_neg = distances
    near = (proxy_pos[:, None] - proxy_neg).abs() <= common["allowance"] + TOLERANCE
    common["allowance"] = near.double().mean()
    right = ranking_loss(proxy_pos, proxy_neg).mean() + common["allowance"]
    return Bound(left=ranking_loss(d_pos, d_neg).mean(), right=right, alpha=1.0, **common)


def nca_bound(
    triplets: Triplets,
    *,
    embedding_norm: float | None = None,
    proxy_norm: float | None = None,
    distance: str = "squared",
    constant: str = "corrected",
    epsilon: float | None = None,
    epsilon_as: str | None = None,
) -> Bound:
    """L̂(x,y,Z) ≤ α·L(x,p_y,p_Z) + (1−α)·log|Z| + constant, L the NCA loss of Eq. 4.

    Paper Proposition 4.1, the first of the patent's two. L̂ is over unit vectors, L over vectors
    of lengths N_x and N_p, α = 1/(N_x·N_p) ≤ 1. As ‖N_x·x̂ − N_p·p̂‖² = ‖x̂ − p̂‖²/α plus a number
    that cancels in L, only the product of the norms matters. The step to α is Hölder's
    inequality (Eq. 12). Published constant: 2√(2ε).

    Args:
        embedding_norm, proxy_norm: N_x and N_p; None = 1.
        triplets, constant, epsilon, epsilon_as: as in `ranking_bound`; `"own"` takes the largest
            error among the K negatives.
        distance: `"squared"` or `"half"`.

    Returns:
        `Bound` of (B,) sides.

    Raises:
        ValueError: as in `ranking_bound`, or α > 1.
    """
    alpha = inverse_norms(embedding_norm, proxy_norm)
    distances, common = _prepare("nca", triplets, distance, constant, epsilon, epsilon_as)
    common["allowance"] = allowance = common["allowance"].amax(1)
    d_pos, d_neg, proxy_pos, proxy_neg = distances
    loss = nca_loss(proxy_pos / alpha, proxy_neg / alpha)
    right = alpha * loss + (1 - alpha) * math.log(d_neg.shape[1]) + allowance
    return Bound(left=nca_loss(d_pos, d_neg), right=right, alpha=alpha, **common)


def triplet_bound(
    triplets: Triplets,
    *,
    margin: float,
    embedding_norm: float | None = None,
    proxy_norm: float | None = None,
    distance: str = "squared",
    constant: str = "corrected",
    epsilon: float | None = None,
    epsilon_as: str | None = None,
) -> Bound:
    """L̂(x,y,z) ≤ α·L(x,p_y,p_z) + (1−α)·M + constant, L the triplet loss of Eq. 3.

    Paper Proposition 4.2, the second of the patent's two. Published constant: 2√ε, where the proof
    adds Eq. 10 and 11 without the factor 2 that d = ‖·‖² has. M ≥ 0 is the margin, in units of the
    distance; below 0 the bound is false and refused (ValueError). Notation, other arguments and
    errors as in `nca_bound`; the sides are (B, K).
    """
    alpha = inverse_norms(embedding_norm, proxy_norm)
    check_margin(margin)
    distances, common = _prepare("triplet", triplets, distance, constant, epsilon, epsilon_as)
    d_pos, d_neg, proxy_pos, proxy_neg = distances
    loss = triplet_loss(proxy_pos / alpha, proxy_neg / alpha, margin)
    right = alpha * loss + (1 - alpha) * margin + common["allowance"]
    return Bound(left=triplet_loss(d_pos, d_neg, margin), right=right, alpha=alpha, **common)


def check_margin(margin: float) -> None:
    """Raise ValueError unless 0 ≤ M < ∞."""
    if not 0 <= margin < math.inf:
        raise ValueError(f"margin={margin}: expected M ≥ 0; below 0 the bound is false")


def allowance(
    name: str, constant: str, distance: str, epsilon: float, epsilon_as: str | None = None
) -> float:
    """The constant of a bound as a function of ε = max ‖ŷ − p̂(y)‖².

    Args:
        name: `"ranking"`, `"expected"`, `"nca"` or `"triplet"`.
        constant: `"published"`, `"corrected"` or `"shared"`.
        distance, epsilon_as: as in `ranking_bound`.
    """
    root, per_error = math.sqrt(epsilon), _PER_ERROR[distance]
    if constant == "corrected":
        return 2 * per_error * root
    if constant == "shared":
        # On a circle: x and y on either side of p_y, at the angle δ whose chord is √ε. Then
        # x̂ᵀ(p̂_y − ŷ) = √ε·sin(3δ/2) = √ε(3√ε − √ε³)/2, until 3δ/2 reaches a right angle at ε = 1.
        return per_error * (root + ((3 * epsilon - epsilon**2) / 2 if epsilon < 1 else root))
    as_ = epsilon_as or ("plain" if distance == "plain" else "squared")
    read = {"squared": epsilon, "half": epsilon / 2, "plain": root}[as_]
    return {"nca": 2 * math.sqrt(2 * read), "triplet": 2 * math.sqrt(read)}.get(name, 2 * read)


def _prepare(name, triplets, distance, constant, epsilon, epsilon_as) -> tuple[list, dict]:
    """Check what all bounds share.

    Returns the distances d(x,y) (B,), d(x,z) (B,K), d(x,p_y) (B,), d(x,p_z) (B,K), from
    differences and so exact near 0, and the fields of `Bound` that need no loss.
    """
    for value, known, what in (
        (distance, tuple(_PER_ERROR), "distance"),
        (constant, _CONSTANTS, "constant"),
        (epsilon_as, (None, *_PER_ERROR), "epsilon_as"),
    ):
        if value not in known:
            raise ValueError(f"{what}={value!r}: expected one of {known}")
    if distance == "plain" and (name in ("nca", "triplet") or constant == "shared"):
        raise ValueError(f"{name}, {constant}: expected distance 'squared' or 'half', got 'plain'")
    x, y, z, p_y, p_z = checked(triplets)
    plain = [
        torch.linalg.vector_norm(a - b, dim=-1)
        for a, b in ((x, y), (x[:, None], z), (x, p_y), (x[:, None], p_z), (y, p_y), (z, p_z))
    ]
    e_y, e_z = plain[4:]
    covered = (e_y, e_z, plain[2]) if constant == "shared" else (e_y, e_z)
    worst = max(errors.max().item() for errors in covered)
    if epsilon is None:
        epsilon = worst**2
    elif not epsilon >= max(0.0, worst - TOLERANCE / 10) ** 2:
        raise ValueError(f"epsilon={epsilon}: these triplets have errors up to {worst**2:.6g}")
    if constant == "own":
        allowed = _PER_ERROR[distance] * (e_y[:, None] + e_z)
    else:
        allowed = torch.full_like(e_z, allowance(name, constant, distance, epsilon, epsilon_as))
    power, factor = {"squared": (2, 1.0), "half": (2, 0.5), "plain": (1, 1.0)}[distance]
    return [factor * d**power for d in plain[:4]], {
        "name": name,
        "allowance": allowed,
        "epsilon": float(epsilon),
        "distance": distance,
        "constant": constant,
        "epsilon_as": epsilon_as or ("plain" if distance == "plain" else "squared"),
    }

"""Eq. 4 and the triplet hinge over all proxies, without any (B, P) or second (P, D) matrix.

Both losses compare d = ‖x̂‖² + ‖p̂‖² − 2 x̂·p̂ of proxies for one anchor x, so ‖x̂‖² cancels. What is
left of a proxy is its *value*, the larger the nearer:

    v_p = 2 x̂·p̂ − ‖p̂‖²    Eq. 4: −v_y + log Σ_z exp v_z    Eq. 3: [v_z − v_y + M]₊

and if p̂ = N_p p/‖p‖, the constant ‖p̂‖² = N_p² cancels as well: v_p = (2 x̂·p) N_p/‖p‖, a product
with the proxies as they are, its columns rescaled afterwards.

More proxies than fit into one tile are gone through tile by tile. The forward pass keeps the
logarithm of each tile's sum, the backward pass computes the values again. So beyond inputs and
gradients the memory is a few (B, tile) matrices, whatever P.

Shapes: B anchors, P proxies of which T in a tile, D the width of the embedding.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from proxylib.proxies import UNUSED

Hide = Callable[[Tensor, int], None]  # values (B, T), first proxy of the tile: see `by_label`
HIDDEN = -1e30  # value of a proxy that is no negative; finite, for 0 · inf would be NaN
CPU_TILE, GPU_TILE = 2**17, 2**25  # entries of one (B, T) matrix; the first fits into a cache


class Settings(NamedTuple):
    """Which loss it is, apart from its tensors.

    Attributes:
        hide: sets the values of proxies that are no negatives to `HIDDEN`; see `by_label`. None =
            all are negatives.
        hide_positive: the positive proxy is not a negative either.
        margin: M of the triplet hinge, averaged over the negatives that violate it; None = Eq. 4.
        include_positive: add the positive to the sum of Eq. 4.
        embedding_norm, proxy_norm: N_x and N_p; None = free.
        tile: T, proxies gone through at once; None = what fits into a cache.
    """

    hide: Hide | None = None
    hide_positive: bool = False
    margin: float | None = None
    include_positive: bool = False
    embedding_norm: float | None = None
    proxy_norm: float | None = None
    tile: int | None = None


def fused_loss(
    embeddings: Tensor, proxies: Tensor, positive: Tensor, settings: Settings
) -> tuple[Tensor, Tensor]:
    """Mean of `nca_loss` or `mean_triplet_loss` over the anchors that have a negative proxy.

    Value and gradients are those of `ProxyLoss.compare` and `score` with squared distances, up to
    rounding. Half precision is raised to float32, also under autocast; float64 stays.

    Args:
        embeddings: (B, D) of the anchors, not rescaled.
        proxies: (P, D), not rescaled.
        positive: (B,) int64, the positive proxy of each anchor.
        settings: which loss.

    Returns:
        Scalar loss, at least float32, 0 if no anchor has a negative; number of anchors without a
        negative, int64.

    Raises:
        RuntimeError: in the backward pass, if a second derivative is asked for.

    Example:
        >>> x, p = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [-5.0, 0.0]])
        >>> settings = Settings(hide_positive=True, embedding_norm=1, proxy_norm=1)
        >>> fused_loss(x, p, torch.tensor([0]), settings)  # d(x, p_y) = 0, d(x, p_z) = 4
        (tensor(-4.), tensor(0))
    """
    if embeddings.dtype in (torch.float16, torch.bfloat16):
        embeddings = embeddings.float()
    proxies, device = proxies.to(embeddings.dtype), embeddings.device.type
    if torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return _FusedLoss.apply(embeddings, proxies, positive, settings)
    return _FusedLoss.apply(embeddings, proxies, positive, settings)


@torch.no_grad()
def nearest_proxy(embeddings: Tensor, proxies: Tensor, settings: Settings) -> Tensor:
    """(B,) int64 nearest proxy of embeddings (B, D), of equally near ones the first."""
    if embeddings.dtype in (torch.float16, torch.bfloat16):
        embeddings = embeddings.float()
    proxies = proxies.to(embeddings.dtype)
    doubled, _ = _doubled(embeddings, settings.embedding_norm)
    found = []
    for start, stop in _edges(len(embeddings), proxies, settings.tile):
        values, _ = _values(doubled, proxies[start:stop], settings.proxy_norm)
        value, place = values.max(1)
        found.append((value, place + start))
    values, places = (torch.stack(part, 1) for part in zip(*found, strict=True))  # (B, tiles)
    return places.gather(1, values.argmax(1, keepdim=True)).squeeze(1)


def by_label(exclusive: Tensor, labels: Tensor, n_labels: int) -> Hide:
    """Hides the proxies that `negative_mask` leaves out: those of the anchor's label, and unused.

    Only the columns of proxies that serve one of the batch's labels, or none, are looked at.

    Args:
        exclusive: (P,) from `exclusive_label`.
        labels: (B,) int64 of the anchors.
        n_labels: C.
    """
    concerned = torch.zeros(n_labels + 2, dtype=torch.bool, device=labels.device)
    concerned[labels] = True
    concerned[UNUSED] = True  # −2, and SHARED = −1: the two last entries

    def hide(values: Tensor, start: int) -> None:
        whose = exclusive[start : start + values.shape[1]]  # (T,)
        columns = concerned[whose].nonzero().squeeze(1)
        whose = whose[columns]
        hidden = (whose == labels[:, None]) | (whose == UNUSED)  # (B, columns)
        values[:, columns] = values[:, columns].masked_fill(hidden, HIDDEN)

    return hide


def by_mask(mask: Tensor) -> Hide:
    """Hides all but the negatives of a mask (B, P) bool."""

    def hide(values: Tensor, start: int) -> None:
        values.masked_fill_(~mask[:, start : start + values.shape[1]], HIDDEN)

    return hide


class _Tile(NamedTuple):
    """Proxies start … stop − 1, and which anchors' positives are among them."""

    start: int
    stop: int
    rows: Tensor  # (R,) these anchors
    columns: Tensor  # (R,) their positives, counted from `start`


def _edges(n_anchors: int, proxies: Tensor, tile: int | None) -> list[tuple[int, int]]:
    """First and last + 1 proxy of tiles of nearly equal size."""
    n = len(proxies)
    tile = tile or max(256, (GPU_TILE if proxies.is_cuda else CPU_TILE) // max(1, n_anchors))
    n_tiles = max(1, -(-n // tile))
    return [(n * i // n_tiles, n * (i + 1) // n_tiles) for i in range(n_tiles)]


def _tiles(positive: Tensor, proxies: Tensor, tile: int | None) -> list[_Tile]:
    edges = _edges(len(positive), proxies, tile)
    if len(edges) == 1:
        rows = torch.arange(len(positive), device=positive.device)
        return [_Tile(*edges[0], rows, positive)]
    positive, rows = positive.sort()
    stops = torch.tensor([stop for _, stop in edges], device=positive.device)
    counts = torch.searchsorted(positive, stops).diff(prepend=stops.new_zeros(1)).tolist()
    parts = zip(edges, rows.split(counts), positive.split(counts), strict=True)
    return [_Tile(start, stop, r, column - start) for (start, stop), r, column in parts]


def _doubled(embeddings: Tensor, norm: float | None) -> tuple[Tensor, Tensor | None]:
    """2 x̂ (B, D), and the lengths ‖x‖ (B, 1), 1 where x = 0, if they matter."""
    if norm is None:
        return 2 * embeddings, None
    length = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True)
    length.masked_fill_(length == 0, 1)
    return embeddings * (2 * norm / length), length


def _values(doubled: Tensor, proxies: Tensor, norm: float | None) -> tuple[Tensor, Tensor | None]:
    """Values (B, T) of proxies (T, D) for 2 x̂ (B, D), and N_p/‖p‖ (T,) with fixed norms."""
    values = doubled @ proxies.T
    if norm is None:
        return values.sub_(torch.linalg.vecdot(proxies, proxies)), None
    length = torch.linalg.vector_norm(proxies, dim=1)
    zero = length == 0
    scale = norm / length.masked_fill_(zero, 1)
    # A zero vector has no direction: it stays zero, so that its ‖p̂‖² is smaller by N_p².
    return torch.addcmul(zero * norm**2, values, scale, out=values), scale


def _hide(values: Tensor, tile: _Tile, settings: Settings) -> None:
    if settings.hide is not None:
        settings.hide(values, tile.start)
    if settings.hide_positive:
        values[tile.rows, tile.columns] = HIDDEN


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, embeddings, proxies, positive, settings):
        s = settings
        doubled, length = _doubled(embeddings, s.embedding_norm)
        tiles = _tiles(positive, proxies, s.tile)
        kept = scale = v_pos = None
        if len(tiles) > 1:  # else v_pos is one of the values below
            v_pos = _values(doubled, proxies[positive], s.proxy_norm)[0].diagonal()[:, None]
        parts = []
        for tile in tiles:
            values, scale = _values(doubled, proxies[tile.start : tile.stop], s.proxy_norm)
            if v_pos is None:
                v_pos, kept = values.gather(1, positive[:, None]), values  # (B, 1)
            _hide(values, tile, s)
            if s.margin is None:
                parts.append(values.logsumexp(1))  # (B,)
            else:
                hinges = torch.relu(values - (v_pos - s.margin))
                parts.append(torch.stack([values.amax(1), hinges.sum(1), (hinges > 0).sum(1)]))
        # What a weight ∂loss/∂v (up to the anchor's share of the mean) follows from: see backward.
        if s.margin is None:
            level = parts[0] if kept is not None else torch.stack(parts).logsumexp(0)
            without = level < HIDDEN / 2  # written so that NaN does not pass for "no negative"
            level = level[:, None]
            if s.include_positive:
                level = torch.logaddexp(level, v_pos)
            losses = (level - v_pos).squeeze(1)  # Eq. 4
            pull = torch.exp(v_pos - level) - 1 if s.include_positive else -torch.ones_like(v_pos)
            share = (~without).to(losses.dtype)
        else:
            highest, total, violating = torch.stack(parts, 1).unbind()  # (tiles, B) each
            without, level = highest.amax(0) < HIDDEN / 2, v_pos - s.margin
            violating = violating.sum(0)
            share = ~without / violating.clamp_min(1)
            losses, pull = total.sum(0), -violating[:, None]  # Eq. 3, not yet averaged
        count = without.sum()
        share /= (len(without) - count).clamp_min(1)  # (B,) of each anchor in the mean
        ctx.save_for_backward(embeddings, proxies, positive, doubled, length, v_pos, level, pull,
                              share, kept, scale if kept is not None else None)  # fmt: skip
        ctx.settings = s
        ctx.mark_non_differentiable(count)
        return losses @ share, count

    @staticmethod
    def backward(ctx, gradient, _):
        if torch.is_grad_enabled():  # else the second derivative would silently be 0
            raise RuntimeError(
                "the fused loss has no second derivative (create_graph=True): override `score`, if "
                "only to call super().score, and the loss is made of differentiable parts"
            )
        s = ctx.settings
        embeddings, proxies, positive, doubled, length, v_pos, level, pull, share, kept, scale = (
            ctx.saved_tensors
        )
        share = share * gradient  # (B,)
        shared = doubled * share[:, None]  # (B, D)
        for_embeddings, for_proxies = torch.zeros_like(doubled), None
        if ctx.needs_input_grad[1]:
            for_proxies = torch.empty_like(proxies, memory_format=torch.contiguous_format)
        for tile in _tiles(positive, proxies, s.tile):
            part, values = proxies[tile.start : tile.stop], kept
            if kept is None:
                values, scale = _values(doubled, part, s.proxy_norm)
                _hide(values, tile, s)
            # ∂loss/∂v: softmax weights or 1 for each violating negative; and the positive's pull.
            weights = torch.exp(values - level) if s.margin is None else (values > level).to(values)
            at, pulls = (tile.rows, tile.columns), pull[tile.rows, 0]
            if for_proxies is not None and scale is not None:
                # ∂v/∂p = N_p/‖p‖ 2x̂ − p v/‖p‖²: what is left of a step along p is nothing.
                along = share @ (weights * values)  # (T,)
                pulled = pulls * v_pos[tile.rows, 0] * share[tile.rows]
                along = along.index_add_(0, tile.columns, pulled).mul_((scale / s.proxy_norm) ** 2)
            weights.index_put_(at, pulls, accumulate=True)
            if scale is not None:
                weights *= scale
            elif for_proxies is not None:
                along = 2 * (share @ weights)  # ∂v/∂p = 2x − 2p
            if ctx.needs_input_grad[0]:
                for_embeddings.addmm_(weights, part)
            if for_proxies is not None:
                out = for_proxies[tile.start : tile.stop]
                torch.mm(weights.T, shared, out=out)
                out.addcmul_(part, along[:, None], value=-1)
        for_embeddings *= 2 * share[:, None]
        if length is not None:  # x̂ = N_x x/‖x‖
            unit = embeddings / length
            along = torch.linalg.vecdot(for_embeddings, unit)[:, None]
            for_embeddings = (for_embeddings - along * unit) * (s.embedding_norm / length)
        return for_embeddings, for_proxies, None, None

"""Eq. 4 and the triplet hinge over all proxies, without any (P, B) or second (P, D) matrix.

Both losses compare d = ‖x̂‖² + ‖p̂‖² − 2 x̂·p̂ of proxies for one anchor x, so ‖x̂‖² cancels. What is
left of a proxy is its *value*, the larger the nearer:

    v_p = 2 x̂·p̂ − ‖p̂‖²    Eq. 4: −v_y + log Σ_z exp v_z    Eq. 3: [v_z − v_y + M]₊

and if p̂ = N_p p/‖p‖, the constant ‖p̂‖² = N_p² cancels as well: v_p = (2 N_p x̂)·p / ‖p‖, a product
with the proxies as they are, its columns divided by their lengths.

More proxies than fit into one tile are gone through tile by tile. The forward pass keeps the
logarithm of each tile's sum, the backward pass computes the values again. So beyond inputs and
gradients the memory is a few (tile, B) matrices, whatever P.

Shapes: B anchors, P proxies of which T in a tile, D the width of the embedding. Proxies are the
rows: a CPU multiplies (T, D) by (D, B), and (T, B) by (B, D), much faster than the transposed.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from proxylib.distances import raised

Negatives = Callable[[slice], Tensor]  # a part of the proxies → which are negatives, (B, T) bool
HIDDEN = -1e30  # value of a proxy that is no negative; finite, for 0 · inf would be NaN
CPU_TILE, GPU_TILE = 2**19, 2**25  # entries of one (T, B) matrix


class Settings(NamedTuple):
    """Which loss it is, apart from its tensors."""

    negatives: Negatives | None = None  # which proxies are whose; None = all
    hide_positive: bool = False  # the positive proxy is no negative, whatever `negatives` says
    margin: float | None = None  # M of Eq. 3, averaged over its violating negatives; None = Eq. 4
    include_positive: bool = False  # add the positive to the sum of Eq. 4
    embedding_norm: float | None = None  # N_x; None = free
    proxy_norm: float | None = None  # N_p; None = free
    tile: int | None = None  # T, proxies gone through at once; None = what fits into a cache


def fused_loss(
    embeddings: Tensor, proxies: Tensor, positive: Tensor, settings: Settings
) -> tuple[Tensor, int]:
    """Mean of `nca_loss` or `mean_triplet_loss` over the anchors that have a negative proxy.

    Value and gradients are those of `ProxyLoss.compare` and `score` with squared distances, up to
    rounding. Half precision is raised to float32, also under autocast; float64 stays. There is no
    second derivative: the backward pass raises RuntimeError if one is asked for.

    Args:
        embeddings: (B, D) of the anchors, not rescaled.
        proxies: (P, D), not rescaled.
        positive: (B,) int64, the positive proxy of each anchor.
        settings: which loss.

    Returns:
        Scalar loss, at least float32, 0 if no anchor has a negative; number of anchors without a
        negative.

    Example:
        >>> x, p = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [-5.0, 0.0]])
        >>> settings = Settings(hide_positive=True, embedding_norm=1, proxy_norm=1)
        >>> fused_loss(x, p, torch.tensor([0]), settings)  # d(x, p_y) = 0, d(x, p_z) = 4
        (tensor(-4.), 0)
    """
    embeddings, proxies = raised(embeddings, proxies)
    device = embeddings.device.type
    lowered = torch.is_autocast_enabled(device)
    with torch.autocast(device, enabled=False) if lowered else nullcontext():
        return _FusedLoss.apply(embeddings, proxies, positive, settings)


@torch.no_grad()
def nearest_proxy(embeddings: Tensor, proxies: Tensor, settings: Settings) -> Tensor:
    """(B,) int64 nearest proxy of embeddings (B, D), of equally near ones the first."""
    embeddings, proxies = raised(embeddings, proxies)
    query = _query(embeddings, settings)[0]
    found = []
    for start, stop in _edges(len(embeddings), proxies, settings.tile):
        values, _ = _values(query, proxies[start:stop], settings.proxy_norm)
        value, place = values.max(0)
        found.append((value, place + start))
    values, places = (torch.stack(part) for part in zip(*found, strict=True))  # (tiles, B)
    return places.gather(0, values.argmax(0, keepdim=True)).squeeze(0)


def _edges(n_anchors: int, proxies: Tensor, tile: int | None) -> list[tuple[int, int]]:
    """First and last + 1 proxy of tiles of nearly equal size."""
    n = len(proxies)
    tile = tile or max(256, (GPU_TILE if proxies.is_cuda else CPU_TILE) // max(1, n_anchors))
    n_tiles = max(1, -(-n // tile))
    return [(n * i // n_tiles, n * (i + 1) // n_tiles) for i in range(n_tiles)]


class _Tile(NamedTuple):
    """Some proxies, and which anchors' positives are among them."""

    part: slice  # of the proxies
    anchors: Tensor  # (R,) these anchors
    rows: Tensor  # (R,) their positives, counted from the first of the part
    cells: Tensor  # (R,) the place of both in a (T, B) matrix laid out flat


def _tiles(positive: Tensor, proxies: Tensor, tile: int | None) -> list[_Tile]:
    """All tiles; `positive` is (B,), the proxy of each anchor."""
    edges, tiles = _edges(len(positive), proxies, tile), []
    for start, stop in edges:
        anchors, rows = torch.arange(len(positive)).to(positive), positive
        if len(edges) > 1:
            anchors = ((positive >= start) & (positive < stop)).nonzero().squeeze(1)
            rows = positive[anchors] - start
        cells = torch.add(anchors, rows, alpha=len(positive))
        tiles.append(_Tile(slice(start, stop), anchors, rows, cells))
    return tiles


def _query(embeddings: Tensor, s: Settings) -> tuple[Tensor, Tensor | None, Tensor | None, float]:
    """2 x̂ (B, D), times N_p if that is fixed.

    Returns:
        It; x/‖x‖ (B, D) and ‖x‖ (B, 1), which is 1 where x = 0, with fixed norms; the factor
        that makes the query of x/‖x‖, or of x.
    """
    factor = 2.0 * (1 if s.proxy_norm is None else s.proxy_norm)
    if s.embedding_norm is None:
        return factor * embeddings, None, None, factor
    factor *= s.embedding_norm
    length = torch.linalg.vector_norm(embeddings, dim=1, keepdim=True)
    length.masked_fill_(length == 0, 1)
    unit = embeddings / length
    return factor * unit, unit, length, factor


def _values(query: Tensor, proxies: Tensor, norm: float | None) -> tuple[Tensor, Tensor | None]:
    """Values (T, B) of proxies (T, D) for queries (B, D), and ‖p‖ (T, 1) with fixed norms."""
    values = proxies @ query.T
    if norm is None:
        return values.sub_(torch.linalg.vecdot(proxies, proxies)[:, None]), None
    length = torch.linalg.vector_norm(proxies, dim=1, keepdim=True)
    if float(length.amin()) == 0:
        # A zero vector has no direction: it stays zero, so that its ‖p̂‖² is smaller by N_p².
        zero = length == 0
        length, values = length.masked_fill(zero, 1), values.masked_fill_(zero, norm**2)
    return values.div_(length), length


def _hide(values: Tensor, tile: _Tile, settings: Settings) -> None:
    if settings.negatives is not None:
        values.masked_fill_(~settings.negatives(tile.part).T, HIDDEN)
    if settings.hide_positive:
        values.view(-1).index_fill_(0, tile.cells, HIDDEN)


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, embeddings, proxies, positive, settings):
        s = settings
        query, unit, length, factor = _query(embeddings, s)
        tiles = _tiles(positive, proxies, s.tile)
        kept = lengths = v_pos = None
        if len(tiles) > 1:  # else v_pos is one of the values below
            v_pos = _values(query, proxies[positive], s.proxy_norm)[0].diagonal()  # (B,)
        parts = []
        for tile in tiles:
            values, lengths = _values(query, proxies[tile.part], s.proxy_norm)
            if v_pos is None:
                v_pos, kept = values.take(tile.cells), values
            _hide(values, tile, s)
            top = values.amax(0)
            if s.margin is None:
                parts.append((values - top).exp_().sum(0).log_().add_(top))  # (B,)
            else:
                hinges = torch.relu(values - (v_pos - s.margin))
                parts.append(torch.stack([top, hinges.sum(0), (hinges > 0).sum(0)]))
        # What backward makes the weights of: level, with which values are compared; pull, the
        # positive's own; share, the anchor's in the loss; each (B,).
        if s.margin is None:
            level = least = parts[0] if kept is not None else torch.stack(parts).logsumexp(0)
            pull, share = torch.full_like(v_pos, -1), torch.ones_like(v_pos)
            if s.include_positive:
                level = torch.logaddexp(level, v_pos)
                pull += torch.exp(v_pos - level)
            losses = level - v_pos  # Eq. 4
        else:
            least, total, violating = torch.stack(parts, 1).unbind()  # (tiles, B) each
            least, violating = least.amax(0), violating.sum(0)
            level, pull, share = v_pos - s.margin, -violating, 1 / violating.clamp_min(1)
            losses = total.sum(0)
        n_without = 0
        if float(least.amin()) < HIDDEN / 2:  # some anchor has no negative; NaN is not one of them
            share = share.masked_fill(least < HIDDEN / 2, 0)
            n_without = int((share == 0).sum())
        share /= max(1, len(share) - n_without)
        ctx.save_for_backward(
            proxies, query, unit, length, v_pos, level, pull, share, kept, lengths
        )
        ctx.settings, ctx.tiles, ctx.factor = s, tiles, factor
        return losses @ share, n_without

    @staticmethod
    def backward(ctx, gradient, _):
        if torch.is_grad_enabled():  # else the second derivative would silently be 0
            raise RuntimeError(
                "the fused loss has no second derivative (create_graph=True): override `score`, if "
                "only to call super().score, and the loss is made of differentiable parts"
            )
        s, (wants_embeddings, wants_proxies, *_) = ctx.settings, ctx.needs_input_grad
        proxies, query, unit, length, v_pos, level, pull, share, kept, lengths = ctx.saved_tensors
        share = share * gradient  # (B,)
        column = share[:, None]
        shared, pull_v = query * column, pull * v_pos * share
        for_embeddings, for_proxies = torch.zeros_like(query), None
        if wants_proxies:
            for_proxies = torch.empty_like(proxies, memory_format=torch.contiguous_format)
        for tile in ctx.tiles:
            part, values = proxies[tile.part], kept
            if kept is None:
                values, lengths = _values(query, part, s.proxy_norm)
                _hide(values, tile, s)
            # ∂loss/∂v, up to the share: a softmax, or 1 for each violating negative; then the pull.
            above = values - level
            weights = above.exp_() if s.margin is None else (above > 0).to(above)
            if wants_proxies and lengths is not None:
                # ∂v/∂p = query/‖p‖ − v p/‖p‖²: nothing is left of a step along p.
                along = torch.mv(weights * values, share)  # (T,)
                along.index_add_(0, tile.rows, pull_v.index_select(0, tile.anchors))
                along = along[:, None] / lengths.square()
            weights.view(-1).index_add_(0, tile.cells, pull.index_select(0, tile.anchors))
            if lengths is not None:
                weights /= lengths
            elif wants_proxies:
                along = 2 * torch.mv(weights, share)[:, None]  # ∂v/∂p = query − 2 p
            if wants_embeddings:
                for_embeddings.addmm_(weights.T, part)
            if wants_proxies:
                out = for_proxies[tile.part]
                torch.mul(part, along.neg_(), out=out).addmm_(weights, shared)
        column = column * ctx.factor
        for_embeddings *= column if unit is None else column / length
        if unit is not None:  # nor of one along x
            along = torch.linalg.vecdot(for_embeddings, unit)[:, None]
            for_embeddings.addcmul_(unit, along, value=-1)
        return for_embeddings, for_proxies, None, None

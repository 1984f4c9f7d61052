"""Dynamic assignment, method 1000: every point is served by its nearest proxy."""

from collections.abc import Callable

import torch
from torch import Tensor

from proxylib.distances import rescale
from proxylib.objectives import ProxyLoss
from proxylib.proxies import assign_nearest
from proxylib.samplers import Stream, pair_batches


class DynamicProxyLoss(ProxyLoss):
    """A proxy loss whose points follow their nearest proxy (method 1000, FIG. 10).

    The points of a batch are re-assigned at every step, all points before the first step and then
    at an interval. The defaults are the patent's rule; `restart_dead` departs from it, to keep
    proxies from dying out.

    Args:
        args, options: as in `ProxyLoss`.
        reassign_every: steps between exact re-assignments of the whole training set (1016), each
            of which embeds it; 0 = the batch's points only.
        restart_dead: at each re-assignment, proxies that no point is nearest to move to the
            embeddings of random points. A dead proxy is nobody's positive or negative, so it gets
            no gradient and would stay dead, while the living ones serve more and more labels.

    Raises:
        ValueError: a value out of its range; as in `ProxyLoss`.

    Example:
        >>> start = assign_random(50, 20, torch.Generator())
        >>> objective = DynamicProxyLoss(start, 64, labels=torch.arange(50) % 25, loss=nca_loss)
    """

    is_static = False

    def __init__(self, *args, reassign_every: int = 100, restart_dead: bool = False, **options):
        if reassign_every < (1 if restart_dead else 0):
            raise ValueError(
                f"reassign_every={reassign_every}: expected 0 or more steps, and 1 or more "
                "for restart_dead"
            )
        super().__init__(*args, **options)
        self.reassign_every, self.restart_dead = reassign_every, restart_dead

    def batches(self, batch_size: int, generator: torch.Generator) -> Stream:
        if self.labels is None:
            return super().batches(batch_size, generator)
        return pair_batches(self.labels.cpu(), batch_size, generator)

    def before_step(self, step: int, embed_all: Callable[[], Tensor]) -> None:
        """Initial assignment (1002, 1004) and re-assignment of all points (1016)."""
        every = self.reassign_every
        if step == 1 or (every and (step - 1) % every == 0):
            if embed_all is None:
                raise ValueError(
                    "dynamic assignment embeds all training points: give `train` an `embed_all`"
                )
            self.reassign(embed_all())

    @torch.no_grad()
    def reassign(self, embeddings: Tensor) -> None:
        """Every training point to its nearest proxy (1016), given all embeddings (N, D)."""
        self.assignment = self._nearest(embeddings)
        if self.restart_dead:
            dead = self.assignment.bincount(minlength=self.n_proxies) == 0
            self._move(dead.nonzero().flatten(), embeddings)
            self.assignment = self._nearest(embeddings)
        self._update_exclusive()

    def _follow(self, anchors: Tensor, nearest: Callable[[], Tensor]) -> None:
        """Anchors move to their nearest proxies (1016); so calls change `assignment`."""
        self.assignment[anchors] = nearest()
        self._update_exclusive()

    def _nearest(self, embeddings: Tensor) -> Tensor:
        return assign_nearest(
            rescale(embeddings.to(self.proxies.device), self.embedding_norm),
            rescale(self.proxies, self.proxy_norm),
        )

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

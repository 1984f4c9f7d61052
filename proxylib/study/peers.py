"""Losses of pytorch-metric-learning as methods: what came after Proxy-NCA (extra `peers`)."""

from importlib import metadata

import torch
from torch import Tensor

from proxylib.objectives import Objective
from proxylib.samplers import Stream, anchor_batches, class_batches


def version() -> str:
    """The package's version; ImportError, with the command that installs it, if it is absent."""
    try:
        return metadata.version("pytorch-metric-learning")
    except metadata.PackageNotFoundError:
        needs = "this method needs pytorch-metric-learning: pip install 'proxylib[peers]'"
        raise ImportError(needs) from None


class PeerLoss(Objective):
    """A loss of `pytorch_metric_learning.losses`; what it learns takes the place of the proxies.

    Args:
        labels, dim, generator: as in `methods.proxies_by_label`.
        loss: its name.
        settings: its keywords, as the package explains them; and `per_class`, points of each class
            in a batch, if it compares these. Else it learns vectors, and batches are Proxy-NCA's.
    """

    assignment = torch.empty(0, dtype=torch.int64)  # no point has one proxy of its own

    def __init__(self, labels, dim, generator, *, loss: str, **settings):
        super().__init__(labels)
        version()
        from pytorch_metric_learning import losses

        self.per_class = settings.pop("per_class", None)
        if self.per_class is None:
            settings |= {"num_classes": int(labels.max()) + 1, "embedding_size": dim}
        seed = int(torch.randint(2**62, (), generator=generator))
        with torch.random.fork_rng(devices=[]):  # the package draws from torch's own generator
            torch.manual_seed(seed)
            self.loss = getattr(losses, loss)(**settings)

    @property
    def proxies(self) -> Tensor:
        """(P, D); some of these losses keep them as (D, P)."""
        [(name, weights)] = self.loss.named_parameters()
        return weights if name == "proxies" else weights.T

    def batches(self, batch_size: int, generator: torch.Generator) -> Stream:
        if self.per_class:
            return class_batches(self.labels.cpu(), batch_size, self.per_class, generator)
        return anchor_batches(self.labels.cpu(), batch_size, generator)

    def forward(self, embeddings: Tensor, points: Tensor, *positives: Tensor) -> Tensor:
        return self.loss(embeddings, self.labels[points])

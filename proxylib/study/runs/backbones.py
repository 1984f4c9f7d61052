"""Classification networks of timm, and torchvision's GoogLeNet, turned into distance models."""

import copy
import functools

import torch
from torch import Tensor, nn

from proxylib.study.runs import timm_weights

# timm and torchvision are imported where they are needed: both take longer than all the rest.

GOOGLENET = "googlenet"  # with batch norm, the patent's network, which timm doesn't have


@functools.cache
def names() -> list[str]:
    """The names that `Backbone` knows: `"googlenet"`, and timm's with and without a tag."""
    import timm

    return [GOOGLENET, *timm.list_models(), *timm.list_pretrained()]


class Backbone(nn.Module):
    """A network for classification with an embedding in place of its classifier.

    The patent's is GoogLeNet with batch normalisation (`"googlenet"`), pre-trained on ILSVRC.

    Args:
        name: in `names()`.
        dim: D, width of the embedding.
        weights: start from ILSVRC or whatever else the network was trained on. Those of
            `"tf_efficientnet_lite0"` are installed with the study. torch downloads GoogLeNet's
            once; all others of timm have to be in Hugging Face's cache already.
        dropout: share of the features that is dropped before the new linear layer in training.
        batch_norm: of the embedding, see `ConvNet`.
        freeze_batch_norm: keep statistics, scales and shifts of the network's own layers of batch
            norm as they are. Small batches then do no harm, and a batch may be split at will.
        crop: in evaluation only the central square of this side is looked at; 0 = all.

    Raises:
        OSError: the weights can't be had.
        ValueError: the weights are not those that are expected.

    Example:
        >>> Backbone("resnet18", dim=64)(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).shape
        torch.Size([2, 64])
    """

    def __init__(
        self,
        name: str,
        dim: int = 64,
        weights: bool = False,
        dropout: float = 0.0,
        batch_norm: bool = False,
        freeze_batch_norm: bool = False,
        crop: int = 0,
    ):
        super().__init__()
        self.name, self.dim, self.crop, self.last = name, dim, crop, None
        self.freeze_batch_norm = freeze_batch_norm
        build = _googlenet if name == GOOGLENET else _timm
        self.network, mean, std = build(name, dim, weights, dropout)  # of pixels 0 … 1
        for module in self._frozen():
            module.requires_grad_(False)
        self.norm = nn.BatchNorm1d(self.dim, affine=False) if batch_norm else nn.Identity()
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1))

    def train(self, mode: bool = True) -> "Backbone":
        super().train(mode)
        for module in self._frozen():
            module.eval()
        return self

    def _frozen(self) -> list[nn.Module]:
        kind = nn.modules.batchnorm._BatchNorm
        found = [m for m in self.network.modules() if isinstance(m, kind)]
        return found if self.freeze_batch_norm else []

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1 or 3, H, W) pixels 0 … 255, uint8 or float → (B, D) embeddings, not normalised.

        A `tail` takes (B, V, …) float, of which it looks at the first view.
        """
        if self.last:
            return self.norm(self.network(images[:, 0].float()))
        if self.crop and not self.training:
            y, x = (max(0, (length - self.crop) // 2) for length in images.shape[2:])
            images = images[:, :, y : y + self.crop, x : x + self.crop]
        return self.norm(self.network((images - self.mean) / self.std))  # grey → 3 alike

    def tail(self, last: str) -> "Backbone":
        """What follows the part `last` of the network, as a model with the same parameters.

        `tail(trunk(images))` is what the whole network makes of the images, if all up to `last`
        is a chain, as in most convolutional networks; `trunk.py` checks it.

        Args:
            last: the last part that is left out, by its name in the network, e.g. `"blocks.4"`.

        Raises:
            ValueError: no such part.
        """
        tail = copy.copy(self)
        tail.last = last
        try:
            tail._modules = {**self._modules, "network": _after(self.network, last)}
        except KeyError:
            parts = [n for n, _ in self.network.named_modules() if n and n.count(".") < 2]
            raise ValueError(
                f"frozen={last!r}: {self.name} has no such part; it has {', '.join(parts)}"
            ) from None
        return tail

    def trunk(self, images: Tensor, last: str) -> Tensor:
        """What comes out of the part `last` of the network for images as `forward` takes them."""

        def stop(module: nn.Module, inputs: tuple, output: Tensor) -> None:
            raise _Reached(output)

        hook = self.network.get_submodule(last).register_forward_hook(stop)
        try:
            self(images)
        except _Reached as reached:
            return reached.args[0]
        finally:
            hook.remove()
        raise ValueError(f"frozen={last!r}: {self.name} makes no use of it")

    def embedding_layer(self) -> nn.Linear:
        """The layer that makes the embedding of the features.

        Raises:
            ValueError: it is no linear layer.
        """
        layer = self.network.fc if self.name == GOOGLENET else self.network.get_classifier()
        layer = layer[-1] if isinstance(layer, nn.Sequential) else layer
        if not isinstance(layer, nn.Linear):
            raise ValueError(f"{self.name}: its last layer is no linear one but {layer}")
        return layer

    def head(self) -> nn.Sequential:
        """What follows the features: the embedding layer and the embedding's batch norm."""
        return nn.Sequential(self.embedding_layer(), self.norm).train(self.training)


class _Reached(Exception):
    """A network has come as far as it shall."""


def _after(module: nn.Module, last: str) -> nn.Module:
    """The module without its part `last` and all parts before it; shares the others with it."""
    name, _, rest = last.partition(".")
    clone = copy.copy(module)
    clone._modules = {**module._modules, name: module._modules[name]}
    for earlier in module._modules:  # in the order in which they are called
        if earlier == name:
            break
        clone._modules[earlier] = nn.Identity()
    clone._modules[name] = _after(module._modules[name], rest) if rest else nn.Identity()
    return clone


def _timm(name: str, dim: int, weights: bool, dropout: float) -> tuple[nn.Module, tuple, tuple]:
    import timm

    found: dict[str, object] = {}
    if weights:
        if name == timm_weights.LITE0:
            found = {"state_dict": timm_weights.lite0_weights()}
        else:
            found = {"file": str(timm_weights.weights_file(name))}
    network = timm.create_model(
        name,
        pretrained=weights,
        pretrained_cfg_overlay=found or None,
        num_classes=dim,
        drop_rate=dropout,
    )
    return network, network.pretrained_cfg["mean"], network.pretrained_cfg["std"]


def _googlenet(
    name: str, dim: int, weights: bool, dropout: float
) -> tuple[nn.Module, tuple, tuple]:
    from torchvision import models

    # It brings classifiers in the middle, and brings pixels to −1 … 1 whatever `transforms` says,
    # but only with its weights; a model that is read again would not. So both is done here.
    options = {} if weights else {"aux_logits": False, "init_weights": True}
    kind = models.get_model_weights(name).DEFAULT
    try:
        network = models.googlenet(
            weights=kind if weights else None, transform_input=False, **options
        )
    except OSError as error:  # URLError is one
        raise OSError(
            f"{name}: its weights can't be had ({error}). Put the file {kind.url} into "
            f"{torch.hub.get_dir()}/checkpoints by hand (TORCH_HOME moves that folder), or "
            "start from a random network (init='random', weights=False)"
        ) from error
    network.aux_logits, network.aux1, network.aux2 = False, None, None
    layer = nn.Linear(network.fc.in_features, dim)
    network.fc = nn.Sequential(nn.Dropout(dropout), layer) if dropout else layer
    return network, (0.5,) * 3, (0.5,) * 3

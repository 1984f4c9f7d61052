"""Classification networks of torchvision, turned into distance models."""

import torch
from torch import Tensor, nn

# torchvision is imported where it is needed: it takes longer than all the rest together.

# They bring classifiers in the middle, and bring pixels to −1 … 1 whatever `transforms` says, but
# only with their weights; a model that is read again would not. So both is done here.
INCEPTIONS = ("googlenet", "inception_v3")
N_CLASSES = 1000  # of ImageNet; how the classifier is found


def names() -> list[str]:
    """The names that `Backbone` knows: torchvision's classification models."""
    from torchvision import models

    return models.list_models(module=models)


class Backbone(nn.Module):
    """A network of torchvision with an embedding in place of its classifier.

    The patent's is GoogLeNet with batch normalisation (`"googlenet"`), pre-trained on ILSVRC.

    Args:
        name: in `names()`.
        dim: D, width of the embedding.
        weights: start from torchvision's weights, downloaded once by torch.
        dropout: share of the features that is dropped before the new linear layer in training.
        batch_norm: of the embedding, see `ConvNet`.
        freeze_batch_norm: keep statistics, scales and shifts of the network's own layers of batch
            norm as they are. Small batches then do no harm, and a batch may be split at will.
        crop: in evaluation only the central square of this side is looked at; 0 = all.

    Raises:
        ValueError: an unknown name, or a network without a classifier.
        OSError: the weights can't be had.

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
        from torchvision import models

        super().__init__()
        self.crop = crop
        self.network = _torchvision(name, weights)
        where, classifier = _classifier(name, self.network)
        self.freeze_batch_norm = freeze_batch_norm
        for module in self._frozen():
            module.requires_grad_(False)
        wide = classifier.weight.shape[1]
        layer: nn.Module = nn.Linear(wide, dim)
        if isinstance(classifier, nn.Conv2d):  # SqueezeNet: a convolution, then the mean
            layer = nn.Conv2d(wide, dim, 1)
        layer = nn.Sequential(nn.Dropout(dropout), layer) if dropout else layer
        self.dim = dim
        parent, _, last = where.rpartition(".")
        setattr(self.network.get_submodule(parent), last, layer)
        self.norm = nn.BatchNorm1d(self.dim, affine=False) if batch_norm else nn.Identity()
        usual = models.get_model_weights(name).DEFAULT.transforms()  # of pixels 0 … 1
        mean, std = ([0.5] * 3,) * 2 if name in INCEPTIONS else (usual.mean, usual.std)
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
        """(B, 1 or 3, H, W) pixels 0 … 255, uint8 or float → (B, D) embeddings, not normalised."""
        if self.crop and not self.training:
            y, x = (max(0, (length - self.crop) // 2) for length in images.shape[2:])
            images = images[:, :, y : y + self.crop, x : x + self.crop]
        return self.norm(self.network((images - self.mean) / self.std))  # grey → 3 alike


def _torchvision(name: str, weights: bool) -> nn.Module:
    from torchvision import models

    options: dict[str, bool] = {}
    if name in INCEPTIONS:
        options = {"transform_input": False}
        options |= {} if weights else {"aux_logits": False, "init_weights": True}
    try:
        network = models.get_model(name, weights="DEFAULT" if weights else None, **options)
    except OSError as error:  # URLError is one
        url = models.get_model_weights(name).DEFAULT.url
        raise OSError(
            f"{name}: its weights can't be had ({error}). Put the file {url} into "
            f"{torch.hub.get_dir()}/checkpoints by hand (TORCH_HOME moves that folder), or "
            "start from a random network (init='random', weights=False)"
        ) from error
    if name in INCEPTIONS:
        network.aux_logits = False
        for middle in ("aux1", "aux2", "AuxLogits"):
            if hasattr(network, middle):
                setattr(network, middle, None)
    return network


def _classifier(name: str, network: nn.Module) -> tuple[str, nn.Module]:
    """The last layer with as many outputs as ImageNet has classes, and where it is."""
    found = [
        (where, module)
        for where, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
        and N_CLASSES in (getattr(module, "out_features", 0), getattr(module, "out_channels", 0))
    ]
    if not found:
        raise ValueError(f"{name}: found no layer of {N_CLASSES} outputs to replace")
    return found[-1]

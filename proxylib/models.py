"""Networks that map images to embeddings: the machine-learned distance model."""

import torch
from torch import Tensor, nn


class ConvNet(nn.Module):
    """A small network to train from scratch: 4 × [3×3 conv, batch norm, max-pool, ReLU], linear.

    Args:
        channels: 1 or 3, of the images.
        size: side of the images in pixels, at least 16.
        dim: D, width of the embedding (64 in the paper, section 4).
        widths: channels of the four blocks.
        batch_norm: standardise each dimension of the embedding over the batch, without learned
            scale and shift. Dynamic assignment needs it: it keeps the embeddings from leaning to
            one side, where one proxy would be the nearest of all.

    Example:
        >>> ConvNet(channels=1, size=32)(torch.zeros(8, 1, 32, 32, dtype=torch.uint8)).shape
        torch.Size([8, 64])
    """

    def __init__(
        self,
        channels: int,
        size: int,
        dim: int = 64,
        widths: tuple[int, ...] = (32, 32, 64, 64),
        batch_norm: bool = False,
    ):
        super().__init__()
        if channels < 1 or dim < 1:
            raise ValueError(f"channels={channels}, dim={dim}: expected 1 or more")
        if size < 2 ** len(widths):
            raise ValueError(
                f"size={size}: {len(widths)} poolings need at least {2 ** len(widths)} pixels"
            )
        self.dim = dim
        self.register_buffer("mean", torch.zeros(1, channels, 1, 1))
        self.register_buffer("std", torch.full((1, channels, 1, 1), 255.0))
        layers, c_in = [], channels
        for c_out in widths:
            layers += [
                nn.Conv2d(c_in, c_out, 3, padding=1, bias=False),
                nn.BatchNorm2d(c_out),
                nn.MaxPool2d(2),  # before the ReLU: the same function, a quarter of the work
                nn.ReLU(inplace=True),
            ]
            c_in = c_out
        side = size // 2 ** len(widths)
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.embedding = nn.Linear(c_in * side * side, dim)
        self.norm = nn.BatchNorm1d(dim, affine=False) if batch_norm else nn.Identity()
        self.to(memory_format=torch.channels_last)

    def normalize_like(self, images) -> "ConvNet":
        """Standardise inputs by mean and deviation (per channel) of these uint8 images."""
        pixels = images[:].float()
        self.mean.copy_(pixels.mean((0, 2, 3), keepdim=True))
        self.std.copy_(pixels.std((0, 2, 3), keepdim=True).clamp_min(1.0))
        return self

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) pixels 0 … 255, uint8 or float → (B, D) embeddings, not normalised."""
        x = (images - self.mean) / self.std
        x = self.features(x.contiguous(memory_format=torch.channels_last))
        return self.norm(self.embedding(x))

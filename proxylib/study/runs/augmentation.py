"""How training images are changed before the network sees them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training images.

    Random numbers are drawn for the whole batch, so results do not depend on how the batch is
    split over processes.
    """

    affine: bool = False  # apply `random_affine`
    crop: int = 0  # cut squares of this side from random places; 0 = the whole image
    flip: bool = False  # mirror every second image, by chance
    # The images are what a frozen trunk made of each and of its mirror image, (B, 2, …): one of
    # the two is taken, as (B, 1, …).
    cached: bool = False

    def __call__(
        self, images: Tensor, generator: torch.Generator, total: int, part: slice = slice(None)
    ) -> Tensor:
        """Change the images (B, C, H, W) which are `part` of a batch of `total`.

        Raises:
            ValueError: images smaller than the crop.
        """
        if self.affine:
            images = random_affine(images, generator, total=total, part=part)
        if self.crop:
            images = random_crop(images, self.crop, generator, total, part)
        if self.flip:
            mirrored = torch.rand(total, generator=generator)[part].to(images.device) < 0.5
            if self.cached:
                rows = torch.arange(len(images), device=images.device)
                return images[rows, mirrored.long()][:, None]
            images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
        return images


def random_affine(
    images: Tensor,
    generator: torch.Generator,
    degrees: float = 7.0,
    shear: float = 0.2,
    scale: float = 0.15,
    shift: float = 0.06,
    total: int | None = None,
    part: slice = slice(None),
) -> Tensor:
    """Each image turned, stretched and moved at random, in float32; the border is continued.

    Args:
        images: (B, C, H, W) uint8 or float.
        degrees, shear, scale, shift: standard deviations of the turn, of the slant (tangent), of
            the log of the stretch along each axis, and of the move in units of the image's side.
            All are cut at 2σ.
        total, part: the images are this part of a batch of so many; default: all of it.
    """
    n = len(images) if total is None else total
    z = torch.randn(n, 6, generator=generator)[part].clamp(-2, 2)
    angle, slant = z[:, 0] * (degrees * torch.pi / 180), shear * z[:, 1]
    cos, sin = angle.cos(), angle.sin()
    turned = torch.stack([cos, slant * cos - sin, sin, slant * sin + cos], 1).view(-1, 2, 2)
    stretched = turned * torch.exp(scale * z[:, None, 2:4])
    theta = torch.cat([stretched, 2 * shift * z[:, 4:, None]], 2)
    grid = functional.affine_grid(theta.to(images.device), list(images.shape), align_corners=False)
    return functional.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)


def random_crop(
    images: Tensor, side: int, generator: torch.Generator, total: int, part: slice = slice(None)
) -> Tensor:
    """A square of each image (B, C, H, W), from a place of its own → (B, C, side, side)."""
    height, width = images.shape[2:]
    if side > min(height, width):
        raise ValueError(f"crop={side}: the images are only {height}×{width} pixels")
    room = torch.tensor([height - side + 1, width - side + 1])
    corners = (torch.rand(total, 2, generator=generator)[part] * room).long().tolist()
    pairs = zip(images, corners, strict=True)
    return torch.stack([image[:, y : y + side, x : x + side] for image, (y, x) in pairs])

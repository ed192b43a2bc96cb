"""Flips and crops of whole batches at once, and normalisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Augment:
    """Mirror every second image, and move each by up to `crop` pixels over a black border."""

    flip: bool = True
    crop: int = 4

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """What happens to each of `count` images: down, right, mirrored."""
        moves = torch.randint(0, 2 * self.crop + 1, (count, 2), generator=generator)
        return torch.cat([moves, torch.randint(0, 2, (count, 1), generator=generator)], 1)

    def __call__(self, pixels: Tensor, draw: Tensor) -> Tensor:
        """Images (N, H, W, C) in, images out."""
        if not self.flip and not self.crop:
            return pixels
        count, height, width, channels = pixels.shape
        down, right, mirrored = draw.to(pixels.device).unbind(1)
        padded = pixels.new_zeros(count, height + 2 * self.crop, width + 2 * self.crop, channels)
        padded[:, self.crop : self.crop + height, self.crop : self.crop + width] = pixels
        rows = torch.arange(height, device=pixels.device) + down[:, None]
        columns = torch.arange(width, device=pixels.device).expand(count, width)
        if self.flip:
            columns = torch.where(mirrored[:, None].bool(), width - 1 - columns, columns)
        columns = columns + right[:, None]
        each = torch.arange(count, device=pixels.device)
        return padded[each[:, None, None], rows[:, :, None], columns[:, None, :]]


@dataclass(frozen=True)
class Normalise:
    """From uint8 (N, H, W, C) to float (N, C, H, W), less the mean and over the deviation of each channel; channels last in memory."""

    mean: Sequence[float] = IMAGENET_MEAN
    std: Sequence[float] = IMAGENET_STD

    def __call__(self, pixels: Tensor) -> Tensor:
        mean = torch.tensor(self.mean, device=pixels.device) * 255
        scale = 1 / (torch.tensor(self.std, device=pixels.device) * 255)
        return pixels.float().sub_(mean).mul_(scale).permute(0, 3, 1, 2)

"""More images from few: mirrored, moved and blended ones. The teacher is asked what it sees in them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fxsparse.training.calibration.heads import Inputs
from fxsparse.training.calibration.settings import Settings


def varied(inputs: Inputs, settings: Settings, generator: torch.Generator) -> Inputs:
    """A batch as the settings ask for it."""
    if settings.augment:
        batches = [inputs] if isinstance(inputs, Tensor) else [image[None] for image in inputs]
        made = [augmented(batch, generator) for batch in batches]
        inputs = made[0] if isinstance(inputs, Tensor) else [image[0] for image in made]
    if settings.mix and isinstance(inputs, Tensor) and float(torch.rand((), generator=generator)) < settings.mix:
        return blended(inputs, generator)
    return inputs


def augmented(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each second image mirrored, each moved by up to an eighth of its size over a border of zeros."""
    count, _, height, width = images.shape
    reach = max(1, height // 8)
    padded = F.pad(images, (reach, reach, reach, reach))
    rows = torch.arange(height) + torch.randint(0, 2 * reach + 1, (count, 1), generator=generator)
    columns = torch.arange(width).expand(count, width)
    mirrored = torch.randint(0, 2, (count, 1), generator=generator).bool()
    columns = torch.where(mirrored, width - 1 - columns, columns) + torch.randint(0, 2 * reach + 1, (count, 1), generator=generator)
    each = torch.arange(count)
    return padded[each[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def blended(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image with another one shining through, all to the same, random part (mixup: Zhang et al., 2018)."""
    share = float(torch.rand((), generator=generator))
    return share * images + (1 - share) * images[torch.randperm(len(images), generator=generator).to(images.device)]

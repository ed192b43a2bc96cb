"""What the sparse student should learn from its dense teacher."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fxsparse.training.calibration.settings import Settings


def base_decayed(student: Tensor, teacher: Tensor, epoch: int, settings: Settings) -> Tensor:
    """UniPTS's objective: the student's logarithm is taken to a base that shrinks, so that its divisor stands outside the softmax.

        p = softmax(z_t / T);  q = log_softmax(z_s) / tau_e;  tau_e = tau * decay^epoch;  loss = T^2 / batch * sum p (log p - q)

    Its gradient is (T^2 / tau_e) (softmax(z_s) - p) / batch: that of a distillation whose student has temperature 1, with a weight that
    grows over the epochs.
    """
    log_p = F.log_softmax(teacher / settings.temperature, dim=-1)
    q = F.log_softmax(student, dim=-1) / (settings.tau * settings.tau_decay**epoch)
    return settings.temperature**2 / len(student) * (log_p.exp() * (log_p - q)).sum()


def distillation(student: Tensor, teacher: Tensor, epoch: int, settings: Settings) -> Tensor:
    """Plain distillation (Hinton et al., 2015): one temperature on both sides."""
    t = settings.temperature
    return t**2 * F.kl_div(F.log_softmax(student / t, dim=-1), F.log_softmax(teacher / t, dim=-1), log_target=True, reduction="batchmean")


def matched(student: Tensor, teacher: Tensor, epoch: int, settings: Settings) -> Tensor:
    """The control of the base-decayed objective: distillation with one temperature on both sides, and the weight that the base decay gives.

    Its gradient is (T^2 / tau_e) (softmax(z_s / T) - p) / batch.
    """
    return settings.temperature / (settings.tau * settings.tau_decay**epoch) * distillation(student, teacher, epoch, settings)


OBJECTIVES = {"base-decayed": base_decayed, "distillation": distillation, "matched": matched}


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

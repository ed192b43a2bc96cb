"""What the sparse student should learn from its dense teacher."""

from __future__ import annotations

from collections.abc import Callable, Collection

import torch
import torch.nn.functional as F
from torch import Tensor

from fxsparse.training.calibration.heads import Heads, Seen, relative_error
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


OBJECTIVES: dict[str, Callable[[Tensor, Tensor, int, Settings], Tensor]] = {
    "base-decayed": base_decayed,
    "distillation": distillation,
    "matched": matched,
}


def loss_of(heads: Heads, given: Seen, wanted: Seen, epoch: int, settings: Settings, inner: Collection[str] = ()) -> Tensor:
    """The objective on everything that is compared, in the mean over the outputs. Of values, the relative squared error. What the modules
    `inner` gave is no output: its mean error counts beside, with the weight `features`."""
    objective = OBJECTIVES[settings.objective] if isinstance(settings.objective, str) else settings.objective
    outputs, features = [], []
    for name, kind, student, teacher in heads.pairs(given, wanted):
        if name.partition(":")[0] in inner:
            features.append(relative_error(student, teacher))
        elif kind == "values":
            outputs.append(relative_error(student, teacher))
        else:
            outputs.append(objective(_rows(kind, student), _rows(kind, teacher), epoch, settings))
    loss = torch.stack(outputs).mean()
    return loss + settings.features * torch.stack(features).mean() if features else loss


def _rows(kind: str, scores: Tensor) -> Tensor:
    """One row for each choice among classes."""
    if kind == "channels":
        scores = scores.movedim(1, -1)
    elif kind == "yes-no":  # a softmax over (x, 0) is the sigmoid of x
        scores = torch.stack([scores, torch.zeros_like(scores)], -1)
    return scores.reshape(-1, scores.shape[-1])

"""The calibration set: gathered, checked, labelled by the teacher where it has no labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fxsparse.errors import Error
from fxsparse.training.evaluate import as_logits

LEAST = 32
CHUNK = 256


@dataclass(frozen=True, eq=False)
class Calibration:
    """Inputs, what the teacher says of them, and their classes."""

    inputs: Tensor
    teacher: Tensor
    labels: Tensor
    labelled: bool  # by people; else by the teacher

    def __len__(self) -> int:
        return len(self.inputs)

    def part(self, index: Tensor) -> Calibration:
        return Calibration(self.inputs[index], self.teacher[index], self.labels[index], self.labelled)


def gather(model: nn.Module, loader: Iterable[Any]) -> Calibration:
    """All batches in one piece. What makes a calibration hopeless is said here, before any work is done."""
    inputs, labels = [], []
    for batch in loader:
        x, y = (*batch, None)[:2] if isinstance(batch, (tuple, list)) else (batch, None)
        if not isinstance(x, Tensor):
            raise Error(f"a calibration batch is a tensor, or (tensor, classes), not a {type(x).__name__}; wrap the loader")
        inputs.append(x)
        if isinstance(y, Tensor) and y.dim() == 1 and not y.is_floating_point():
            labels.append(y)
    count = sum(map(len, inputs))
    if count < LEAST:
        raise Error(f"{count} calibration images are too few; give at least {LEAST}, some thousands are usual")
    x = torch.cat(inputs)
    teacher = predictions(model, x)
    labelled = len(labels) == len(inputs)
    y = torch.cat(labels).to(teacher.device) if labelled else teacher.argmax(1)
    if labelled:
        _check(teacher, y)
    return Calibration(x, teacher, y, labelled)


def _check(teacher: Tensor, labels: Tensor) -> None:
    classes = teacher.shape[1]
    if int(labels.max()) >= classes or int(labels.min()) < 0:
        raise Error(f"the calibration set has class {int(labels.max())}, and the model has {classes} classes")
    missing = classes - len(labels.unique())
    if missing and len(labels) >= 20 * classes:
        raise Error(f"{missing} of {classes} classes are missing in {len(labels)} calibration images; draw them from all classes")
    accuracy = float((teacher.argmax(1) == labels).float().mean())
    if accuracy <= 2 / classes and classes > 2:
        raise Error(
            f"the dense model is right on {accuracy:.1%} of the calibration images, which is chance for {classes} classes; "
            "load its weights, or normalise the images as in its training"
        )


@torch.no_grad()
def predictions(model: nn.Module, inputs: Tensor) -> Tensor:
    """The model's scores in evaluation mode."""
    training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        return torch.cat([as_logits(model(inputs[i : i + CHUNK].to(device))).float() for i in range(0, len(inputs), CHUNK)])
    finally:
        model.train(training)


@torch.no_grad()
def recalibrate(model: nn.Module, inputs: Tensor) -> None:
    """Batch-norm statistics anew: the plain average over batches."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is not None]
    if not norms:
        return
    device, modes = next(model.parameters()).device, [(m, m.training) for m in model.modules()]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True
    for i in range(0, len(inputs) - 1, CHUNK):
        model(inputs[i : i + CHUNK].to(device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for module, mode in modes:
        module.training = mode

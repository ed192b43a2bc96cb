"""Make a trained model sparse with a small calibration set: `fxsparse.training.calibrate`."""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fxsparse.errors import BudgetError, Error
from fxsparse.network import trace
from fxsparse.passes.fold_batch_norm import FoldBatchNorm
from fxsparse.sparsity.patterns import as_pattern
from fxsparse.sparsity.targets import find_targets
from fxsparse.training.calibration.images import Calibration, gather, predictions, recalibrate
from fxsparse.training.calibration.layerwise import reconstruct
from fxsparse.training.calibration.objective import OBJECTIVES, augmented
from fxsparse.training.calibration.search import Distribution, search
from fxsparse.training.calibration.settings import Settings, settings_of
from fxsparse.training.evaluate import as_logits
from fxsparse.training.methods import OneShot
from fxsparse.training.sparsifier import Sparsifier
from fxsparse.training.straight_through import StraightThrough

Progress = Callable[[str, int, int], object]  # what is done, how much of it, of how much


@dataclass(frozen=True, eq=False)
class Calibrated:
    """The sparse model (a copy; the dense one is as it was), its masks and counts, and how the run went."""

    model: nn.Module
    masks: dict[str, Tensor]
    distribution: Distribution
    settings: Settings
    agreement: float  # with the dense model, on the calibration images
    seconds: float
    losses: list[float] = field(default_factory=list)  # the mean of each epoch
    searched: list[tuple[list[float], float]] = field(default_factory=list)  # every genome with its fitness

    @property
    def sparsity(self) -> float:
        return 1 - sum(self.distribution.counts.values()) / sum(mask.numel() for mask in self.masks.values())


def calibrate(
    model: nn.Module,
    loader: Iterable[Any],
    sparsity: float = 0.9,
    method: str = "unipts",
    *,
    executor: Executor | None = None,
    search_file: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Calibrated:
    """Make a trained classifier sparse after training, from a few thousand images, with labels or without.

    `loader` gives batches of images, or of (images, classes). `method` is unipts, distill, pot, magnitude, magnitude-bn or recommended;
    every part of it is an option of its own (`Settings`). The search runs on any `executor`, and goes on where `search_file` ends.
    """
    began = time.perf_counter()
    settings = settings_of(method, options)
    if not isinstance(sparsity, (int, float)) or not 0 <= sparsity < 1:
        raise Error(f"sparsity is the part of the weights that goes, at least 0 and below 1, not {sparsity!r}")
    targets = find_targets(model, exclude=settings.exclude)
    sizes = {t.name: t.parameter.numel() for t in targets}
    total = sum(sizes.values()) - round(sparsity * sum(sizes.values()))
    if total < len(sizes):
        raise BudgetError(f"a sparsity of {sparsity} leaves {total} weights for {len(sizes)} layers; ask for less, or exclude layers")
    data = gather(model, loader)
    teacher = copy.deepcopy(model).eval()
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    student, searched = copy.deepcopy(model), []
    allocation = settings.allocation
    if isinstance(allocation, (str, Path)) and str(allocation).endswith(".json"):
        allocation = Distribution.load(allocation)
    if as_pattern(settings.pattern).density is not None:
        allocation = "uniform"  # the pattern says how much of each layer stays, and nothing is left to search
    if allocation == "search":
        say = None if progress is None else lambda done, of, best: progress(f"search (best {best:.1%})", done, of)
        path = None if search_file is None else Path(search_file)
        allocation, found = search(student, data, total, settings, settings.exclude, executor=executor, path=path, progress=say)
        searched = found.history
        total = sum(allocation.counts.values())  # less than asked only by what is smaller than a unit of the pattern
    density = None if as_pattern(settings.pattern).density is not None else total / sum(sizes.values())
    if settings.objective == "layer-wise":  # how much each layer keeps is decided before norms are folded and scale its weights
        chosen, _ = _train(copy.deepcopy(student), teacher, data, density, allocation, settings, progress)
        student, teacher, allocation = _folded(student, data), _folded(teacher, data), Distribution(chosen.nonzeros)
    sparsifier, losses = _train(student, teacher, data, density, allocation, settings, progress)
    masks = dict(sparsifier.masks)
    empty = [name for name, count in sparsifier.nonzeros.items() if count == 0]
    if empty:
        raise BudgetError(f"{empty[0]} would be left without weights; use allocation='erk', less sparsity, or exclude it")
    if settings.objective == "layer-wise":
        reconstruct(student, teacher, masks, data.inputs, settings)
    if settings.objective in ("none", "layer-wise") and settings.recalibrate:
        recalibrate(student, data.inputs)
    sparsifier.release()
    student.eval()
    agreement = float((predictions(student, data.inputs).argmax(1) == data.teacher.argmax(1)).float().mean())
    distribution = Distribution(dict(sparsifier.nonzeros))
    return Calibrated(student, masks, distribution, settings, agreement, time.perf_counter() - began, losses, searched)


def _folded(model: nn.Module, data: Calibration) -> nn.Module:
    """The model without the batch norms that can be folded, so that a layer's output is what the next one sees."""
    training = model.training
    made = FoldBatchNorm()(trace(model.eval(), data.inputs[:2])).network.module
    return made.train(training)


def _train(
    student: nn.Module,
    teacher: nn.Module,
    data: Calibration,
    density: float | None,
    allocation: Any,
    settings: Settings,
    progress: Progress | None,
) -> tuple[Sparsifier, list[float]]:
    """Learn from the teacher under masks; with no objective, the masks are all that happens."""
    optimizer = torch.optim.SGD(student.parameters(), lr=settings.lr, momentum=settings.momentum)
    epochs = settings.epochs if settings.objective in OBJECTIVES else 0
    batch = min(settings.batch, len(data))
    per_epoch = len(data) // batch
    steps = max(1, epochs * per_epoch)
    kind: Any = {"pattern": settings.pattern, "exclude": settings.exclude, "allocation": allocation, "seed": settings.seed}
    made: Sparsifier
    if settings.dynamic and epochs:
        made = StraightThrough(student, optimizer, density, decay=settings.decay, interval=settings.interval, **kind)
    else:
        made = OneShot(student, optimizer, density, **kind)
    losses, step, device = [], 0, next(student.parameters()).device
    student.train()
    half = torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16")
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(settings.seed * 100_003 + epoch)
        order, total = torch.randperm(len(data), generator=generator), 0.0
        for index in order[: per_epoch * batch].split(batch):
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * _rate(step, steps, settings.warmup * per_epoch)
            images, wanted = data.inputs[index].to(device), data.teacher[index]
            if settings.augment:
                images = augmented(images, generator)
                with torch.no_grad(), half:
                    wanted = as_logits(teacher(images)).float()
            with half:
                given = as_logits(student(images)).float()
            loss = OBJECTIVES[settings.objective](given, wanted, epoch, settings)
            optimizer.zero_grad()
            loss.backward()
            made.step()
            total += float(loss.detach())
            step += 1
        losses.append(total / per_epoch)
        if not math.isfinite(losses[-1]):
            raise Error(f"the loss of epoch {epoch + 1} is {losses[-1]}; ask for a smaller lr than {settings.lr}")
        if progress is not None:
            progress("training", epoch + 1, epochs)
    return made, losses


def _rate(step: int, steps: int, warmup: int) -> float:
    """A linear rise over the warm-up, then half a cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

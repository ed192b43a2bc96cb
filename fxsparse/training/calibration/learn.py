"""The training of the sparse student by its dense teacher."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fxsparse.errors import Error
from fxsparse.sparsity.allocation import as_allocation
from fxsparse.sparsity.schedules import Cubic
from fxsparse.training.calibration.heads import Heads, Seen, blocks
from fxsparse.training.calibration.images import NORMS, Calibration, moved, take
from fxsparse.training.calibration.objective import loss_of
from fxsparse.training.calibration.plan import NoneEmpty, Plan
from fxsparse.training.calibration.settings import Settings
from fxsparse.training.calibration.variety import varied
from fxsparse.training.methods import Gradual, OneShot
from fxsparse.training.sparsifier import Sparsifier
from fxsparse.training.straight_through import StraightThrough

Progress = Callable[[str, int, int], object]  # what is done, how much of it, of how much


def learn(
    student: nn.Module, teacher: nn.Module, data: Calibration, plan: Plan, settings: Settings, progress: Progress | None
) -> tuple[Sparsifier, list[float]]:
    """Learn from the teacher under masks; with no objective, the masks are all that happens. Also the mean loss of each epoch."""
    optimizer = torch.optim.SGD(student.parameters(), lr=settings.lr, momentum=settings.momentum)
    epochs = settings.epochs if settings.learns else 0
    batch = min(settings.batch, len(data))
    per_epoch = len(data) // batch
    steps = epochs * per_epoch
    made = _masked(student, optimizer, plan, settings, steps)
    teach = _Teaching(student, teacher, data, plan, settings)
    losses, step = [], 0
    for epoch in range(epochs):
        generator = torch.Generator().manual_seed(settings.seed * 100_003 + epoch)
        order, total = torch.randperm(len(data), generator=generator), 0.0
        for index in order[: per_epoch * batch].split(batch):
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * _rate(step, steps, settings.warmup * per_epoch)
            loss = teach(index, epoch, generator)
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


def _masked(student: nn.Module, optimizer: torch.optim.Optimizer, plan: Plan, settings: Settings, steps: int) -> Sparsifier:
    allocation = as_allocation(plan.allocation)
    options: dict[str, Any] = {
        "pattern": plan.pattern,
        "exclude": settings.exclude,
        "allocation": allocation if settings.allow_empty else NoneEmpty(allocation),
        "seed": settings.seed,
    }
    end = round(settings.ramp * steps)
    density: Any = plan.density
    if settings.dynamic and steps:
        if end and density is not None:
            density = Cubic(1.0, density, end=end)
        return StraightThrough(student, optimizer, density, decay=settings.decay, interval=settings.interval, **options)
    if end and density is not None:
        return Gradual(student, optimizer, density, steps=steps, end=settings.ramp, interval=settings.interval, **options)
    return OneShot(student, optimizer, density, **options)


class _Teaching:
    """The loss of a batch."""

    def __init__(self, student: nn.Module, teacher: nn.Module, data: Calibration, plan: Plan, settings: Settings) -> None:
        self.student, self.teacher, self.data, self.settings = student, teacher, data, settings
        self.inner = frozenset(blocks(student, [name for t in plan.targets for name in t.names]) if settings.features else ())
        self.heads = Heads({**data.heads.kinds, **dict.fromkeys(self.inner, "values")}, data.heads.follow)
        self.device = next(student.parameters()).device
        # An autocast that keeps its casts would go on with the first step's weights.
        self.half = torch.autocast(self.device.type, torch.bfloat16, enabled=settings.precision == "bf16", cache_enabled=False)
        # No auxiliary heads and no losses of its own, which a model in training mode may return; but statistics and dropout as in training.
        student.eval()
        for module in student.modules():
            if isinstance(module, (NORMS, nn.modules.dropout._DropoutNd)):
                module.training = True

    def __call__(self, index: Tensor, epoch: int, generator: torch.Generator) -> Tensor:
        images = moved(varied(take(self.data.inputs, index), self.settings, generator), self.device)
        known = None if self.settings.augment or self.settings.mix or self.inner else self.data.teacher
        with self.half:
            if known is None:
                with torch.no_grad():
                    wanted = self.heads.run(self.teacher, images)
            else:
                wanted = Seen({"": known[index.to(known.device)]})
            given = self.heads.run(self.student, images, wanted.led)
        return loss_of(self.heads, given, wanted, epoch, self.settings, self.inner)


def _rate(step: int, steps: int, warmup: int) -> float:
    """A linear rise over the warm-up, then half a cosine to 0."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

"""Make a trained model sparse with a small calibration set: `fxsparse.training.calibrate`."""

from __future__ import annotations

import copy
import os
import time
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fxsparse.errors import BudgetError
from fxsparse.training.calibration.absorb import absorb, pairs
from fxsparse.training.calibration.distribution import Distribution
from fxsparse.training.calibration.heads import Heads
from fxsparse.training.calibration.images import Calibration, alike, gather, recalibrate
from fxsparse.training.calibration.layerwise import reconstruct
from fxsparse.training.calibration.learn import Progress, learn
from fxsparse.training.calibration.plan import Plan, planned
from fxsparse.training.calibration.search import search
from fxsparse.training.calibration.settings import Settings, settings_of
from fxsparse.training.checkpoint import seeded
from fxsparse.training.sparsifier import Sparsifier


@dataclass(frozen=True, eq=False)
class Calibrated:
    """The sparse model (a copy; the dense one is as it was), its masks and counts, and how the run went. It may be called, and asked for
    parameters, state dict and so on, as the model itself."""

    model: nn.Module
    masks: dict[str, Tensor]
    distribution: Distribution
    settings: Settings
    heads: Heads  # what of the outputs was compared
    agreement: float  # with the dense model, on the calibration images: the part of equal classes, or of variance that is hit
    seconds: float
    losses: list[float] = field(default_factory=list)  # the mean of each epoch
    searched: list[tuple[list[float], float]] = field(default_factory=list)  # every genome with its fitness

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "model" or name.startswith("__"):  # while a copy is made
            raise AttributeError(f"a calibrated network has no {name!r}")
        return getattr(self.model, name)

    @property
    def sparsity(self) -> float:
        return 1 - self.distribution.total / sum(mask.numel() for mask in self.masks.values())

    @property
    def classifies(self) -> bool:
        """Whether the model gives one row of class scores an image, so that it has an accuracy."""
        return self.heads.plain


def calibrate(
    model: nn.Module,
    loader: Iterable[Any],
    sparsity: float | None = None,
    method: str = "unipts",
    *,
    executor: Executor | int | None = None,
    search_file: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Calibrated:
    """Make a trained network sparse after training, from a few thousand images, with labels or without.

    `loader` gives batches of images, or of (images, classes); for networks that take lists, lists of images. `sparsity` is the part of the
    weights that goes, 0.9 unless a pattern or a saved distribution says another. `method` is unipts, distill, pot, magnitude, magnitude-bn
    or recommended; every part of it is an option of its own (`Settings`). The search runs here, in so many processes, or on any
    `concurrent.futures.Executor`, and goes on where `search_file` ends.
    """
    began = time.perf_counter()
    settings = settings_of(method, options)
    plan = planned(model, sparsity, settings)
    data = gather(model, loader, settings)
    teacher = copy.deepcopy(model).eval()
    for parameter in teacher.parameters():
        parameter.requires_grad_(False)
    searched: list[tuple[list[float], float]] = []
    if plan.searches:
        say = None if progress is None else lambda done, of, best: progress(f"search (best {best:.1%})", done, of)
        path = None if search_file is None else Path(search_file)
        chosen, found = search(model, data, plan, settings, executor, path, say)
        searched = found.history
        plan = replace(plan, allocation=chosen, total=chosen.total)  # less than asked only by what is smaller than a unit of the pattern
    student = copy.deepcopy(model)
    losses: list[float] = []
    with seeded(settings.seed):  # dropout
        if settings.objective == "layer-wise":
            made = _layer_wise(student, teacher, data, plan, settings, progress)
        else:
            made, losses = learn(student, teacher, data, plan, settings, progress)
    empty = [name for name, count in made.nonzeros.items() if count == 0]
    if empty and not settings.allow_empty:
        raise BudgetError(f"{empty[0]} was left without weights; use allocation='erk', less sparsity, or exclude it")
    if settings.objective == "none" and settings.recalibrate:
        recalibrate(student, data.inputs)
    made.release()
    student.eval()
    distribution = Distribution(dict(made.nonzeros))
    agreement = alike(student, teacher, data)
    seconds = time.perf_counter() - began
    return Calibrated(student, dict(made.masks), distribution, settings, data.heads, agreement, seconds, losses, searched)


def _layer_wise(
    student: nn.Module, teacher: nn.Module, data: Calibration, plan: Plan, settings: Settings, progress: Progress | None
) -> Sparsifier:
    """Each layer with the norm behind it. How much a layer keeps is decided before norms scale its weights."""
    made, _ = learn(student, teacher, data, plan, settings, None)
    made.release()
    student.load_state_dict(teacher.state_dict())
    norms = pairs(teacher, data)
    for model in (student, teacher):
        absorb(model, norms)
    if plan.pattern.density is None:
        plan = replace(plan, allocation=Distribution(made.nonzeros), total=sum(made.nonzeros.values()))
    made, _ = learn(student, teacher, data, plan, settings, None)
    reconstruct(student, teacher, made.masks, norms, data, settings, progress)
    if settings.recalibrate:
        recalibrate(student, data.inputs, exclude=set(norms.values()))
    return made

"""The baselines: static, SET, RigL, gradual and one-shot magnitude pruning. Each is a choice of scores and schedules."""

from __future__ import annotations

from typing import Any, Unpack

from torch import nn
from torch.optim import Optimizer

from fxsparse.errors import Error
from fxsparse.sparsity.allocation import checked_density
from fxsparse.sparsity.schedules import Cosine, Cubic, Schedule
from fxsparse.training.sparsifier import Options, Sparsifier


class Static(Sparsifier):
    """One mask for ever, random unless `start` says otherwise."""

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, density: float | None = None, *, steps: int | None = None, **options: Unpack[Options]
    ) -> None:
        if steps is not None:
            options.setdefault("interval", usual_interval(steps))
        super().__init__(model, optimizer, density, **options)


class OneShot(Static):
    """Keep the best weights at once, by magnitude unless `start` says otherwise, and train on."""

    def __init__(
        self, model: nn.Module, optimizer: Optimizer, density: float | None = None, *, steps: int | None = None, **options: Unpack[Options]
    ) -> None:
        options.setdefault("start", "magnitude")
        super().__init__(model, optimizer, density, **options)


class SET(Sparsifier):
    """Sparse evolutionary training (Mocanu et al., 2018): small weights go, random ones come.

    The share that is exchanged falls from `fraction` to 0 along a cosine, which ends at the part `stop` of all `steps`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        density: float | Schedule | None = None,
        *,
        steps: int,
        fraction: float = 0.3,
        stop: float = 0.75,
        **options: Unpack[Options],
    ) -> None:
        schedule = Cosine(_share("fraction", fraction), 0.0, end=_part("stop", stop, steps))
        options.setdefault("interval", usual_interval(steps))
        super().__init__(model, optimizer, density, fraction=schedule, **options)


class RigL(SET):
    """The rigged lottery (Evci et al., 2020): small weights go, those with the largest gradients come, and start at zero."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        density: float | Schedule | None = None,
        *,
        steps: int,
        fraction: float = 0.3,
        stop: float = 0.75,
        **options: Unpack[Options],
    ) -> None:
        options.setdefault("grow", "gradient")
        super().__init__(model, optimizer, density, steps=steps, fraction=fraction, stop=stop, **options)


class Gradual(Sparsifier):
    """Gradual magnitude pruning (Zhu and Gupta, 2017): from dense to `density` along a cubic curve between two parts of all `steps`."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        density: float,
        *,
        steps: int,
        begin: float = 0.0,
        end: float = 0.75,
        **options: Unpack[Options],
    ) -> None:
        curve = Cubic(1.0, checked_density(density), begin=_part("begin", begin, steps), end=_part("end", end, steps))
        options.setdefault("interval", usual_interval(steps))
        options.setdefault("start", "magnitude")
        super().__init__(model, optimizer, curve, **options)


def _share(name: str, value: float) -> float:
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise Error(f"{name} is a share between 0 and 1, not {value!r}")
    return value


def usual_interval(steps: int) -> int:
    """From one renewal of the masks to the next: 100 steps; in a run below 2,000 steps a twentieth of it, or hardly any would be."""
    return min(100, max(1, steps // 20))


def _part(name: str, part: float, steps: Any) -> int:
    """The step at a part of the run."""
    if not isinstance(steps, int) or steps < 1:
        raise Error(f"steps is the number of optimizer steps of the whole run, not {steps!r}")
    return round(_share(name, part) * steps)

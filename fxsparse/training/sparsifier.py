"""Sparse training: masks that are renewed by scores, to exact counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypedDict

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fxsparse.errors import Error
from fxsparse.sparsity.allocation import Allocation, as_allocation
from fxsparse.sparsity.chance import seed_of
from fxsparse.sparsity.masks import choose, exchange, laid_out_as, nonzeros
from fxsparse.sparsity.patterns import Pattern, as_pattern
from fxsparse.sparsity.schedules import Schedule, as_schedule
from fxsparse.sparsity.scores import Score, Weight, as_score, reads_gradient
from fxsparse.sparsity.targets import Target, find_targets
from fxsparse.training.budget import Budget, require_counts
from fxsparse.training.distributed import require_agreement
from fxsparse.training.masked import MaskedOptimizer
from fxsparse.training.sparsifier_state import require_fitting, settings_of


class Options(TypedDict, total=False):
    """What every method takes."""

    allocation: str | Mapping[str, float] | Allocation
    pattern: str | Pattern
    interval: int
    start: str | Score
    drop: str | Score
    grow: str | Score
    include: Iterable[str] | None
    exclude: Iterable[str]
    seed: int


class Sparsifier(MaskedOptimizer):
    """A masked optimizer whose masks are renewed.

    After every `interval` steps, and where the schedule of `density` ends, the share `fraction` of the living weights is dropped by the
    score `drop`, and by the score `grow` weights come back, up to `density`. The first masks are the best by the score `start`.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        density: float | Schedule | None = None,
        *,
        fraction: float | Schedule = 0.0,
        allocation: str | Mapping[str, float] | Allocation = "erk",
        pattern: str | Pattern = "unstructured",
        interval: int = 100,
        start: str | Score = "random",
        drop: str | Score = "magnitude",
        grow: str | Score = "random",
        include: Iterable[str] | None = None,
        exclude: Iterable[str] = (),
        seed: int = 0,
    ) -> None:
        if not isinstance(interval, int) or interval < 1:
            raise Error(f"masks cannot be renewed every {interval!r} steps; give an interval of at least 1")
        super().__init__(model, optimizer, find_targets(model, include, exclude))
        self.interval, self.seed = interval, seed
        self.drop, self.grow, self.fraction = as_score(drop), as_score(grow), as_schedule(fraction)
        self.pattern = as_pattern(pattern)
        self.budget = Budget(self.targets, density, as_allocation(allocation), self.pattern)
        self.require_possible()
        self.steps_done = 0
        self.exchanged = {"dropped": 0, "grown": 0}
        self._dense: dict[str, Tensor] = {}
        with torch.no_grad():
            weights, score = self.weights(), as_score(start)
            counts = self.counts(score, weights)
            masks = {name: choose(self.pattern, score(w), counts[name], self.budget.units[name]) for name, w in weights.items()}
        self._install(masks, counts)
        self._hook()

    @property
    def dense_gradients(self) -> bool:
        """Whether the coming step needs the gradients of masked weights."""
        return self.due(self.steps_done + 1) and (reads_gradient(self.drop) or reads_gradient(self.grow))

    def metrics(self) -> dict[str, float]:
        """Plain numbers for a log."""
        empty = sum(count == 0 for count in self._living.values())
        return {"nonzeros": sum(self._living.values()), "density": self.density, "empty_layers": empty, **self.exchanged}

    # ---- what a method may replace --------------------------------------------------------------------------------------------

    def require_possible(self) -> None:
        """An error, before anything changes, when the method's own options cannot go with the budget."""

    def due(self, step: int) -> bool:
        """Whether the masks are renewed after this step; the first step is 1."""
        end = self.budget.schedule.end
        return 0 < step == end or (step % self.interval == 0 and (step < end or self.fraction(step) > 0))

    def observe(self) -> None:
        self._dense = {}
        if self.dense_gradients:
            self._dense = {t.name: t.parameter.grad.clone() for t in self.targets if t.parameter.grad is not None}

    def renew(self, weight: Weight, count: int) -> Tensor:
        """The new mask of one tensor, with exactly `count` living weights."""
        assert weight.mask is not None
        drop, grow = self.drop(weight), self.grow(replace(weight, seed=weight.seed + 1))
        return exchange(self.pattern, weight.mask, drop, grow, count, self.fraction(self.steps_done), self.budget.units[weight.name])

    def extra_state(self) -> dict[str, Any]:
        """What a method remembers beside its masks: tensors and plain numbers."""
        return {}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        """Take `extra_state` back."""

    # ---- renewal --------------------------------------------------------------------------------------------------------------

    def stepped(self) -> None:
        self.steps_done += 1
        if self.due(self.steps_done):
            self.update()

    def update(self) -> None:
        """Renew the masks now. The step does it when it is due."""
        with torch.no_grad():
            weights = self.weights()
            counts = self.counts(self.drop, weights)
            masks = {name: self.renew(weight, counts[name]) for name, weight in weights.items()}
        old, living = self._masks, sum(self._living.values())
        self._install(masks, counts)
        self._dense = {}
        stayed = sum(nonzeros(old[name] & mask) for name, mask in masks.items())
        self.exchanged = {"dropped": living - stayed, "grown": sum(self._living.values()) - stayed}

    def counts(self, score: Score, weights: Mapping[str, Weight]) -> dict[str, int]:
        """How many weights of each tensor are to live now. `score` is for allocations that rank."""
        scores = {name: self.pattern.pool(score(weight)) for name, weight in weights.items()} if self.budget.ranks else {}
        return self.budget.counts(self.steps_done, scores)

    def weights(self) -> dict[str, Weight]:
        """What scores look at, now."""
        return {t.name: Weight(t.name, self._value(t), self._masks[t.name], self._gradient(t), self._seed_of(t.name)) for t in self.targets}

    def _value(self, target: Target) -> Tensor:
        return target.parameter.detach()

    def _gradient(self, target: Target) -> Tensor | None:
        if not self._dense:
            return target.parameter.grad
        found = self._dense.get(target.name)
        return torch.zeros_like(target.parameter) if found is None else found  # not used in this step's forward pass

    def _seed_of(self, name: str) -> int:
        return seed_of(self.seed, self.steps_done, name)

    def _install(self, masks: Mapping[str, Tensor], counts: Mapping[str, int]) -> None:
        require_counts(masks, counts)
        require_agreement(masks)
        self.take({t.name: laid_out_as(t.parameter, masks[t.name]) for t in self.targets})

    # ---- saving, and other models -----------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers, for torch.save; torch.load reads it with weights_only=True."""
        return {
            "method": type(self).__name__,
            "steps_done": self.steps_done,
            "settings": settings_of(self, self.steps_done),
            "masks": dict(self._masks),
            "exchanged": dict(self.exchanged),
            "extra": self.extra_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; load the model and the optimizer first. When the state does not fit, nothing changes."""
        require_fitting(state, self)
        self.steps_done, self.exchanged = int(state["steps_done"]), dict(state["exchanged"])
        self.take({name: torch.empty_like(mask).copy_(state["masks"][name]) for name, mask in self._masks.items()}, clear=False)
        self.load_extra_state(state["extra"])

    def rebind(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """Go on with a model whose tensors have other shapes, under these masks; the optimizer must hold its parameters already."""
        if self.frozen is not None:
            raise Error("parts of the model are frozen in its old shapes; call freeze(None) first, and freeze those of the new model")
        targets = tuple(t for t in find_targets(model, include=list(masks)) if t.name in masks)
        fitting = {t.name for t in targets if masks[t.name].shape == t.parameter.shape}
        if fitting != set(masks):
            odd = sorted(set(masks) - fitting)[0]
            raise Error(f"the mask of {odd} does not fit the new model; give one mask of the new shape for each tensor that is masked")
        budget = Budget(targets, self.budget.schedule, self.budget.allocation, self.pattern)
        self._bind(model, targets)
        self.budget = budget
        self.take({t.name: masks[t.name].to(t.parameter.device, torch.bool) for t in targets}, clear=False)

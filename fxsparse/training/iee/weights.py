"""Exploitation and exploration of single weights, by one criterion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fxsparse.errors import CheckpointError, Error
from fxsparse.sparsity.allocation import Layer, checked_density
from fxsparse.sparsity.chance import generator
from fxsparse.sparsity.masks import apply, choose
from fxsparse.sparsity.schedules import Cubic, Schedule
from fxsparse.sparsity.scores import Mean, Score, Weight
from fxsparse.sparsity.targets import Target, unwrapped
from fxsparse.training.iee.calendar import Stage, calendar_of
from fxsparse.training.iee.checks import require_possible
from fxsparse.training.iee.counts import share_of_cycle, within
from fxsparse.training.iee.criterion import among_living, as_criterion, beside_living
from fxsparse.training.iee.exploration import Exploration
from fxsparse.training.iee.settings import Choices, Settings, require_same, settings_of, told
from fxsparse.training.iee.timeline import Change, Event, Memory, Timeline, relative_size
from fxsparse.training.iee.waking import woken
from fxsparse.training.sparsifier import Options, Sparsifier
from fxsparse.training.sparsifier_state import require_fitting


class WeightOptions(Options, Choices, total=False):
    """What `ExploitExplore` takes: what every method takes, and its own choices."""


class ExploitExplore(Sparsifier):
    """IEE (Sun et al., 2025): living weights are trained alone; now and then the resting ones wake, train alone while everything else is
    frozen to the bit, and the best of them, by the criterion that also decides what is dropped, live again.

    A cycle is: estimate the criterion, prune to the budget, exploit, explore, grow. `stage` says where the coming step is. While
    `exploring`, the module holds all weights, and `at_rest` shows it as it is without the resting ones.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        density: float | Schedule | None = None,
        *,
        steps: int,
        preset: str = "sparse",
        **options: Unpack[WeightOptions],
    ) -> None:
        given: dict[str, Any] = dict(options)
        chosen = self.settings = settings_of(preset, {f.name: given.pop(f.name) for f in fields(Settings) if f.name in given})
        taken = sorted({"drop", "interval"} & set(given))
        if taken:
            raise Error(f"{taken[0]!r} is no option of ExploitExplore; the criterion decides what goes, and `cycles` says how often")
        self.calendar = calendar_of(
            steps, cycles=chosen.cycles, most=chosen.most, stop=chosen.stop, estimate=chosen.estimate, explore=chosen.explore
        )
        self.criterion = as_criterion(chosen.criterion)
        self.growth_criterion = self.criterion if chosen.grow is None else as_criterion(chosen.grow)
        if chosen.ramp and isinstance(density, int | float):
            end = min(max(1, round(chosen.ramp * steps)), self.calendar.last_prune)
            density = Cubic(1.0, checked_density(density), end=end)
        self.model = model
        self.resting: dict[str, Tensor] = {}  # values of weights that do not live; zero elsewhere
        self.exploring = False  # whether resting weights are awake, so that the module is not the sparse network now
        self.timeline = Timeline(spans=tuple(self.calendar.spans()))
        self._exploration: Exploration | None = None
        self._seen: tuple[Mean, dict[str, Tensor]] | None = None  # the coming step's scores
        super().__init__(model, optimizer, density, drop=self.criterion, grow=self.growth_criterion, **given)
        self.memory = Memory(self._masks)
        self.timeline.add(Event(0, 0, "start", {name: Change(count) for name, count in self._living.items()}))

    def require_possible(self) -> None:
        require_possible(self.settings, self.calendar, self.budget, self.growth_criterion)

    # ---- what one sees ------------------------------------------------------------------------------------------------------

    @property
    def stage(self) -> Stage:
        """The stage of the coming step."""
        return self.calendar.stage(self.steps_done + 1)

    @property
    def nonzeros(self) -> dict[str, int]:
        """Parameter name -> how many of its weights take part in the coming step: while exploring, all of them."""
        return {name: mask.numel() for name, mask in self._masks.items()} if self.exploring else dict(self._living)

    @property
    def dense_gradients(self) -> bool:
        """Whether the coming step needs the gradients of resting weights."""
        return self.exploring or self._asked_at_rest

    def metrics(self) -> dict[str, float]:
        return {**super().metrics(), "cycle": self.calendar.cycle(self.steps_done + 1), "regret": self.timeline.regret}

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Within, the module is the sparse network, also in the middle of an exploration."""
        awake = [(t, t.parameter.detach().clone()) for t in self.targets] if self.exploring else []
        for target, _ in awake:
            apply(self._masks[target.name], target.parameter.detach())
        try:
            yield
        finally:
            for target, value in awake:
                target.parameter.detach().copy_(value)

    # ---- the step -------------------------------------------------------------------------------------------------------------

    def due(self, step: int) -> bool:
        return self.calendar.prunes(step) or self.calendar.grows(step)

    def observe(self) -> None:
        """Look at the criterion, where it will be asked. It counts with the step: one that overflows is skipped."""
        self._seen = None
        if self.stage == "estimate":
            self._seen = self._scored(self.criterion)
        elif self.exploring or self._asked_at_rest:
            self._seen = self._scored(self.growth_criterion)

    def mask_gradients(self) -> None:
        if self._exploration is None:
            super().mask_gradients()
        else:
            self._exploration.mask_gradients()

    def before_step(self) -> None:
        if self._exploration is not None:
            self._exploration.before_step()

    def after_step(self) -> None:
        if self._exploration is None:
            super().after_step()
        else:
            self._exploration.after_step()

    def stepped(self) -> None:
        if self._seen is not None:
            criterion, scores = self._seen
            for name, each in scores.items():
                criterion.take(name, each)
            self._seen = None
        super().stepped()
        if self.calendar.enters(self.steps_done):
            self._wake()

    def update(self) -> None:
        """Prune or grow, whichever is due after the step that was made."""
        if not self.due(self.steps_done):
            raise Error(f"nothing is pruned or grown after step {self.steps_done}, in the stage {self.stage!r}; see the calendar")
        if self.calendar.prunes(self.steps_done):
            self.prune()
        else:
            self._sleep()
            self.grow_back()

    # ---- the stages -------------------------------------------------------------------------------------------------------------

    def prune(self) -> None:
        """Keep the best of what lives, within the budget."""
        with torch.no_grad():
            weights = self.weights()
            worth = among_living(self.criterion, self.memory.recent if self.settings.grace else None)
            counts = within(self.counts(worth, weights), dict.fromkeys(weights, 0), self._living, self.budget.units)
            masks = {name: choose(self.pattern, worth(w), counts[name], self.budget.units[name]) for name, w in weights.items()}
        self._renew("prune", masks, counts)

    def grow_back(self) -> None:
        """Bring the best of the resting weights back beside all that live; or, ranked jointly, in place of some."""
        chosen, joint = self.settings, self.settings.ranking == "joint"
        with torch.no_grad():
            weights, worth = self.weights(), self.growth_criterion if joint else beside_living(self.growth_criterion)
            share = share_of_cycle(chosen.growth, self.calendar.cycle(self.steps_done), self.calendar.cycles, chosen.decay)
            living = sum(self._living.values())
            counts = self._allotted(min(living + round(share * living), self.budget.size), worth, weights)
            if not joint:
                counts = within(counts, self._living, {name: w.value.numel() for name, w in weights.items()}, self.budget.units)
            masks = {name: choose(self.pattern, worth(w), counts[name], self.budget.units[name]) for name, w in weights.items()}
            if not self.calendar.explore:
                self.resting = {t.name: self._waking(t) for t in self.targets}
        self._renew("grow", masks, counts)

    def _wake(self) -> None:
        """The exploration begins."""
        with torch.no_grad():
            for target in self.targets:
                value = target.parameter.detach()
                value.copy_(torch.where(self._masks[target.name], value, self._waking(target)))
                self.resting[target.name].zero_()
        self.criterion.clear()
        self.growth_criterion.clear()
        self._explore(None)

    def _explore(self, aside: Mapping[str, Mapping[str, Any]] | None) -> None:
        free = {t.parameter: ~self._masks[t.name] for t in self.targets} if self.settings.freeze else None
        self._exploration = Exploration(unwrapped(self.model), self.optimizer, free, rate=self.settings.explore_lr)
        self._exploration.begin(aside, evaluate=self.settings.statistics == "eval")
        self._held = self._exploration.frozen()
        self.exploring = True

    def _sleep(self, *, put_back: bool = True) -> None:
        """The exploration ends; what the resting weights have become is remembered."""
        if self._exploration is not None:
            self._exploration.end(put_back=put_back)
            self._exploration, self._held, self.exploring, self.resting = None, None, False, {}
            with torch.no_grad():
                self._part(self._masks)

    def _waking(self, target: Target) -> Tensor:
        chance = generator("wake", self.seed, self.steps_done, target.name)
        return woken(self.settings, target.parameter.detach(), self._masks[target.name], self.resting[target.name], chance)

    # ---- scores and counts ------------------------------------------------------------------------------------------------------

    @property
    def _asked_at_rest(self) -> bool:
        """Whether, for want of an exploration, the coming step's gradients alone say what resting weights are worth."""
        return not self.calendar.explore and self.calendar.grows(self.steps_done + 1)

    def _scored(self, criterion: Mean) -> tuple[Mean, dict[str, Tensor]]:
        scores = {}
        for target in self.targets:
            value, grad, mask = target.parameter.detach(), target.parameter.grad, self._masks[target.name]
            if self._asked_at_rest and self.stage != "estimate":
                value = torch.where(mask, value, self._waking(target))
            grad = torch.zeros_like(value) if grad is None else grad
            scores[target.name] = criterion.score(Weight(target.name, value, mask, grad, self._seed_of(target.name))).detach().clone()
        return criterion, scores

    def _allotted(self, total: int, worth: Score, weights: Mapping[str, Weight]) -> dict[str, int]:
        scores = {name: self.pattern.pool(worth(weight)) for name, weight in weights.items()} if self.budget.ranks else {}
        layers = {name: Layer(shape, self.budget.units[name], scores.get(name)) for name, shape in self.budget.shapes.items()}
        return self.budget.allocation(layers, total)

    # ---- masks ------------------------------------------------------------------------------------------------------------------

    def _renew(self, kind: Literal["prune", "grow"], masks: Mapping[str, Tensor], counts: Mapping[str, int]) -> None:
        old, ratio = dict(self._masks), None
        if kind == "grow":
            values = {t.name: t.parameter.detach() for t in self.targets}
            ratio = relative_size([(values[name][old[name]], self.resting[name][mask & ~old[name]]) for name, mask in masks.items()])
        self._install(masks, counts)
        event = Event(self.steps_done, self.calendar.cycle(self.steps_done), kind, self.memory.changes(old, masks), ratio)
        self.timeline.add(event)
        self.exchanged = {"dropped": event.total("dropped"), "grown": event.total("grown")}
        self.criterion.clear()
        self.growth_criterion.clear()

    def put_in_place(self, masks: Mapping[str, Tensor], clear: bool) -> None:
        """Dropped values go to rest, and grown ones come from there."""
        if not self.exploring:
            self._part(masks)
            super().put_in_place(masks, clear)

    def _part(self, masks: Mapping[str, Tensor]) -> None:
        """Show the living weights in the module, and keep the others here."""
        for target in self.targets:
            value, rest = target.parameter.detach(), self.resting.get(target.name)
            whole = value.clone() if rest is None else torch.where(self._masks[target.name], value, rest)
            value.copy_(whole)
            apply(masks[target.name], value)
            apply(~masks[target.name], whole)
            self.resting[target.name] = whole

    # ---- saving, and other models -------------------------------------------------------------------------------------------------

    def extra_state(self) -> dict[str, Any]:
        return {
            "calendar": asdict(self.calendar),
            "choices": told(self.settings),
            "resting": dict(self.resting),
            "aside": None if self._exploration is None else self._exploration.state(),
            "criteria": [each.state_dict() for each in (self.criterion, self.growth_criterion)],
            "memory": self.memory.state_dict(),
            "timeline": self.timeline.to_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved state; load the model and the optimizer first. When the state does not fit, nothing changes."""
        extra = state.get("extra", {})
        if state.get("method") == type(self).__name__ and extra.get("calendar") != asdict(self.calendar):
            raise CheckpointError(f"the state is of a run with the calendar {extra.get('calendar')}, not {asdict(self.calendar)}")
        require_fitting(state, self)
        require_same(extra.get("choices", {}), told(self.settings))
        if self._exploration is not None:
            self._exploration.end(put_back=False)
            self._exploration, self._held = None, None
        self.resting, self.exploring = {}, extra["aside"] is not None
        super().load_state_dict(state)

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        self.resting = {t.name: torch.empty_like(t.parameter.detach()).copy_(state["resting"][t.name]) for t in self.targets}
        for own, saved in zip((self.criterion, self.growth_criterion), state["criteria"], strict=True):
            own.load_state_dict(saved)
        self.memory.load_state_dict(state["memory"])
        self.timeline = Timeline.from_dict(state["timeline"])
        if state["aside"] is not None:
            self._explore(state["aside"])

    def rebind(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """As for all methods; resting weights start again from zero."""
        if self.exploring:
            raise Error("the model cannot be exchanged in the middle of an exploration; do it when `exploring` is false")
        self.resting, self.model = {}, model
        super().rebind(model, masks)
        self.memory = Memory(self._masks)

    def release(self) -> None:
        """Let the optimizer go; an exploration ends at once, and resting weights are zero."""
        self._sleep()
        super().release()

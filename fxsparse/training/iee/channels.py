"""Exploitation and exploration of channels, heads and all other units: physically."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fxsparse.errors import BudgetError, CheckpointError, Error
from fxsparse.network import Network
from fxsparse.surgery.carry import carry
from fxsparse.surgery.journal import Init, grid
from fxsparse.training.distributed import require_agreement
from fxsparse.training.iee.asked import (
    cost_of,
    criterion_of,
    everything,
    require_askable,
    require_owned,
    require_reachable,
    require_silent,
    spending_of,
)
from fxsparse.training.iee.calendar import Stage, calendar_of
from fxsparse.training.iee.channel_state import restored, saved
from fxsparse.training.iee.counts import share_of_cycle
from fxsparse.training.iee.exploration import Exploration
from fxsparse.training.iee.latency import NEAR, TRIES, Latency
from fxsparse.training.iee.settings import Choices, Settings, require_same, settings_of, told
from fxsparse.training.iee.spending import Living, Spending, best_within
from fxsparse.training.iee.timeline import Change, Event, Memory, Timeline
from fxsparse.training.iee.units import UnitCriterion
from fxsparse.training.masked import MaskedOptimizer

INITS: dict[str, Init] = {"last": "journal", "zero": "zero", "random": "fresh"}


class ExploitExploreChannels(MaskedOptimizer):
    """IEE of channels: exploitation trains the physically small network, exploration the whole one.

    Between the two the network is shrunk and regrown, so `model` is another module after some steps: call `sparsifier.model(inputs)`. The
    optimizer, and the averaged copies in `followers`, are carried along, in place; `on_change` is called with every new network, to compile
    or wrap it again. In the end `network` is small and plain.

    One of `units`, `macs`, `parameters` and `latency` (measured on an engine, with so many threads) says what part of the given network's
    cost is to be left; or `spending` measures costs, and `part` is what is to be left of them.
    """

    def __init__(
        self,
        network: Network,
        optimizer: Optimizer,
        *,
        steps: int,
        units: float | None = None,
        macs: float | None = None,
        parameters: float | None = None,
        latency: float | None = None,
        engine: str = "onnxruntime",
        threads: int = 1,
        spending: Spending | None = None,
        part: float | None = None,
        followers: Sequence[nn.Module] = (),
        on_change: Callable[[Network], None] | None = None,
        exclude: Sequence[str] = (),
        least: int = 1,
        preset: str = "stated",
        grow: Any = None,
        **choices: Unpack[Choices],
    ) -> None:
        if not isinstance(network, Network):
            raise Error(f"a {type(network).__name__} stands where the network should; give fxsparse.trace(model, inputs)")
        given: dict[str, Any] = {**dict(choices), **({} if grow is None else {"grow": grow})}
        unknown = sorted(set(given) - {entry.name for entry in fields(Settings)})
        if unknown:
            raise TypeError(f"unexpected option {unknown[0]!r}")
        chosen = self.settings = settings_of(preset, given)
        asked = {"units": units, "macs": macs, "parameters": parameters, "latency": latency}
        self.calendar = calendar_of(
            steps, cycles=chosen.cycles, most=chosen.most, stop=chosen.stop, estimate=chosen.estimate, explore=chosen.explore
        )
        self.criterion = criterion_of(chosen.criterion)
        self.growth_criterion = self.criterion if chosen.grow is None else criterion_of(chosen.grow)
        exclude = (exclude,) if isinstance(exclude, str) else exclude
        require_askable(network, chosen, self.growth_criterion, exclude, least)
        self.exclude, self.least, self.followers, self.on_change = frozenset(exclude), least, tuple(followers), on_change
        super().__init__(network.module, optimizer, ())
        require_owned(network, optimizer)
        self.network = network
        self.spending, self.part = spending_of(asked, spending, part, lambda: Latency.on(network, engine, threads))
        self.active: Living = dict(network.living)  # what lives: while exploring, less than the network holds
        self.whole = self.spending(network, everything(network))
        require_reachable(self.part, self.spending(network, self._narrowest()) / self.whole)
        if chosen.value == "zero" and self.calendar.cycles and (chosen.explore or chosen.growth):
            require_silent(network, [name for name in self.active if self._may_change(name)])
        self.steps_done = 0
        self.spent = {"exploit": 0, "explore": 0}  # multiply-accumulates of forward passes on the example inputs
        self.memory = Memory(self._as_masks(self.active))
        self.timeline = Timeline(spans=tuple(self.calendar.spans()))
        self.timeline.add(Event(0, 0, "start", {name: Change(len(units)) for name, units in self.active.items() if self._may_change(name)}))
        self._exploration: Exploration | None = None
        self._seen: tuple[UnitCriterion, dict[str, Tensor]] | None = None  # the coming step's scores
        self._hook()

    # ---- what one sees ------------------------------------------------------------------------------------------------------

    @property
    def model(self) -> nn.Module:
        """The module to run in the coming step."""
        return self.network.module

    @property
    def stage(self) -> Stage:
        """The stage of the coming step."""
        return self.calendar.stage(self.steps_done + 1)

    @property
    def exploring(self) -> bool:
        """Whether the module holds all units now."""
        return self._exploration is not None

    @property
    def density(self) -> float:
        """What is left of the cost of the whole network."""
        return self.spending(self.network, self.active) / self.whole

    def metrics(self) -> dict[str, float]:
        """Plain numbers for a log."""
        small = self.network if not self.exploring else self.network.shrink(self.active)
        return {"macs": small.macs, "parameters": small.parameter_count, "part": self.density, "regret": self.timeline.regret, **self.spent}

    def at_rest(self) -> Network:
        """The small network: a new one in the middle of an exploration, else the present one."""
        return self.network.shrink(self.active) if self.exploring else self.network

    def freeze(self, parts: Mapping[str, Tensor | None] | None) -> None:
        """Refused: the parts of a tensor are others in each shape of the network."""
        if parts is not None:
            raise Error("parts of a network that shrinks and regrows cannot be frozen; set requires_grad=False on what must not train")

    # ---- the step -------------------------------------------------------------------------------------------------------------

    def observe(self) -> None:
        """Look at the criterion, where it will be asked. It counts with the step: one that overflows is skipped."""
        self._seen = None
        self.spent["explore" if self.exploring else "exploit"] += self.network.macs
        if self.stage == "estimate":
            self._seen = self._scored(self.criterion)
        elif self.exploring:
            self._seen = self._scored(self.growth_criterion)

    def mask_gradients(self) -> None:
        if self._exploration is not None:
            self._exploration.mask_gradients()

    def before_step(self) -> None:
        if self._exploration is not None:
            self._exploration.before_step()

    def after_step(self) -> None:
        if self._exploration is not None:
            self._exploration.after_step()

    def stepped(self) -> None:
        if self._seen is not None:
            criterion, scores = self._seen
            criterion.take(scores)
            self._seen = None
        self.steps_done += 1
        if self.calendar.prunes(self.steps_done):
            self.prune()
        elif self.calendar.grows(self.steps_done):
            self.grow_back()
        if self.calendar.enters(self.steps_done):
            self._become(self.network.regrow(init=INITS[self.settings.value]))
            self._explore(None)

    # ---- the stages -------------------------------------------------------------------------------------------------------------

    def prune(self) -> None:
        """Keep the best of what lives, within the budget, and go on with the smaller network."""
        worth, limit = self._worth(self.criterion), self._limit()
        keep = self._kept(worth, limit)
        if isinstance(self.spending, Latency):
            last = self.calendar.cycle(self.steps_done) == self.calendar.cycles
            tried: list[tuple[float, Living]] = []
            while len(tried) < TRIES:
                off = self.spending.settle(self.network.shrink(keep), limit)
                tried.append((abs(off), keep))
                if abs(off) <= NEAR or (off > 0 and not last):  # what is too slow now will be pruned again; what is too fast may never grow
                    break
                keep = self._kept(worth, limit)
            keep = min(tried, key=lambda each: each[0])[1]
        self._renew("prune", keep)

    def _kept(self, worth: Mapping[str, Tensor], limit: float) -> Living:
        if self.settings.foresight:
            worth = self._foreseen(worth, limit)
        if self.settings.grace:
            safe = {name: scores.masked_fill(self.memory.recent[name], torch.inf) for name, scores in worth.items()}
            with contextlib.suppress(BudgetError):  # the budget has fallen below what has just grown
                return self._best(safe, limit)
        return self._best(worth, limit)

    def _foreseen(self, worth: Mapping[str, Tensor], limit: float) -> Mapping[str, Tensor]:
        """What the budget at the end would keep is safe. Else a budget that comes down in many steps takes the cheap units of late layers
        first, and must take in the end those that cost most in any case, which alone would have done."""
        end = self.part * self.whole
        if limit > end:
            with contextlib.suppress(BudgetError):
                kept = {name: torch.tensor(units, dtype=torch.long) for name, units in self._best(worth, end).items()}
                return {name: scores.index_fill(0, kept[name].to(scores.device), torch.inf) for name, scores in worth.items()}
        return worth

    def grow_back(self) -> None:
        """Bring the best of the resting units back beside all that live."""
        if self._exploration is not None:
            self._exploration.end()
            self._exploration, self._held = None, None
        share = share_of_cycle(self.settings.growth, self.calendar.cycle(self.steps_done), self.calendar.cycles, self.settings.decay)
        limit = max(self.spending(self.network, self.active), (1 + share) * self._limit())
        if not self.calendar.explore:
            if not self.settings.growth:
                return
            self._become(self.network.regrow(init=INITS[self.settings.value]))
            self.growth_criterion.add(self.network)
        worth = self._worth(self.growth_criterion)
        for name, scores in worth.items():
            scores[list(self.active[name])] = torch.inf
        self._renew("grow", self._best(worth, limit))

    def _renew(self, kind: Literal["prune", "grow"], keep: Living) -> None:
        keep = {**self.active, **{name: units for name, units in keep.items() if self._may_change(name)}}
        old, new = self._as_masks(self.active), self._as_masks(keep)
        require_agreement(new)
        self._become(self.network.shrink({name: units for name, units in keep.items() if units != self.network.living[name]}))
        self.active = keep
        self.timeline.add(Event(self.steps_done, self.calendar.cycle(self.steps_done), kind, self.memory.changes(old, new)))
        self.criterion.clear()
        self.growth_criterion.clear()

    def _explore(self, aside: Mapping[str, Mapping[str, Any]] | None) -> None:
        self.criterion.clear()
        self.growth_criterion.clear()
        free = self._resting_parts() if self.settings.freeze else None
        self._exploration = Exploration(self.network.module, self.optimizer, free, rate=self.settings.explore_lr)
        self._exploration.begin(aside, evaluate=self.settings.statistics == "eval")
        self._held = self._exploration.frozen()

    def _resting_parts(self) -> dict[nn.Parameter, Tensor]:
        """Parameter -> true where it belongs to a unit that does not live."""
        small, parts = replace(self.network, living=self.active), {}
        for key, tensor in self.network.tensors().items():
            places = small.places(key)
            if isinstance(tensor, nn.Parameter) and places:
                part = torch.ones_like(tensor, dtype=torch.bool)
                part[grid(places, tensor.shape, tensor.device)] = False
                parts[tensor] = part
        return parts

    def _become(self, network: Network) -> None:
        """Go on with another shape of the network; nothing is lost on the way."""
        carry(self.network, network, self.optimizer, *self.followers)
        self.network = network
        self._bind(network.module, ())
        if self.on_change is not None:
            self.on_change(network)

    def _scored(self, criterion: UnitCriterion) -> tuple[UnitCriterion, dict[str, Tensor]]:
        return criterion, {name: worth.detach().clone() for name, worth in criterion.score(self.network).items()}

    # ---- worth and budget ---------------------------------------------------------------------------------------------------------

    def _may_change(self, name: str) -> bool:
        return self.network.origin.structure.groups[name].prunable and name not in self.exclude

    def _narrowest(self) -> Living:
        return {name: units[: self.least] if self._may_change(name) else units for name, units in self.active.items()}

    def _worth(self, criterion: UnitCriterion) -> dict[str, Tensor]:
        return {name: scores for name, scores in criterion.worth(self.network).items() if name not in self.exclude}

    def _best(self, worth: Mapping[str, Tensor], limit: float) -> Living:
        if isinstance(self.spending, Latency):
            return self.spending.best_within(self.network, worth, limit, self.least)
        return best_within(self.network, worth, self.spending, limit, self.least)

    def _limit(self) -> float:
        """What this cycle may spend: it falls from the whole to the final part along an exponential, which ends at the part `ramp`."""
        cycle = self.calendar.cycle(self.steps_done)
        step, end = cycle * self.calendar.length + self.calendar.estimate, self.settings.ramp * self.calendar.steps
        return self.whole * (self.part if cycle == self.calendar.cycles or step >= end else self.part ** (step / end))

    def _as_masks(self, living: Living) -> dict[str, Tensor]:
        masks = {}
        for name, units in living.items():
            if self._may_change(name):
                masks[name] = torch.zeros(len(self.network.origin.structure.classes[name]), dtype=torch.bool)
                masks[name][list(units)] = True
        return masks

    # ---- saving -------------------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain numbers: the run's and the network's. Save the optimizer's state beside it."""
        return {
            "method": type(self).__name__,
            "calendar": asdict(self.calendar),
            "part": self.part,
            "choices": {"cost": cost_of(self.spending), **told(self.settings)},
            "steps_done": self.steps_done,
            "spent": dict(self.spent),
            "active": {name: list(units) for name, units in self.active.items()},
            "network": saved(self.network),
            "followers": [dict(follower.state_dict()) for follower in self.followers],
            "aside": None if self._exploration is None else self._exploration.state(),
            "criteria": [each.state_dict() for each in (self.criterion, self.growth_criterion)],
            "memory": self.memory.state_dict(),
            "timeline": self.timeline.to_dict(),
            "latency": self.spending.state_dict() if isinstance(self.spending, Latency) else None,
        }

    def load_state_dict(self, state: Mapping[str, Any], optimizer: Mapping[str, Any]) -> None:
        """Go on from a saved state and the optimizer's, in a fresh run of the same network: shapes, values, both optimizers' state."""
        if state.get("method") != type(self).__name__ or state.get("calendar") != asdict(self.calendar):
            raise CheckpointError(
                f"the state is of {state.get('method')} with the calendar {state.get('calendar')}, not {asdict(self.calendar)}"
            )
        if state.get("part", self.part) != self.part:
            raise CheckpointError(f"the state is of a run to {state['part']:g} of the cost, not {self.part:g}; make it with that budget")
        require_same(state.get("choices", {}), {"cost": cost_of(self.spending), **told(self.settings)})
        if self._exploration is not None:
            self._exploration.end(put_back=False)
            self._exploration, self._held = None, None
        self._become(self.network.with_living({name: tuple(units) for name, units in state["network"]["living"].items()}))
        self.network = restored(self.network, state["network"])
        self.optimizer.load_state_dict(dict(optimizer))
        for follower, values in zip(self.followers, state["followers"], strict=True):
            follower.load_state_dict(values)
        self.steps_done, self.spent = int(state["steps_done"]), dict(state["spent"])
        self.active = {name: tuple(units) for name, units in state["active"].items()}
        for own, kept in zip((self.criterion, self.growth_criterion), state["criteria"], strict=True):
            own.load_state_dict(kept)
        if isinstance(self.spending, Latency):
            self.spending.load_state_dict(state["latency"])
            self.whole = self.spending(self.network, everything(self.network))  # as the first process had measured it
        self.memory.load_state_dict(state["memory"])
        self.timeline = Timeline.from_dict(state["timeline"])
        if state["aside"] is not None:
            criteria = [each.state_dict() for each in (self.criterion, self.growth_criterion)]
            self._explore(state["aside"])
            for own, kept in zip((self.criterion, self.growth_criterion), criteria, strict=True):
                own.load_state_dict(kept)

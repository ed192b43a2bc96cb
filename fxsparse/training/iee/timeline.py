"""The story of a run as data: what was dropped, what came back, and what was grown in vain."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor

from fxsparse.sparsity.masks import nonzeros

Kind = Literal["start", "prune", "grow"]


@dataclass(frozen=True)
class Change:
    """What became of one tensor (or group of channels). `returned` counts, among the grown, those that had lived before; `regretted`, among
    the dropped, those that the last growth had brought."""

    living: int
    dropped: int = 0
    grown: int = 0
    returned: int = 0
    regretted: int = 0


@dataclass(frozen=True)
class Event:
    """One change of what lives, after `step`. `ratio` is the mean size of what was grown over that of what lived."""

    step: int
    cycle: int
    kind: Kind
    changes: Mapping[str, Change]
    ratio: float | None = None

    def total(self, what: str) -> int:
        """The sum of `living`, `dropped`, `grown`, `returned` or `regretted` over all tensors."""
        return sum(int(getattr(change, what)) for change in self.changes.values())


@dataclass
class Timeline:
    """All events, and the stages between them."""

    events: list[Event] = field(default_factory=list)
    spans: tuple[tuple[str, int, int], ...] = ()  # stage, first step, last step

    @property
    def regret(self) -> float:
        """The share of all that was grown, and could be dropped again, that was dropped at the next prune."""
        grown = regretted = 0
        for before, after in pairwise(self.events):
            if before.kind == "grow" and after.kind == "prune":
                grown, regretted = grown + before.total("grown"), regretted + after.total("regretted")
        return regretted / grown if grown else 0.0

    def add(self, event: Event) -> None:
        self.events.append(event)

    def rows(self) -> Iterable[dict[str, Any]]:
        """One flat line an event, as for a table."""
        for event in self.events:
            totals = {name: event.total(name) for name in ("living", "dropped", "grown", "returned", "regretted")}
            yield {"step": event.step, "cycle": event.cycle, "kind": event.kind, **totals, "ratio": event.ratio}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"events": [asdict(event) for event in self.events], "spans": [list(span) for span in self.spans]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Timeline:
        events = []
        for entry in content["events"]:
            changes = {name: Change(**change) for name, change in entry["changes"].items()}
            events.append(Event(**{**entry, "changes": changes}))
        return cls(events, tuple((str(stage), int(first), int(last)) for stage, first, last in content["spans"]))


def relative_size(pairs: Iterable[tuple[Tensor, Tensor]]) -> float | None:
    """The mean size of all that is grown over that of all that lives, from (living, grown) of every tensor."""
    living, grown = (torch.cat([part.abs().double() for part in parts]) for parts in zip(*pairs, strict=True))
    return float(grown.mean() / living.mean()) if grown.numel() and bool(living.any()) else None


class Memory:
    """Which weights ever lived, and which the last growth brought: what `returned` and `regretted` are counted by."""

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self.ever = {name: mask.clone() for name, mask in masks.items()}
        self.recent = {name: mask.new_zeros(mask.shape) for name, mask in masks.items()}

    def changes(self, old: Mapping[str, Tensor], new: Mapping[str, Tensor]) -> dict[str, Change]:
        """What the change of the masks means. Call it once a change."""
        made = {}
        for name, mask in new.items():
            gone, come = old[name] & ~mask, mask & ~old[name]
            counts = [nonzeros(part) for part in (mask, gone, come, come & self.ever[name], gone & self.recent[name])]
            made[name] = Change(*counts)
            self.ever[name] |= mask
            self.recent[name] = come
        return made

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        return {"ever": dict(self.ever), "recent": dict(self.recent)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        for own, saved in ((self.ever, state["ever"]), (self.recent, state["recent"])):
            for name, mask in own.items():
                mask.copy_(saved[name])

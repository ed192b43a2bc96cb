"""The open choices of the method, as plain data, and presets of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, TypedDict

from fxsparse.errors import CheckpointError, Error

Value = Literal["last", "zero", "random"]
CHOICES = {
    "value": ("last", "zero", "random"),
    "statistics": ("restore", "eval"),
    "ranking": ("inside", "joint"),
    "decay": ("cosine", "constant"),
}
COUNTS = ("cycles", "most", "estimate", "explore")
SHARES = ("growth", "stop", "ramp")


class Choices(TypedDict, total=False):
    """What `Settings` holds, as keywords, but for `grow`, which every method takes."""

    criterion: str | Callable[..., Any]  # a score of a weight; for channels, of a network
    cycles: int | None
    most: int
    stop: float
    estimate: int
    explore: int
    growth: float
    decay: Literal["cosine", "constant"]
    ramp: float
    value: Value
    scale: float
    explore_lr: float
    freeze: bool
    statistics: Literal["restore", "eval"]
    ranking: Literal["inside", "joint"]
    grace: bool
    foresight: bool


@dataclass(frozen=True)
class Settings:
    """One run's choices. The defaults are those that are stated for the method where its paper says nothing."""

    criterion: str | Callable[..., Any] = "magnitude"  # decides what goes and what comes back
    grow: str | Callable[..., Any] | None = None  # another criterion for what comes back; None: the same one
    cycles: int | None = None  # None: as many as leave half of each to exploitation, up to `most`
    most: int = 10
    stop: float = 0.75  # the part of the run in which there is exchange
    estimate: int = 20  # steps over which the criterion is accumulated before each prune
    explore: int = 30  # steps in which the resting weights train alone
    growth: float = 0.3  # what comes back, as a share of the living weights
    decay: Literal["cosine", "constant"] = "cosine"  # of that share, over the cycles
    ramp: float = 0.0  # the part of the run in which the budget comes down from dense, along a cubic curve; 0: sparse from the start
    value: Value = "last"  # of resting weights when an exploration begins
    scale: float = 1.0  # times that value
    explore_lr: float = 1.0  # learning rate of exploration, as a factor of the present one
    freeze: bool = True  # whether living weights rest while the others explore
    statistics: Literal["restore", "eval"] = "restore"  # explore with the batch's statistics and put the running ones back, or use those
    ranking: Literal["inside", "joint"] = "inside"  # grow the best of the resting weights, or rank them together with the living ones
    grace: bool = False  # whether what has just grown is safe from the next prune
    foresight: bool = True  # channels, while the budget comes down: whether what the budget at the end would keep is safe until then

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise Error(f"{name} is {getattr(self, name)!r}; choose {', '.join(known)}")
        for name in COUNTS:
            if not isinstance(getattr(self, name), int) and not (name == "cycles" and self.cycles is None):
                raise Error(f"{name} is a whole number, not {getattr(self, name)!r}")
        for name in (*SHARES, "scale", "explore_lr"):
            if not isinstance(getattr(self, name), int | float):
                raise Error(f"{name} is a number, not {getattr(self, name)!r}")
        for name in SHARES:
            if not 0 <= getattr(self, name) <= 1:
                raise Error(f"{name} is a share between 0 and 1, not {getattr(self, name)!r}")
        if self.scale < 0 or self.explore_lr < 0:
            raise Error(f"scale and explore_lr are factors of at least 0, not {self.scale!r} and {self.explore_lr!r}")


PRESETS: dict[str, Settings] = {
    "stated": Settings(),
    # What held on short schedules, see docs/iee.md: resting weights start from zero, and are safe until they have been trained. Where dense
    # training may be paid for, the budget comes down over most of the run, and nothing comes back.
    "sparse": Settings(value="zero", explore=4, grace=True),
    "ramp": Settings(ramp=0.9, stop=0.9, most=24, explore=0, growth=0.0),
}


def told(settings: Settings) -> dict[str, Any]:
    """The choices in plain values, for a saved state."""
    values = asdict(settings)
    return {name: getattr(value, "__name__", type(value).__name__) if callable(value) else value for name, value in values.items()}


def require_same(saved: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """An error where a state was saved under other choices: the run would not go on as it was begun."""
    odd = next((name for name, value in own.items() if saved.get(name, value) != value), None)
    if odd is not None:
        raise CheckpointError(f"the state is of a run with {odd}={saved[odd]!r}, not {own[odd]!r}; make it as it was made then")


def settings_of(preset: str, choices: Mapping[str, Any]) -> Settings:
    """A preset with some of its choices made otherwise."""
    if preset not in PRESETS:
        raise Error(f"there is no preset {preset!r}; choose {', '.join(PRESETS)}")
    return replace(PRESETS[preset], **choices)

"""What a training run is made of, as plain data: in Python, in TOML, or as flags of the command line."""

from __future__ import annotations

import json
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from fxsparse.errors import Error, nearest
from fxsparse.training.augment import IMAGENET_MEAN, IMAGENET_STD

CHOICES = {"optimizer": ("sgd", "adamw"), "precision": ("fp32", "bf16", "fp16")}
BOUNDS: dict[str, tuple[float, float, bool]] = {  # lowest, highest, and whether the highest is allowed
    "lr": (0, math.inf, False),
    "momentum": (0, 1, False),
    "weight_decay": (0, math.inf, False),
    "warmup": (0, math.inf, False),
    "gamma": (0, math.inf, False),
    "clip": (0, math.inf, False),
    "label_smoothing": (0, 1, False),
    "ema": (0, 1, False),
    "validation": (0, 1, False),
    "crop": (0, math.inf, False),
    "checkpoint_every": (0, math.inf, False),
    "sharing": (0, math.inf, False),
    "milestones": (0, 1, True),
    "size": (1, math.inf, False),
    "threads": (1, math.inf, False),
}
INCIDENTAL = ("data", "cache", "threads", "device", "checkpoint_every")  # may differ when a run is resumed


@dataclass(frozen=True)
class Recipe:
    """A run of classification. `method` names a sparse-training method, and `options` are its own.

    >>> Recipe(model="fxsparse:resnet20", data="cifar10/", method="rigl", options={"density": 0.1}).epochs
    30
    """

    model: str
    data: str
    weights: str | None = None
    model_options: dict[str, Any] = field(default_factory=dict)

    method: str = "dense"
    options: dict[str, Any] = field(default_factory=dict)
    dyrelu: bool | None = None  # whether ReLUs are DyReLUs that fade in training; None: with the method east alone
    sharing: int | None = None  # so many blocks of each stage own their weights, later ones share; 0: all own theirs; None: as for dyrelu

    epochs: int = 30
    batch: int = 128
    accumulate: int = 1  # the batch is worked off in so many parts
    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: str = "cosine"
    warmup: float = 0.0  # epochs
    milestones: list[float] = field(default_factory=lambda: [0.5, 0.75])  # parts of the run
    gamma: float = 0.1
    clip: float = 0.0  # the norm of the living weights' gradients; 0: not clipped
    label_smoothing: float = 0.0
    precision: str = "fp32"
    channels_last: bool = True
    ema: float = 0.0  # decay of the averaged copy that is evaluated; 0: none

    flip: bool = True
    crop: int = 4
    mean: list[float] = field(default_factory=lambda: list(IMAGENET_MEAN))
    std: list[float] = field(default_factory=lambda: list(IMAGENET_STD))
    size: int | None = None
    validation: float = 0.0  # held-out part of the training images, reported on instead of the test images
    subset: int | None = None  # so many training images only

    seed: int = 0
    threads: int | None = None
    device: str = "auto"
    cache: str | None = None
    checkpoint_every: int = 0  # steps; 0: at the end of every epoch

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(Recipe)
        for entry in fields(self):
            value = getattr(self, entry.name)
            if not _fits(value, hints[entry.name]):
                raise Error(f"the recipe's {entry.name} is {value!r}, which is no {_spoken(hints[entry.name])}")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise Error(f"the recipe's {name} is {getattr(self, name)!r}; choose {', '.join(choices)}")
        for name in ("epochs", "batch", "accumulate"):
            if getattr(self, name) < 1:
                raise Error(f"the recipe's {name} is {getattr(self, name)}; give at least 1")
        for name, (least, most, included) in BOUNDS.items():
            given = getattr(self, name)
            for value in given if isinstance(given, list) else [] if given is None else [given]:
                if not (least <= value < most or (included and value == most)):
                    upper = "" if most == math.inf else f" and {'at most' if included else 'below'} {most:g}"
                    raise Error(f"the recipe's {name} is {given}; give at least {least:g}{upper}")
        if not self.mean or len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise Error(f"the recipe's mean {self.mean} and std {self.std} do not fit; give one of each for every channel, std above 0")
        if self.batch % self.accumulate:
            raise Error(f"a batch of {self.batch} cannot be accumulated in {self.accumulate} equal parts")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_plain(self) -> dict[str, Any]:
        """As `to_dict`, with plain values alone: scores, schedules and the like become their text."""
        plain: dict[str, Any] = json.loads(json.dumps(self.to_dict(), default=_text))
        return plain

    def difference(self, other: Mapping[str, Any]) -> str | None:
        """The first entry in which a run that is resumed would not be the same, in words; `other` is plain."""
        mine, usual = self.to_plain(), Recipe(self.model, self.data).to_plain()
        for name in mine:
            was, now = other.get(name, usual[name]), mine[name]
            if name not in INCIDENTAL and was != now:
                if isinstance(was, dict) and isinstance(now, dict):
                    key = next(key for key in [*was, *now] if was.get(key) != now.get(key))
                    return f"{name}: {key} was {was.get(key)!r} and is {now.get(key)!r}"
                return f"{name} was {was!r} and is {now!r}"
        return None

    @classmethod
    def from_dict(cls, entries: Mapping[str, Any]) -> Recipe:
        """From a flat table. `method` may be a table as well: its `name`, and its options."""
        entries = dict(entries)
        if isinstance(entries.get("method"), Mapping):
            options = dict(entries["method"])
            if "name" not in options:
                raise Error("the recipe's table [method] has no name; add name = 'rigl', or another method")
            entries["method"], entries["options"] = options.pop("name"), {**options, **entries.get("options", {})}
        known = [entry.name for entry in fields(cls)]
        odd = next((name for name in entries if name not in known), None)
        if odd is not None:
            raise Error(f"a recipe has no entry {odd!r}{nearest(odd, known)}")
        missing = [name for name in ("model", "data") if name not in entries]
        if missing:
            raise Error(f"the recipe does not say the {missing[0]}")
        return cls(**entries)


def read_recipe(path: Path) -> dict[str, Any]:
    """The entries of a TOML file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Error(f"the recipe {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Error(f"the recipe {path} is no TOML: {error}") from error


def _fits(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is types.UnionType:
        return any(_fits(value, each) for each in typing.get_args(hint))
    if origin is list:
        return isinstance(value, list) and all(_fits(each, typing.get_args(hint)[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(isinstance(key, str) for key in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and not (hint is int and isinstance(value, bool))


def _text(value: Any) -> str:
    return str(getattr(value, "__qualname__", None) or repr(value))


def _spoken(hint: Any) -> str:
    return str(getattr(hint, "__name__", hint)) if typing.get_origin(hint) is None else str(hint)

"""What a calibration is made of, and the methods that are combinations of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor

from fxsparse.errors import Error, nearest


@dataclass(frozen=True)
class Settings:
    """Every part by itself. What the paper (Xie et al., 2024) leaves open stands here with the default that was used."""

    # or a function (sparse scores, dense scores, epoch, settings) -> loss, of one row for each choice among classes
    objective: Literal["base-decayed", "distillation", "matched", "layer-wise", "none"] | Callable[..., Tensor] = "base-decayed"
    heads: Mapping[str, str] | None = None  # what of the outputs is compared (`Heads`); None: what the network suggests
    follow: tuple[str, ...] = ()  # with heads: modules whose results are the dense network's in both networks
    features: float = 0.0  # weight of the error behind each block (the smallest parts with two masked layers), beside the objective

    allocation: Any = "search"  # or erk, uniform, global, densities by name, a Distribution or its file
    dynamic: bool = True  # masks are renewed from dense weights; else chosen once
    ramp: float = 0.0  # the part of the steps in which sparsity rises to what is asked, fast at first (cubic); fixed masks shrink then
    interval: int = 1  # steps from one renewal to the next; a renewal finds the kth largest value, and sorts nothing
    decay: float = 5e-5  # of masked weights
    pattern: str = "unstructured"
    exclude: tuple[str, ...] = ()
    allow_empty: bool = False  # a layer may be left without weights

    epochs: int = 100
    batch: int = 64
    lr: float = 0.01
    momentum: float = 0.9
    warmup: int = 1  # epochs
    temperature: float = 4.0
    tau: float = 8.0  # the divisor outside the student's logarithm at the start
    tau_decay: float = 0.99  # of that divisor, each epoch
    precision: Literal["fp32", "bf16"] = "fp32"  # of forward and backward passes in training
    augment: bool = False  # mirror images and move them by up to an eighth
    mix: float = 0.0  # the part of the batches whose images are blended in pairs; the teacher says what it sees
    recalibrate: bool = True  # estimate batch-norm statistics anew at the end, where nothing is trained

    population: int = 25
    generations: int = 25
    parents: int = 10
    mutation: float = 0.1  # the chance of each gene
    regrow: float = 0.05  # the part of all weights that the search gives back
    noise: float = 0.05  # deviation of what is added to the inputs of a fitness (open)
    held_out: float = 0.25  # the part of the calibration images that fitness looks at (open)

    inputs: Literal["dense", "sparse"] = "sparse"  # layer-wise: what a layer is shown
    layer_lr: float = 1e-2  # of 1e-3 and 1e-2 the one after which the calibration images agree more with the dense model
    layer_steps: int = 200

    seed: int = 0

    def __post_init__(self) -> None:
        for name, among in CHOICES.items():
            if getattr(self, name) not in among and not (name == "objective" and callable(self.objective)):
                raise Error(f"there is no {name} {getattr(self, name)!r}; there are {', '.join(among)}")
        for name in ("epochs", "batch", "interval", "population", "parents", "layer_steps"):
            self._require(name, int, 1, None, "a whole number, at least 1")
        for name in ("generations", "warmup", "seed"):
            self._require(name, int, 0, None, "a whole number, at least 0")
        for name in ("lr", "temperature", "tau", "tau_decay", "layer_lr"):
            self._require(name, (int, float), 1e-12, None, "a number above 0")
        for name in ("features", "decay", "noise"):
            self._require(name, (int, float), 0, None, "a number, at least 0")
        for name in ("ramp", "momentum", "mix", "mutation", "regrow"):
            self._require(name, (int, float), 0, 1, "a number from 0 to 1")
        self._require("held_out", (int, float), 1e-12, 1 - 1e-12, "a number above 0 and below 1")

    @property
    def learns(self) -> bool:
        """Whether the network as a whole is trained."""
        return self.objective not in ("layer-wise", "none")

    def _require(self, name: str, kind: Any, least: float, most: float | None, said: str) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, kind) or not least <= value or (most is not None and value > most):
            raise Error(f"{name} of calibrate is {said}, not {value!r}")


CHOICES = {
    "objective": ("base-decayed", "distillation", "matched", "layer-wise", "none"),
    "precision": ("fp32", "bf16"),
    "inputs": ("dense", "sparse"),
}

METHODS: dict[str, Settings] = {
    "unipts": Settings(),
    "distill": Settings(objective="distillation", allocation="global", dynamic=False),
    "pot": Settings(objective="layer-wise", allocation="erk", dynamic=False),
    "magnitude": Settings(objective="none", allocation="global", dynamic=False, recalibrate=False),
    "magnitude-bn": Settings(objective="none", allocation="global", dynamic=False),
    "recommended": Settings(objective="distillation", features=20.0, allocation="global", dynamic=False, augment=True, lr=0.015),
}


def settings_of(method: str, options: Mapping[str, Any]) -> Settings:
    """A method with some options changed."""
    if method not in METHODS:
        raise Error(f"there is no method {method!r}{nearest(method, METHODS)}; there are {', '.join(METHODS)}")
    names = list(Settings.__dataclass_fields__)
    wrong = next((name for name in options if name not in names), None)
    if wrong is not None:
        raise Error(f"calibrate has no option {wrong!r}{nearest(wrong, names)}")
    return replace(METHODS[method], **options)

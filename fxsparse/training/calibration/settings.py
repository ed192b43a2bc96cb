"""What a calibration is made of, and the methods that are combinations of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from fxsparse.errors import Error
from fxsparse.surgery.plan import nearest


@dataclass(frozen=True)
class Settings:
    """Every part by itself. What the paper (Xie et al., 2024) leaves open stands here with the default that was used."""

    objective: Literal["base-decayed", "distillation", "matched", "layer-wise", "none"] = "base-decayed"
    allocation: Any = "search"  # or erk, uniform, global, densities by name, a Distribution
    dynamic: bool = True  # masks are renewed from dense weights; else chosen once
    interval: int = 1  # steps from one renewal to the next; a renewal finds the kth largest value, and sorts nothing
    decay: float = 5e-5  # of masked weights
    pattern: str = "unstructured"
    exclude: tuple[str, ...] = ()

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


METHODS: dict[str, Settings] = {
    "unipts": Settings(),
    "distill": Settings(objective="distillation", allocation="global", dynamic=False),
    "pot": Settings(objective="layer-wise", allocation="erk", dynamic=False),
    "magnitude": Settings(objective="none", allocation="global", dynamic=False, recalibrate=False),
    "magnitude-bn": Settings(objective="none", allocation="global", dynamic=False),
    "recommended": Settings(objective="distillation", allocation="global", dynamic=False, augment=True, lr=0.03),
}


def settings_of(method: str, options: Mapping[str, Any]) -> Settings:
    """A method with some options changed."""
    if method not in METHODS:
        raise Error(f"there is no method {method!r}{nearest(method, METHODS)}; there are {', '.join(METHODS)}")
    try:
        made = replace(METHODS[method], **options)
    except TypeError:
        names = list(Settings.__dataclass_fields__)
        wrong = next(name for name in options if name not in names)
        raise Error(f"calibrate has no option {wrong!r}{nearest(wrong, names)}") from None
    if made.precision not in ("fp32", "bf16"):
        raise Error(f"there is no precision {made.precision!r}; there are fp32 and bf16")
    for name in ("epochs", "batch", "interval", "population", "generations", "parents", "layer_steps"):
        value = getattr(made, name)
        if not isinstance(value, int) or value < (0 if name == "generations" else 1):
            raise Error(f"{name} of calibrate is a whole number, at least 1, not {value!r}")
    if made.objective not in ("base-decayed", "distillation", "matched", "layer-wise", "none"):
        raise Error(f"there is no objective {made.objective!r}; there are base-decayed, distillation, matched, layer-wise and none")
    return made

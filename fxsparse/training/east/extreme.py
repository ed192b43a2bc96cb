"""EAST (Li et al., 2024): RigL whose density goes in cycles, on a model with DyReLUs that fade and with weights that blocks share."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, Unpack

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fxsparse.errors import Error
from fxsparse.network import Network
from fxsparse.passes.phase_dyrelu import dyrelus, set_beta
from fxsparse.passes.unshare_weights import sharers
from fxsparse.sparsity.allocation import checked_density
from fxsparse.sparsity.schedules import Constant, Cyclic, Schedule
from fxsparse.sparsity.scores import Weight
from fxsparse.sparsity.targets import unwrapped
from fxsparse.training.east.collapse import Connections, Health
from fxsparse.training.east.parts import adjusted_density, own_parameters, targets_of
from fxsparse.training.east.schedules import exchanged, fading
from fxsparse.training.methods import usual_interval
from fxsparse.training.sparsifier import Options, Sparsifier

WEAK = 0.1  # of the median norm of a layer's filters


class Extreme(Sparsifier):
    """Sparse training at 99 % and more.

    The density goes up to `high` times the target and down again, `cycles` times within the part `cycling` of all steps: going up, weights
    come by |gradient|, going down, they go by |weight|. Then follows RigL at the target, whose exchanged share falls from `fraction` to
    `least` at the part `stop`. DyReLUs in the model fade between the two parts `fade`. With `adjust`, the density is that of the model
    without sharing: unique tensors get what their copies would have had.

    `model` is the module of `fxsparse.training.east.prepared`, that network itself (paths from input to output are then watched), or any
    model. `cyclic=False`, a model without DyReLUs, and a model without sharing leave out one part each; `dyrelu` and `sharing` say what
    the model is expected to have. `calm` counts the gradients of filters that are zero, or nearly so, like those of the others in their
    layer, both for growth and for the step: a batch norm behind a filter of zeros makes them up to 1 / sqrt(eps) = 316 times as large.
    """

    def __init__(
        self,
        model: nn.Module | Network,
        optimizer: Optimizer,
        density: float,
        *,
        steps: int,
        cyclic: bool = True,
        cycles: int = 2,
        cycling: float = 0.4,
        high: float = 3.0,
        shape: Literal["cosine", "triangle"] = "cosine",
        fraction: float = 0.5,
        least: float = 0.005,
        stop: float = 0.75,
        fade: tuple[float, float] = (0.25, 0.5),
        adjust: bool = True,
        calm: bool = True,
        dyrelu: bool | None = None,
        sharing: int | None = None,
        **options: Unpack[Options],
    ) -> None:
        if not isinstance(steps, int) or steps < 1:
            raise Error(f"steps is the number of optimizer steps of the whole run, not {steps!r}")
        module = model.module if isinstance(model, Network) else model
        _require_parts(module, dyrelu, sharing)
        options.setdefault("grow", "gradient")
        options.setdefault("interval", usual_interval(steps))
        include, exclude = options.get("include"), options.get("exclude", ())
        _, patterns = targets_of(module, include, exclude)
        target = checked_density(density)
        self.asked = target
        if adjust:
            target = adjusted_density(module, target, include=include, exclude=exclude)
        curve = cycled(target, steps, cycles, cycling, high, shape) if cyclic else Constant(target)
        self.fade, self.calm = fading(steps, *fade), calm
        self._module = unwrapped(module)
        self._norms: dict[str, float] = {}
        self._told = False
        self.connections = Connections(model) if isinstance(model, Network) else None
        self.health: Health | None = None
        options["exclude"] = patterns
        shares = exchanged(fraction, least, curve.end + 1, max(round(stop * steps), curve.end))
        super().__init__(module, optimizer, curve, fraction=shares, **options)
        set_beta(self._module, self.fade(0))
        self._look()

    # ---- what one sees --------------------------------------------------------------------------------------------------------

    @property
    def dyrelu_parameters(self) -> int:
        """Dense parameters of the DyReLUs, which are not part of the result."""
        return own_parameters(self._module)

    def metrics(self) -> dict[str, float]:
        found = super().metrics() | {"dyrelu_parameters": self.dyrelu_parameters, "beta": self.fade(self.steps_done)} | self._norms
        if self.health is not None:
            found |= {"outputs_reached": self.health.reached, "weights_on_paths": self.health.used}
        return found

    def watch(self, network: Network) -> None:
        """Look, from now on, at the paths from input to output too. `network` is that of the model, or one of the same structure."""
        if self.connections is None:
            self.connections = Connections(network)
            self._look()

    # ---- the parts ------------------------------------------------------------------------------------------------------------

    def stepped(self) -> None:
        super().stepped()
        set_beta(self._module, self.fade(self.steps_done))

    def mask_gradients(self) -> None:
        super().mask_gradients()
        if self.calm:
            for target in self.targets:
                if target.parameter.grad is not None:
                    target.parameter.grad.copy_(evened(target.parameter.grad, target.parameter.detach()))
        if self.due(self.steps_done + 1):
            self._norms = norms_by_stage({t.name: t.parameter.grad for t in self.targets})

    def renew(self, weight: Weight, count: int) -> Tensor:
        if self.calm and weight.grad is not None:
            weight = replace(weight, grad=evened(weight.grad, weight.value))
        return super().renew(weight, count)

    def update(self) -> None:
        super().update()
        self._look()

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        set_beta(self._module, self.fade(self.steps_done))

    def _look(self) -> None:
        """Warn once when the network falls apart."""
        if self.connections is not None:
            self.health = self.connections.health(self._masks)
            said = self.health.advice()
        else:
            hollow = [name for name, count in self._living.items() if count == 0]
            said = Health(tuple(hollow), 1, 1, 0, 0).advice()
        if said is not None and not self._told:
            self._told = True
            warnings.warn(said, stacklevel=3)


def cycled(density: float, steps: int, cycles: int, part: float, high: float, shape: Literal["cosine", "triangle"]) -> Schedule:
    """The density of `cycles` cycles within a part of the run."""
    if not 0 < part <= 1:
        raise Error(f"cycling is the part of the run that the cycles take, above 0 and at most 1, not {part!r}")
    if high < 1:
        raise Error(f"high is how many times the target the density becomes, at least 1, not {high!r}")
    if cycles < 1 or round(part * steps) < cycles:
        raise Error(f"{steps} steps are too few for {cycles} cycles within {part:g} of them; give cyclic=False, or more steps")
    return Cyclic(density, min(1.0, high * density), round(part * steps) // cycles, cycles, shape)


def evened(grad: Tensor, weight: Tensor) -> Tensor:
    """The gradient, that of weak filters scaled down so that the largest in each is as large as in the layer's median filter.

    Weak is a filter whose norm is below `WEAK` of the median of those that are not zero.
    """
    if grad.dim() < 2:
        return grad
    size = weight.flatten(1).norm(dim=1)
    if not bool(size.any()):
        return grad
    weak = size < WEAK * size[size > 0].median()
    if not bool(weak.any()):
        return grad
    largest = grad.detach().flatten(1).abs().amax(1)
    usual = largest[~weak].median()
    factor = torch.where(weak & (largest > usual), usual / largest, torch.ones_like(largest))
    return grad * factor.view(-1, *(1,) * (grad.dim() - 1))


def norms_by_stage(gradients: Mapping[str, Tensor | None]) -> dict[str, float]:
    """The norm of the living weights' gradients, of all tensors whose names begin alike."""
    sums: dict[str, float] = {}
    for name, grad in gradients.items():
        if grad is not None:
            stage = name.partition(".")[0]
            sums[stage] = sums.get(stage, 0.0) + float(grad.detach().float().square().sum())
    return {f"gradient_{stage}": value**0.5 for stage, value in sums.items()}


def _require_parts(module: nn.Module, dyrelu: bool | None, sharing: int | None) -> None:
    plain = unwrapped(module)
    if dyrelu and not any(True for _ in dyrelus(plain)):
        raise Error("the model has no DyReLU; make it with fxsparse.training.east.prepared, and the optimizer over that model's parameters")
    if sharing and not sharers(plain):
        raise Error("the model shares no weights; make it with fxsparse.training.east.prepared, or give sharing=0")

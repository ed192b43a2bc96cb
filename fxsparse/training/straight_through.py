"""Dense weights behind a sparse forward pass: masked weights go on learning, by the gradient of the sparse network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fxsparse.sparsity.masks import apply, choose
from fxsparse.sparsity.schedules import Schedule
from fxsparse.sparsity.scores import Weight
from fxsparse.sparsity.targets import Target
from fxsparse.training.sparsifier import Options, Sparsifier
from fxsparse.training.sparsifier_state import require_fitting


class StraightThrough(Sparsifier):
    """The largest dense weights form the network; all dense weights get its gradient, masked ones with a decay: g + decay * (1 - m) * w.

    The module always holds the sparse network, so that it can be run, saved and compiled as it is. Masked values stay here, and are in
    the tensors only while the optimizer acts. Masks are renewed every `interval` steps to the end.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        density: float | Schedule | None = None,
        *,
        steps: int | None = None,
        decay: float = 2e-4,
        **options: Unpack[Options],
    ) -> None:
        self.decay = decay
        self.hidden: dict[str, Tensor] = {}
        options.setdefault("start", "magnitude")
        options.setdefault("interval", 1)
        super().__init__(model, optimizer, density, **options)

    @property
    def dense_gradients(self) -> bool:
        return True

    def due(self, step: int) -> bool:
        return step % self.interval == 0

    def observe(self) -> None:
        """No renewal here looks at gradients."""

    def mask_gradients(self) -> None:
        """They stay dense."""

    def before_closure(self) -> None:
        if not self.hidden:  # asked again: the optimizer moves the dense weights, and the loss is that of the sparse ones
            self._split(self._masks)

    def before_step(self) -> None:
        for target in self.targets:
            hidden = self.hidden[target.name]
            target.parameter.detach().add_(hidden)  # exact: one of the two is zero
            if target.parameter.grad is not None:
                target.parameter.grad.add_(hidden, alpha=self.decay)
        self.hidden = {}

    def after_step(self) -> None:
        self._split(self._masks)

    def renew(self, weight: Weight, count: int) -> Tensor:
        return choose(self.pattern, self.drop(weight), count, self.budget.units[weight.name])

    def _value(self, target: Target) -> Tensor:
        value = target.parameter.detach()
        return value + self.hidden[target.name] if target.name in self.hidden else value

    def put_in_place(self, masks: Mapping[str, Tensor], clear: bool) -> None:
        """The momentum of masked weights stays, as they go on learning."""
        self._split(masks)

    def rebind(self, model: nn.Module, masks: Mapping[str, Tensor]) -> None:
        """As for all methods; the masked weights start again from zero."""
        self.hidden = {}
        super().rebind(model, masks)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As for all methods. What was masked before is forgotten first, or it would come to life under the masks that are loaded."""
        require_fitting(state, self)
        self.hidden = {}
        super().load_state_dict(state)

    def _split(self, masks: Mapping[str, Tensor]) -> None:
        """Show the living weights in the module and keep the others here."""
        for target in self.targets:
            dense = self._value(target)
            hidden = dense.clone()
            apply(~masks[target.name], hidden)
            self.hidden[target.name] = hidden
            target.parameter.detach().copy_(dense)
            apply(masks[target.name], target.parameter.detach())

    def extra_state(self) -> dict[str, Any]:
        return {"hidden": dict(self.hidden)}

    def load_extra_state(self, state: Mapping[str, Any]) -> None:
        self.hidden = {name: torch.empty_like(mine).copy_(state["hidden"][name]) for name, mine in self.hidden.items()}


class SRSTE(StraightThrough):
    """N:M sparsity by the sparse-refined straight-through estimator (Zhou et al., 2021). The pattern says the density: `2:4`."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        density: float | None = None,
        *,
        steps: int | None = None,
        decay: float = 2e-4,
        **options: Unpack[Options],
    ) -> None:
        options.setdefault("pattern", "2:4")
        super().__init__(model, optimizer, density, steps=steps, decay=decay, **options)

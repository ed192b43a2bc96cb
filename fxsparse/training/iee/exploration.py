"""What must not change while the resting weights train: the living ones, every buffer, and the optimizer's state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from fxsparse.sparsity.masks import apply
from fxsparse.training.frozen import Frozen


class Exploration:
    """From `begin` to `end`, the optimizer starts from an empty state of its own; buffers are put back after every step, so that between
    steps the running statistics are always those of exploitation. `free` is true where a parameter may move; parameters that it does not
    name may not move at all. Without it, all may.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, free: Mapping[nn.Parameter, Tensor] | None, *, rate: float) -> None:
        self.model, self.optimizer, self.free, self.rate = model, optimizer, free, rate
        self.aside: dict[Any, Any] = {}
        self.buffers: list[tuple[nn.Module, str, Tensor, Tensor]] = []
        self.rates: list[Any] = []
        self.norms: list[tuple[_BatchNorm, bool]] = []
        self.hooks: list[Any] = []

    def begin(self, aside: Mapping[str, Mapping[str, Any]] | None, *, evaluate: bool) -> None:
        """Put the optimizer's state aside; with `aside`, take that of a run that is resumed, whose present state is exploration's already.
        With `evaluate`, batch norms use their running statistics meanwhile."""
        if aside is None:
            self.aside = dict(self.optimizer.state)
            self.optimizer.state.clear()
        else:
            parameters = self._parameters()
            self.aside = {parameters[int(at)]: {k: _own(v, parameters[int(at)]) for k, v in kept.items()} for at, kept in aside.items()}
        self.buffers = [
            (module, name, buffer, buffer.detach().clone())
            for module in self.model.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None
        ]
        if evaluate:
            norms = [module for module in self.model.modules() if isinstance(module, _BatchNorm)]
            self.norms = [(module, module.training) for module in norms]
            self.hooks = [module.register_forward_pre_hook(_evaluating) for module in norms]

    def frozen(self) -> Frozen | None:
        if self.free is None:
            return None
        return Frozen([(p, ~self.free[p] if p in self.free else None) for p in self._parameters()])

    def mask_gradients(self) -> None:
        """What is frozen counts in no norm of gradients."""
        for parameter in self._parameters() if self.free is not None else ():
            if parameter.grad is not None and self.free is not None:
                if parameter in self.free:
                    apply(self.free[parameter], parameter.grad)
                else:
                    parameter.grad.zero_()

    def before_step(self) -> None:
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        if self.rate != 1.0:
            for group in self.optimizer.param_groups:
                group["lr"] = group["lr"] * self.rate

    def after_step(self) -> None:
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate
        with torch.no_grad():
            for module, name, buffer, kept in self.buffers:
                buffer.copy_(kept)
                module._buffers[name] = buffer  # not all modules change their buffers in place

    def end(self, *, put_back: bool = True) -> None:
        """Exploration's own state is forgotten, and that of exploitation comes back. Without `put_back`, another one was loaded already."""
        if put_back:
            self.optimizer.state.clear()
            self.optimizer.state.update(self.aside)
        for hook in self.hooks:
            hook.remove()
        for module, training in self.norms:
            module.training = training
        self.aside, self.buffers, self.norms, self.hooks = {}, [], [], []

    def state(self) -> dict[str, dict[str, Any]]:
        """The optimizer's state that is aside, by the parameter's place in the optimizer."""
        places = {parameter: str(at) for at, parameter in enumerate(self._parameters())}
        return {places[parameter]: dict(kept) for parameter, kept in self.aside.items()}

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]


def _evaluating(module: nn.Module, inputs: Any) -> None:
    module.training = False


def _own(value: Any, like: Tensor) -> Any:
    """A saved value, copied; what has the parameter's shape goes to its device."""
    if not isinstance(value, Tensor):
        return value
    return torch.empty_like(like, dtype=value.dtype).copy_(value) if value.shape == like.shape else value.clone()

"""Masks that an optimizer's steps respect. What the masks are, and when they change, is the business of `Sparsifier`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.optim import Optimizer

from fxsparse.errors import Error
from fxsparse.sparsity.masks import apply, nonzeros
from fxsparse.sparsity.targets import Target, plain_name, unwrapped
from fxsparse.training.distributed import require_whole
from fxsparse.training.frozen import Frozen


class MaskedOptimizer:
    """`step()` stands in place of `optimizer.step()`; the optimizer's own step does the same, as the work hangs on its hooks.

    Gradients stay those of the dense weights until then. A masked weight is zero, has no momentum and gets no gradient. The masks are kept
    here, and the model's state dict does not know them.
    """

    def __init__(self, model: nn.Module, optimizer: Optimizer, targets: tuple[Target, ...]) -> None:
        self.optimizer = optimizer
        self.targets: tuple[Target, ...] = ()
        self.frozen: Frozen | None = None
        self._held: Frozen | None = None  # what a method holds still for a while, beside what the user has frozen
        self._prepared: Tensor | None = None  # a gradient that prepare() has seen
        self._calls = 0  # of the hooks, in this step
        self._bind(model, targets)
        self._masks = {t.name: torch.ones_like(t.parameter, dtype=torch.bool) for t in targets}
        self._living = {t.name: t.parameter.numel() for t in targets}
        self._hooks: list[Any] = []

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A copy, made together with its model and its optimizer: optimizers lose their hooks on the way."""
        self.__dict__.update(state)
        if self._hooks:
            self._hook()

    # ---- what one sees ------------------------------------------------------------------------------------------------------

    @property
    def masks(self) -> Mapping[str, Tensor]:
        """Parameter name -> mask, true where weights live. Do not change them in place."""
        return MappingProxyType(self._masks)

    @property
    def nonzeros(self) -> dict[str, int]:
        """Parameter name -> how many of its weights live."""
        return dict(self._living)

    @property
    def density(self) -> float:
        """The share of all masked tensors' weights that live now."""
        return sum(self._living.values()) / sum(mask.numel() for mask in self._masks.values())

    # ---- the step -----------------------------------------------------------------------------------------------------------

    def step(self, closure: Callable[[], Any] | None = None, *, scaler: torch.amp.GradScaler | None = None) -> Any:
        """The optimizer's step under the masks, and what hangs on it. With mixed precision in float16, give the scaler: a step that it
        skips is none."""
        self._calls = 0
        if scaler is not None:
            result = scaler.step(self.optimizer)
            self._prepared = None
        else:
            result = self.optimizer.step() if closure is None else self.optimizer.step(closure)
        if self._hooks and self._calls != 1 and (self._calls or scaler is None):
            raise Error(
                f"the {type(self.optimizer).__name__} ran the hooks of a step {self._calls} times in one, so that steps cannot be masked; "
                "its class must be one of torch.optim.Optimizer, whose step() calls no step() of its parents"
            )
        return result

    def prepare(self) -> None:
        """Look at the dense gradients, then mask them. The step does it; call it yourself before you clip gradients by their norm, or
        masked weights count in the norm. If the step is then not taken, `zero_grad()`, which sets gradients to None, forgets it."""
        everything = (p for group in self.optimizer.param_groups for p in group["params"])
        gradient = next((p.grad for p in everything if p.grad is not None), None)
        if gradient is not None and self._prepared is gradient:
            return
        with torch.no_grad():
            self.observe()
            self.mask_gradients()
        self._prepared = gradient

    def clip_grad_norm_(self, limit: float) -> Tensor:
        """Clip the norm of the living weights' gradients, all parameters of the optimizer together. Returns the norm as it was."""
        self.prepare()
        return nn.utils.clip_grad_norm_([p for group in self.optimizer.param_groups for p in group["params"]], limit)

    def _before(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._begin()
            return None

        def closure_then_masks() -> Any:
            with torch.no_grad():
                self.before_closure()
            result = closure()
            self._begin()
            return result

        return (args[0], closure_then_masks, *args[2:]), {key: value for key, value in kwargs.items() if key != "closure"}

    def _begin(self) -> None:
        self.prepare()
        with torch.no_grad():
            self.before_step()
        for each in (self.frozen, self._held):
            if each is not None:
                each.before()

    def _after(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for each in (self._held, self.frozen):
            if each is not None:
                each.after()
        with torch.no_grad():
            self.after_step()
        self._prepared = None
        self._calls += 1
        overflow = getattr(optimizer, "found_inf", None)  # set where a fused optimizer skips the step by itself
        if overflow is None or not bool(overflow):
            self.stepped()

    # ---- what a method may replace --------------------------------------------------------------------------------------------

    def observe(self) -> None:
        """Called once a step, when the gradients are still dense."""

    def mask_gradients(self) -> None:
        """Called before the step, and before gradients are clipped."""
        for target in self.targets:
            if target.parameter.grad is not None:
                apply(self._masks[target.name], target.parameter.grad)

    def before_closure(self) -> None:
        """Called before the optimizer asks for the loss, which it may do several times a step."""

    def before_step(self) -> None:
        """Called before the optimizer acts, with gradients from a closure or without."""

    def after_step(self) -> None:
        """Called when the optimizer has acted."""
        for target in self.targets:
            apply(self._masks[target.name], target.parameter.detach())

    def stepped(self) -> None:
        """Called after every step that was not skipped."""

    def put_in_place(self, masks: Mapping[str, Tensor], clear: bool) -> None:
        """Make tensors and optimizer state obey new masks; with `clear`, what was dropped or grown loses its momentum."""
        for target in self.targets:
            new = masks[target.name]
            apply(new, target.parameter.detach())
            stays = self._masks[target.name] & new if clear else new
            for value in self.optimizer.state.get(target.parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == target.parameter.shape:
                    apply(stays, value)

    # ---- masks, and what else must rest -----------------------------------------------------------------------------------------

    def take(self, masks: Mapping[str, Tensor], *, clear: bool = True) -> None:
        """From now on these are the masks."""
        with torch.no_grad():
            self.put_in_place(masks, clear)
        self._masks = dict(masks)
        self._living = {name: nonzeros(mask) for name, mask in masks.items()}

    def mask_module(self, module: nn.Module) -> None:
        """Zero what is masked in another copy of the model, such as an average of it."""
        with torch.no_grad():
            for name, parameter in unwrapped(module).named_parameters():
                if plain_name(name) in self._masks:
                    apply(self._masks[plain_name(name)], parameter.detach())

    def freeze(self, parts: Mapping[str, Tensor | None] | None) -> None:
        """From now on the steps change nothing where a part is true (None: the whole parameter). With None instead of parts, all moves
        again."""
        unknown = sorted(set(parts or {}) - set(self._parameters))
        if unknown:
            raise Error(f"{unknown[0]!r} is no parameter of the model, and cannot be frozen")
        self.frozen = None if parts is None else Frozen([(self._parameters[name], part) for name, part in parts.items()])

    def release(self) -> None:
        """Let the optimizer go: its steps are plain again, and masked weights may come alive."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _hook(self) -> None:
        self._hooks = [self.optimizer.register_step_pre_hook(self._before), self.optimizer.register_step_post_hook(self._after)]

    def _bind(self, model: nn.Module, targets: tuple[Target, ...]) -> None:
        owned = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        for target in targets:
            require_whole(target.name, target.parameter)
            if isinstance(target.parameter, UninitializedParameter) or target.parameter.is_meta:
                raise Error(
                    f"{target.name} has no values yet; run a lazy module once, and take a model from the meta device, then make the method"
                )
            if id(target.parameter) not in owned:
                raise Error(
                    f"the {type(self.optimizer).__name__} does not own {target.name}; make it over model.parameters() once the model is on "
                    f"its device, or leave the tensor out with exclude=[{target.name!r}]"
                )
        for other in _sparsifiers(self.optimizer):
            shared = [t.name for t in targets if other is not self and any(t.parameter is o.parameter for o in other.targets)]
            if shared:
                raise Error(f"{shared[0]} has masks of a {type(other).__name__} already; call its release() before another method begins")
        self.targets = targets
        self._parameters = {plain_name(name): p for name, p in unwrapped(model).named_parameters(remove_duplicate=False)}


def _sparsifiers(optimizer: Optimizer) -> list[MaskedOptimizer]:
    """Those whose hooks hang on the optimizer."""
    hooks = getattr(optimizer, "_optimizer_step_pre_hooks", {}).values()
    owners = [getattr(hook, "__self__", None) for hook in hooks]
    return [owner for owner in owners if isinstance(owner, MaskedOptimizer)]

"""Optimizers and averaged copies follow a network through a change of shape, in place, in both directions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fxsparse.errors import PlanError
from fxsparse.surgery.build import as_new_parameter, build
from fxsparse.surgery.journal import convert

if TYPE_CHECKING:
    from fxsparse.network import Network


def carry(before: Network, after: Network, *followers: Optimizer | nn.Module) -> None:
    """Make optimizers and averaged copies (EMA modules, `AveragedModel`s) that belong to `before` belong to `after`.

    State that has a parameter's shape is cut or grown with it; what is cut is remembered and comes back when the units do. Nothing is
    changed when something cannot follow.
    """
    if before.origin is not after.origin:
        raise PlanError("carry works between networks that come from one trace; these two do not")
    remembered: dict[str, Mapping[str, Tensor]] = {}
    actions: list[Any] = []
    for position, follower in enumerate(followers):
        label = f"{position}:{type(follower).__name__}"
        if isinstance(follower, Optimizer):
            actions.append(_prepare_optimizer(before, after, follower, label, remembered))
        elif isinstance(follower, nn.Module):
            actions.append(_prepare_module(before, after, follower, label, remembered))
        else:
            raise PlanError(f"carry takes optimizers and modules, not a {type(follower).__name__}")
    for action in actions:
        action()
    kept = {k: v for k, v in before.journal.followers.items() if k not in remembered}
    object.__setattr__(after, "journal", replace(after.journal, followers={**kept, **remembered}))


def _converter(before: Network, after: Network, label: str, remembered: dict[str, Mapping[str, Tensor]]) -> Any:
    known = before.journal.followers.get(label, {})
    store: dict[str, Tensor] = {}
    remembered[label] = store
    dense = {
        **dict(before.origin.skeleton.named_parameters(remove_duplicate=False)),
        **dict(before.origin.skeleton.named_buffers(remove_duplicate=False)),
    }

    def one(key: str, what: str, tensor: Tensor) -> Tensor:
        name = f"{key}/{what}"
        old = known.get(name) if after.journal.init == "journal" else None
        if old is None:
            old = torch.zeros(dense[key].shape, dtype=tensor.dtype, device=tensor.device)
        value, full = convert(tensor, before.places(key), after.places(key), old, dense[key].shape)
        if full is not None:
            store[name] = full
        return value

    return one


def _prepare_optimizer(
    before: Network, after: Network, optimizer: Optimizer, label: str, remembered: dict[str, Mapping[str, Tensor]]
) -> Any:
    reading = before.origin.structure.reading
    first = {id(t): reading.aliases.get(key, key) for key, t in before.tensors().items()}
    new = after.tensors()
    one = _converter(before, after, label, remembered)
    groups: list[list[Any]] = []
    state: dict[Any, dict[str, Any]] = {}
    owned = False
    for group in optimizer.param_groups:
        line = []
        for parameter in group["params"]:
            key = first.get(id(parameter))
            owned |= key is not None
            target = parameter if key is None else new[key]
            line.append(target)
            if parameter in optimizer.state:
                state[target] = optimizer.state[parameter] if key is None else _state(optimizer, parameter, key, one)
        groups.append(line)
    if not owned:
        raise PlanError(f"the {type(optimizer).__name__} holds no parameter of the network; make it over net.module.parameters()")

    def act() -> None:
        for group, line in zip(optimizer.param_groups, groups, strict=True):
            group["params"] = line
        optimizer.state.clear()
        optimizer.state.update(state)

    return act


def _state(optimizer: Optimizer, parameter: Tensor, key: str, one: Any) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in optimizer.state[parameter].items():
        if isinstance(value, Tensor) and value.shape == parameter.shape and value.dim():
            made[name] = one(key, name, value)
        elif isinstance(value, Tensor) and value.numel() > 1:
            raise PlanError(
                f"{type(optimizer).__name__} keeps {name!r} of shape {tuple(value.shape)} for {key!r} of shape {tuple(parameter.shape)}; "
                "only state of the parameter's shape can follow; make a new optimizer"
            )
        else:
            made[name] = value
    return made


def _prepare_module(before: Network, after: Network, module: nn.Module, label: str, remembered: dict[str, Mapping[str, Tensor]]) -> Any:
    inner = module.module if isinstance(module, torch.optim.swa_utils.AveragedModel) else module
    named = {**dict(inner.named_parameters(remove_duplicate=False)), **dict(inner.named_buffers(remove_duplicate=False))}
    expected = before.tensors()
    wrong = next((k for k, t in expected.items() if k not in named or named[k].shape != t.shape), None)
    if wrong is not None:
        found = tuple(named[wrong].shape) if wrong in named else "no such tensor"
        raise PlanError(
            f"the {type(module).__name__} is no copy of the network: {wrong!r} is {tuple(expected[wrong].shape)} there, and {found} here"
        )
    one = _converter(before, after, label, remembered)
    reading = before.origin.structure.reading
    made: dict[str, Tensor] = {}
    for key in expected:
        first = reading.aliases.get(key, key)
        if first not in made:
            made[first] = as_new_parameter(named[first], one(first, "value", named[first]))
        made[key] = made[first]
    twin = build(after.origin.skeleton, after.origin.structure, after.prediction, made, after.origin.inputs)
    for name, old in inner.named_modules():
        twin.get_submodule(name).training = old.training

    def act() -> None:
        inner.__class__ = twin.__class__
        inner.__dict__.clear()
        inner.__dict__.update(twin.__dict__)

    return act

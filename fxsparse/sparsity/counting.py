"""What a network costs: parameters, non-zeros and multiply-accumulates per layer, and what a training run spends.

The network is run once. Every contraction that multiplies by a parameter, or by something computed from parameters alone (a cast, a
masked or scaled weight), is a use of that parameter. A tied parameter counts once, and all its uses cost.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from fxsparse.sparsity.targets import plain_name, unwrapped


@dataclass(frozen=True)
class Use:
    """One contraction: by which parameter (None: activations by activations), its dense MACs, and the contractions of its backward pass."""

    weight: str | None
    macs: int
    input_gradients: int
    weight_gradients: int


@dataclass(frozen=True)
class LayerCost:
    """A weight and what it costs in one forward pass."""

    name: str
    parameters: int
    nonzeros: int
    macs: int
    sparse_macs: int
    uses: int


@dataclass(frozen=True)
class Profile:
    """What a network costs on the inputs that it was profiled with. `nonzeros` maps parameters to how many of their weights live; those
    that are not named are dense."""

    uses: tuple[Use, ...]
    sizes: Mapping[str, int]

    @property
    def parameters(self) -> int:
        return sum(self.sizes.values())

    def nonzeros(self, nonzeros: Mapping[str, int] | None = None) -> int:
        return sum((nonzeros or {}).get(name, size) for name, size in self.sizes.items())

    def macs(self, nonzeros: Mapping[str, int] | None = None) -> int:
        """The forward pass."""
        return sum(self._sparse(use, nonzeros) for use in self.uses)

    def backward(self, nonzeros: Mapping[str, int] | None = None, dense_gradients: bool = False) -> int:
        """The backward pass; with `dense_gradients`, masked weights get their gradients as well."""
        total = 0
        for use in self.uses:
            sparse = self._sparse(use, nonzeros)
            total += use.input_gradients * sparse + use.weight_gradients * (use.macs if dense_gradients else sparse)
        return total

    def layers(self, nonzeros: Mapping[str, int] | None = None) -> tuple[LayerCost, ...]:
        """One line for each weight that multiplies, in the order of use."""
        made = []
        for name in dict.fromkeys(use.weight for use in self.uses if use.weight is not None):
            uses = [use for use in self.uses if use.weight == name]
            size = self.sizes[name]
            sparse = sum(self._sparse(use, nonzeros) for use in uses)
            made.append(LayerCost(name, size, (nonzeros or {}).get(name, size), sum(use.macs for use in uses), sparse, len(uses)))
        return tuple(made)

    def _sparse(self, use: Use, nonzeros: Mapping[str, int] | None) -> int:
        if use.weight is None or not nonzeros or use.weight not in nonzeros:
            return use.macs
        return use.macs * nonzeros[use.weight] // self.sizes[use.weight]


@dataclass
class Meter:
    """What a training run has spent, in MACs. `exploration` is the part of forward and backward that went into exploring."""

    forward: int = 0
    backward: int = 0
    exploration: int = 0

    @property
    def total(self) -> int:
        return self.forward + self.backward

    def step(
        self, profile: Profile, examples: int, nonzeros: Mapping[str, int] | None, dense_gradients: bool = False, exploring: bool = False
    ) -> None:
        """One training step of `examples`, by the profile of one example."""
        forward, backward = examples * profile.macs(nonzeros), examples * profile.backward(nonzeros, dense_gradients)
        self.forward += forward
        self.backward += backward
        self.exploration += (forward + backward) if exploring else 0


def profile(model: nn.Module, *inputs: Any, **options: Any) -> Profile:
    """Run the model once, in evaluation mode, and note every contraction. Nothing of it changes."""
    model = unwrapped(model)
    named: dict[int, tuple[str, Tensor]] = {}
    for name, parameter in model.named_parameters():
        named[id(parameter)] = (plain_name(name), parameter)
    modes = [(module, module.training) for module in model.modules()]
    watcher = _Watcher(dict(named.values()), tree_leaves((inputs, options)))
    try:
        model.eval()
        with _plain_arithmetic(), torch.enable_grad(), watcher:
            model(*inputs, **options)
    finally:
        for module, training in modes:
            module.training = training
    return Profile(tuple(watcher.uses), {name: parameter.numel() for name, parameter in named.values()})


def nonzeros(model: nn.Module) -> dict[str, int]:
    """Weights of the model that are not zero, by parameter."""
    return {plain_name(name): int(torch.count_nonzero(p.detach())) for name, p in unwrapped(model).named_parameters()}


@contextlib.contextmanager
def _plain_arithmetic() -> Iterator[None]:
    """No fused attention and recurrent kernels, so that every contraction shows."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # setting oneDNN's flags warns about Intel GPUs that are not there
            with sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False), torch.backends.cudnn.flags(enabled=False):
                yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Watcher(TorchDispatchMode):
    """Notes contractions. A tensor is known by its storage, as views are new objects."""

    def __init__(self, parameters: Mapping[str, Tensor], inputs: list[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.uses: list[Use] = []
        self.alive: list[Tensor] = []  # a freed storage's number is given again
        self.data = {_storage(t) for t in inputs if isinstance(t, Tensor)}
        self.origins: dict[int, list[tuple[range, str]]] = {}
        for name, parameter in parameters.items():
            start = parameter.storage_offset()
            self.origins.setdefault(_storage(parameter), []).append((range(start, start + parameter.numel()), name))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        results = [t for t in tree_leaves(made) if isinstance(t, Tensor)]
        self.alive += results
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self._note([t for t in given if t.dim() > 1], formula(*args, **kwargs, out_val=made) // 2)
        if any(_storage(t) in self.data for t in given):
            self.data |= {_storage(t) for t in results}
        elif formula is None:
            self._derive(given, results)
        return made

    def _note(self, operands: list[Tensor], macs: int) -> None:
        weight = next((t for t in operands if _storage(t) not in self.data and self._origin(t) is not None), None)
        others = [t for t in operands if t is not weight]
        name = None if weight is None else self._origin(weight)
        learns = int(weight is not None and weight.requires_grad)
        self.uses.append(Use(name, macs, sum(t.requires_grad for t in others), learns))

    def _derive(self, given: list[Tensor], results: list[Tensor]) -> None:
        sources = {origin: t.numel() for t in given if (origin := self._origin(t)) is not None}
        for result in results:
            if _storage(result) not in self.origins:
                same = [name for name, size in sources.items() if size == result.numel()]
                if len(same) == 1:
                    self.origins[_storage(result)] = [(range(0, result.numel()), same[0])]

    def _origin(self, tensor: Tensor) -> str | None:
        start = tensor.storage_offset()
        return next((name for places, name in self.origins.get(_storage(tensor), ()) if start in places), None)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)

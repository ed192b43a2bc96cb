"""The independent reference behind `fxsparse.verify`: the wide network itself, with the removed units tainted.

NaN is put where the removed units are made, and the network's own code runs. Element-wise operators, movement, slices and concatenations
carry NaN by themselves; nothing here knows the algebra of axes. At a contraction, terms with a NaN factor are left out, and the result is
NaN where no term is left: that is what it means that a unit is not there. Norms take their statistics over what is left.
Zeros would not do: a removed channel behind a sigmoid is not a half.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fxsparse.errors import VerificationError
from fxsparse.surgery.reference_contractions import KERNELS, nothing
from fxsparse.surgery.reference_living import Living
from fxsparse.surgery.reference_random import drawn, draws
from fxsparse.surgery.reference_state import randomised_state
from fxsparse.tracing.copies import double_copy
from fxsparse.tracing.memory import changed, holdings
from fxsparse.tracing.outputs import output_tensors

__all__ = ["InDouble", "Reference", "Taint", "randomised_state", "run_in_double", "run_reference", "tainted_state"]

Taint = Mapping[str, Mapping[int, Sequence[int]]]
_WIDER = {torch.float32: torch.float64, torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.complex64: torch.complex128}
_UNWRITTEN = {"aten::empty", "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided"}


@dataclass(frozen=True, slots=True)
class Reference:
    """Outputs of the tainted run and of the clean one; tensors only, in order."""

    outputs: list[Tensor]
    clean: list[Tensor]
    tainted_outputs: tuple[int, ...]  # outputs that a removed unit reaches without passing a contraction
    effect: float  # largest change of an output, relative to the largest clean output
    nan: str | None = None  # the operator that makes NaN in the clean run, and its module: NaN that no output shows


def run_reference(
    module: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any],
    state: Mapping[str, Tensor],
    taint: Taint,
    probes: Sequence[str] = (),
    *,
    spend: bool = False,
) -> Reference:
    """Run `module` in eval mode and float64 with this state, clean and tainted; results of the `probes`, submodules, count as outputs.

    A state to `spend` is tainted itself, and not a copy of it; for modules that do not write to their tensors.
    """
    twin = double_copy(module, hollow=True).eval()
    watch, before = _Watch(twin), holdings(twin)
    with watch.modules():
        clean = run_in_double(twin, state, args, kwargs, watch, probes, spend=spend)
    watch.check(clean[0])
    if changed(before, holdings(twin)):  # the run has left something behind
        twin = double_copy(module, hollow=True).eval()
    outputs = run_in_double(twin, tainted_state(state, taint, spend=spend), args, kwargs, _Tainted(), probes, spend=True)
    final = len(outputs[0])
    flat, flat_clean = [t for line in outputs for t in line], [t for line in clean for t in line]
    reached = tuple(i for i, t in enumerate(flat[:final]) if bool(t.isnan().any()))
    lines = zip(outputs, clean, strict=False)  # by other values the code may call its parts more often, or give more
    pairs = [(a, b) for one, other in lines for a, b in zip(one, other, strict=False) if a.shape == b.shape and a.numel()]
    scale = max((float(b.nan_to_num(0.0, 0.0, 0.0).abs().max()) for _, b in pairs), default=0.0) or 1.0
    effect = max((float((_number(a) - _number(b)).nan_to_num(0.0).abs().max()) for a, b in pairs), default=0.0) / scale
    return Reference(flat, flat_clean, reached, effect, watch.first.get("NaN"))


def run_in_double(
    twin: nn.Module,
    state: Mapping[str, Tensor],
    args: Any,
    kwargs: Mapping[str, Any],
    mode: TorchDispatchMode,
    probes: Sequence[str] = (),
    *,
    spend: bool = False,
) -> list[list[Tensor]]:
    """The tensors among the outputs, and those among the results of each probed submodule, call by call. One to `spend` is not copied."""
    args, kwargs = tree_map_only(Tensor, lambda t: _widened(t.clone()), (args, dict(kwargs)))
    own = {id(t): t if spend else t.clone() for t in state.values()}  # a buffer that the run changes must not change the caller's
    seen: list[list[Tensor]] = []

    def note(module: nn.Module, inputs: Any, out: Any) -> None:
        seen.append([t.clone() for t in output_tensors(out)])

    with contextlib.ExitStack() as stack:
        for name in probes:
            stack.callback(twin.get_submodule(name).register_forward_hook(note).remove)
        stack.enter_context(_plain_kernels())
        stack.enter_context(mode)
        out = torch.func.functional_call(twin, {key: own[id(t)] for key, t in state.items()}, args, dict(kwargs), tie_weights=False)
    return [output_tensors(out), *seen]


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    """No fused attention, no fused recurrent layers, no narrower numbers, no gradients; the same random numbers in every run."""
    fast, default, onednn = torch.backends.mha.get_fastpath_enabled(), torch.get_default_dtype(), torch._C._get_mkldnn_enabled()
    try:
        torch._C._set_mkldnn_enabled(False)  # its context manager touches the flags of other devices, too, and warns
        torch.backends.mha.set_fastpath_enabled(False)
        torch.set_default_dtype(torch.float64)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)
            yield
    finally:
        torch._C._set_mkldnn_enabled(onednn)
        torch.set_default_dtype(default)
        torch.backends.mha.set_fastpath_enabled(fast)


def tainted_state(state: Mapping[str, Tensor], taint: Taint, *, spend: bool = False) -> dict[str, Tensor]:
    """A copy, or a state to `spend` itself, with NaN at the tainted coordinates; a tensor that has two names is tainted under both."""
    made: dict[int, Tensor] = {}
    for key, tensor in state.items():
        if id(tensor) not in made:
            made[id(tensor)] = tensor if spend else tensor.clone()
        value = made[id(tensor)]
        if value.is_floating_point() or value.is_complex():
            for axis, coordinates in taint.get(key, {}).items():
                value.index_fill_(axis, torch.as_tensor(list(coordinates), dtype=torch.int64), nothing(value))
    return {key: made[id(tensor)] for key, tensor in state.items()}


def _widened(tensor: Tensor) -> Tensor:
    return tensor.to(_WIDER[tensor.dtype]) if tensor.dtype in _WIDER else tensor


def _number(tensor: Tensor) -> Tensor:
    return tensor if tensor.is_complex() else tensor.double()


class InDouble(TorchDispatchMode):
    """Runs as it is, in float64 throughout: code that asks for a narrower floating type gets float64."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") in _WIDER:
            kwargs["dtype"] = _WIDER[kwargs["dtype"]]
        if not func._schema.is_mutable and not func.is_view:  # plain tensor attributes of modules are not cast with them
            args, kwargs = tree_map_only(Tensor, _widened, (args, kwargs))
        if func is torch.ops.aten.empty_like.default:  # memory that was not written may hold NaN by chance
            func = torch.ops.aten.zeros_like.default
        out = drawn(func, args, kwargs) if draws(func) else self.run(func, args, kwargs)
        return out.zero_() if func._schema.name in _UNWRITTEN else out

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return KERNELS.get(func._schema.name, func)(*args, **kwargs)


class _Tainted(InDouble):
    """NaN means "not there"."""

    def __init__(self) -> None:
        super().__init__()
        self.living = Living()

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.living(func, args, kwargs)


class _Watch(InDouble):
    """Remembers the first operator that makes NaN, and the first that makes infinity, from finite numbers, and the module it belongs to."""

    def __init__(self, twin: nn.Module) -> None:
        super().__init__()
        self.twin = twin
        self.stack: list[str] = []
        self.first: dict[str, str] = {}

    @contextlib.contextmanager
    def modules(self) -> Iterator[None]:
        """While this lasts, the module that runs is known."""
        with contextlib.ExitStack() as hooks:
            for name, module in self.twin.named_modules():
                hooks.callback(module.register_forward_pre_hook(lambda m, i, name=name: self.stack.append(name)).remove)
                hooks.callback(module.register_forward_hook(lambda m, i, out: self._leave()).remove)
            yield

    def _leave(self) -> None:
        self.stack.pop()

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = func._schema.name
        if len(self.first) == 2 or name in _UNWRITTEN:
            return super().run(func, args, kwargs)
        before = _kinds((args, kwargs)) if func._schema.is_mutable else None
        out = super().run(func, args, kwargs)
        if after := _kinds(out):
            for kind in after - (_kinds((args, kwargs)) if before is None else before):
                module = f"in module {self.stack[-1]!r}" if self.stack and self.stack[-1] else "in the network's own forward"
                self.first.setdefault(kind, f"{name} {module}")
        return out

    def check(self, outputs: Sequence[Tensor]) -> None:
        """Raises where an output is not finite; infinities that come and go (masks) are no reason."""
        kind = min(_kinds(outputs), default="")  # "NaN" before "infinity"
        if kind:
            raise VerificationError(
                f"the original network gives {kind} on random values, made first by {self.first.get(kind, 'its inputs')}, so that "
                "nothing can be compared; give inputs that suit the network"
            )


def _kinds(tree: Any) -> set[str]:
    found: set[str] = set()
    for leaf in tree_leaves(tree):
        if isinstance(leaf, Tensor) and (leaf.is_floating_point() or leaf.is_complex()) and not bool(leaf.sum().isfinite()):
            found |= ({"NaN"} if bool(leaf.isnan().any()) else set()) | ({"infinity"} if bool(leaf.isinf().any()) else set())
    return found

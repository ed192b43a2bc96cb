"""The independent reference behind `fxsparse.verify`: the wide network itself, with the removed units tainted.

NaN is put where the removed units are made, and the network's own code runs. Element-wise operators, movement, slices and concatenations
carry NaN by themselves; nothing here knows the algebra of axes. At a contraction, terms with a NaN factor are left out, and the result is
NaN where no term is left: that is what it means that a unit is not there. Norms take their statistics over what is left.
Zeros would not do: a removed channel behind a sigmoid is not a half.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from fxsparse.errors import VerificationError

aten = torch.ops.aten
NAN = float("nan")
Taint = Mapping[str, Mapping[int, Sequence[int]]]


@dataclass(frozen=True, slots=True)
class Reference:
    """Outputs of the tainted run and of the clean one; tensors only, in order."""

    outputs: list[Tensor]
    clean: list[Tensor]
    tainted_outputs: tuple[int, ...]
    effect: float


def run_reference(
    module: nn.Module, args: Any, kwargs: Mapping[str, Any], state: Mapping[str, Tensor], taint: Taint, probes: Sequence[str] = ()
) -> Reference:
    """Run `module` in eval mode and float64 with this state, clean and tainted; results of the `probes`, submodules, count as outputs."""
    twin = copy.deepcopy(module).cpu().double().eval()
    clean = run_in_double(twin, state, args, kwargs, _Finite(), probes)
    tainted = tainted_state(state, taint)
    outputs = run_in_double(twin, tainted, args, kwargs, _Living(), probes)
    final = len(outputs[0])
    flat, flat_clean = [t for line in outputs for t in line], [t for line in clean for t in line]
    reached = tuple(i for i, t in enumerate(flat[:final]) if t.is_floating_point() and bool(t.isnan().any()))
    pairs = [
        (a.double(), b.double()) for a, b in zip(flat, flat_clean, strict=True) if a.shape == b.shape and a.numel() and not a.is_complex()
    ]
    scale = max((float(b.abs().max()) for _, b in pairs), default=0.0) or 1.0
    effect = max((float((a - b).nan_to_num().abs().max()) for a, b in pairs), default=0.0) / scale
    return Reference(flat, flat_clean, reached, effect)


def run_in_double(
    twin: nn.Module, state: Mapping[str, Tensor], args: Any, kwargs: Mapping[str, Any], mode: TorchDispatchMode, probes: Sequence[str] = ()
) -> list[list[Tensor]]:
    """The tensors among the outputs, and those among the results of each probed submodule, call by call."""
    fast = torch.backends.mha.get_fastpath_enabled()
    default = torch.get_default_dtype()
    args, kwargs = tree_map_only(Tensor, lambda t: t.clone(), (args, dict(kwargs)))
    own = {id(t): t.clone() for t in state.values()}  # a buffer that the run changes must not change the caller's
    seen: list[list[Tensor]] = []
    hooks = [
        twin.get_submodule(name).register_forward_hook(
            lambda m, i, out: seen.append([t.clone() for t in tree_leaves(out) if isinstance(t, Tensor)])
        )
        for name in probes
    ]
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        torch.set_default_dtype(torch.float64)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), mode:
            out = torch.func.functional_call(twin, {key: own[id(t)] for key, t in state.items()}, args, dict(kwargs), tie_weights=False)
    finally:
        torch.set_default_dtype(default)
        torch.backends.mha.set_fastpath_enabled(fast)
        for hook in hooks:
            hook.remove()
    return [[leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)], *seen]


def tainted_state(state: Mapping[str, Tensor], taint: Taint) -> dict[str, Tensor]:
    made: dict[int, Tensor] = {}
    for key, tensor in state.items():
        if key in taint or id(tensor) not in made:
            made[id(tensor)] = _tainted(tensor, taint.get(key, {}))
    return {key: made[id(tensor)] for key, tensor in state.items()}


def _tainted(tensor: Tensor, where: Mapping[int, Sequence[int]]) -> Tensor:
    if not where or not tensor.is_floating_point():
        return tensor
    made = tensor.clone()
    for axis, coordinates in where.items():
        made.index_fill_(axis, torch.as_tensor(list(coordinates)), NAN)
    return made


class InDouble(TorchDispatchMode):
    """Runs as it is, in float64 throughout: code that asks for a narrower floating type gets float64."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") in (torch.float32, torch.float16, torch.bfloat16):
            kwargs["dtype"] = torch.float64
        return self.run(func, args, kwargs)

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return func(*args, **kwargs)


class _Finite(InDouble):
    """Names the first operator that makes something that is not finite."""

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = func(*args, **kwargs)
        name = func._schema.name
        if any(word in name for word in ("empty", "fill", "where", "softmax", "new_", "full", "mask", "scalar_tensor", "nan")):
            return out
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.is_floating_point()]
        for leaf in tree_leaves(out):
            if (
                isinstance(leaf, Tensor)
                and leaf.is_floating_point()
                and leaf.numel()
                and bool(leaf.isnan().any())
                and all(bool(t.isfinite().all()) for t in inputs)
            ):
                raise VerificationError(f"{name} gives NaN in the original network on random inputs; nothing can be proved about it")
        return out


def _dead(tensor: Tensor) -> Tensor:
    return tensor.isnan()


class _Living(InDouble):
    """The arithmetic in which NaN means "not there"."""

    def run(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
        if not any(bool(t.isnan().any()) for t in inputs):
            return func(*args, **kwargs)
        special = _SPECIAL.get(func._schema.name)
        if special is not None:
            return special(func, args, kwargs)
        if torch.Tag.pointwise in func.tags and "where" not in func._schema.name:
            return _pointwise(func, args, kwargs, inputs)
        return func(*args, **kwargs)


def _pointwise(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: list[Tensor]) -> Any:
    """As it is, and NaN again where a kernel (a clamp, say) has dropped it."""
    dead = None
    for t in inputs:
        dead = _dead(t) if dead is None else dead | _dead(t)
    out = func(*args, **kwargs)
    if isinstance(out, Tensor) and out.is_floating_point() and dead is not None and dead.shape == out.shape:
        out.masked_fill_(dead, NAN)
    return out


def _contraction(slots: tuple[int, int], summand: int | None = None) -> Callable[..., Any]:
    """A bilinear operator in the arguments at `slots`, with an additive argument at `summand`."""

    def run(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        a, b = args[slots[0]], args[slots[1]]
        added = args[summand] if summand is not None and summand < len(args) else None

        def product(x: Tensor, y: Tensor) -> Tensor:
            arguments = list(args)
            arguments[slots[0]], arguments[slots[1]] = x, y
            if summand is not None and summand < len(args):
                arguments[summand] = None if func._schema.name == "aten::convolution" else torch.zeros((), dtype=a.dtype)
            made: Tensor = func(*arguments, **kwargs)
            return made

        total = product(
            torch.nan_to_num(a, nan=0.0, posinf=torch.inf, neginf=-torch.inf),
            torch.nan_to_num(b, nan=0.0, posinf=torch.inf, neginf=-torch.inf),
        )
        living = product((~_dead(a)).to(a.dtype), (~_dead(b)).to(b.dtype))
        every = product(torch.ones_like(a), torch.ones_like(b))
        total = total.masked_fill((living.abs() < 0.5) & (every.abs() > 0.5), NAN)
        if added is not None:
            if func._schema.name == "aten::convolution":
                rank = total.dim() - 2 if total.dim() > 2 else 0
                added = added.reshape(-1, *[1] * rank)
            total = total + kwargs.get("beta", 1) * added
        return total

    return run


def _inner(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    a, b = args
    products = a * b
    alive = ~_dead(products)
    return torch.where(alive, products, 0).sum() if bool(alive.any()) else products.sum()


def _sum(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x = args[0]
    total: Tensor = func(torch.nan_to_num(x, nan=0.0), *args[1:], **kwargs)
    alive: Tensor = func((~_dead(x)).to(x.dtype), *args[1:], **kwargs)
    return total.masked_fill(alive == 0, NAN)


def _mean(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x, dims, keep = args[0], args[1] if len(args) > 1 else None, bool(args[2]) if len(args) > 2 else bool(kwargs.get("keepdim", False))
    alive = (~_dead(x)).to(x.dtype)
    dims = list(dims) if dims else list(range(x.dim()))
    return torch.nan_to_num(x, nan=0.0).sum(dims, keepdim=keep) / alive.sum(dims, keepdim=keep)


def _moments(x: Tensor, dims: list[int]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over the living."""
    alive = ~_dead(x)
    count = alive.sum(dims, keepdim=True)
    mean = torch.where(alive, x, 0).sum(dims, keepdim=True) / count
    variance = torch.where(alive, (x - mean) ** 2, 0).sum(dims, keepdim=True) / count
    return mean, variance


def _layer_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, shape, weight, bias, eps = args
    dims = list(range(x.dim() - len(shape), x.dim()))
    mean, variance = _moments(x, dims)
    scale = torch.rsqrt(variance + eps)
    out = (x - mean) * scale
    out = out if weight is None else out * weight
    return (out if bias is None else out + bias), mean, scale


def _group_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, weight, bias, n, c, _, groups, eps = args
    grouped = x.reshape(n, groups, -1)
    mean, variance = _moments(grouped, [2])
    scale = torch.rsqrt(variance + eps)
    out = ((grouped - mean) * scale).reshape(x.shape)
    line = [1, c, *[1] * (x.dim() - 2)]
    out = out if weight is None else out * weight.reshape(line)
    return (out if bias is None else out + bias.reshape(line)), mean.reshape(n, groups), scale.reshape(n, groups)


def _rms_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    x, shape, weight, eps = (*args, None, None)[:4]
    dims = list(range(x.dim() - len(shape), x.dim()))
    alive = ~_dead(x)
    mean = torch.where(alive, x * x, 0).sum(dims, keepdim=True) / alive.sum(dims, keepdim=True)
    scale = torch.rsqrt(mean + (torch.finfo(x.dtype).eps if eps is None else eps))
    out = x * scale
    return (out if weight is None else out * weight), scale


def _embedding_bag(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    weight = args[0]
    out = func(torch.nan_to_num(weight, nan=0.0), *args[1:], **kwargs)
    columns = _dead(weight).all(dim=0)
    out[0].masked_fill_(columns, NAN)
    return out


def _batch_norm(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return func(*args, **kwargs)


def _softmax(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    x = args[0]
    out: Tensor = func(x.masked_fill(_dead(x), -torch.inf), *args[1:], **kwargs)
    return out.masked_fill(_dead(x), NAN)


_SPECIAL: dict[str, Callable[..., Any]] = {
    "aten::convolution": _contraction((0, 1), 2),
    "aten::addmm": _contraction((1, 2), 0),
    "aten::mm": _contraction((0, 1)),
    "aten::bmm": _contraction((0, 1)),
    "aten::baddbmm": _contraction((1, 2), 0),
    "aten::addmv": _contraction((1, 2), 0),
    "aten::mv": _contraction((0, 1)),
    "aten::dot": _inner,
    "aten::sum": _sum,
    "aten::mean": _mean,
    "aten::native_layer_norm": _layer_norm,
    "aten::native_group_norm": _group_norm,
    "aten::_fused_rms_norm": _rms_norm,
    "aten::_embedding_bag": _embedding_bag,
    "aten::_embedding_bag_forward_only": _embedding_bag,
    "aten::_softmax": _softmax,
    "aten::_safe_softmax": _softmax,
    "aten::_log_softmax": _softmax,
}


# ---- random values ----------------------------------------------------------------------------------------------------------


def randomised_state(module: nn.Module, seed: int) -> dict[str, Tensor]:
    """Random float64 values for every parameter and every statistic of a norm: zero-initialised scales and fresh statistics hide errors.

    Weights are scaled by their fan-in, so that deep networks stay finite. Other buffers (index tables, periods, anchors) keep their values.
    """
    generator = torch.Generator().manual_seed(seed)
    made: dict[int, Tensor] = {}
    state: dict[str, Tensor] = {}
    for key, parameter in module.named_parameters(remove_duplicate=False):
        if id(parameter) not in made:
            made[id(parameter)] = _random_parameter(key, parameter, generator)
        state[key] = made[id(parameter)]
    for key, buffer in module.named_buffers(remove_duplicate=False):
        if id(buffer) not in made:
            made[id(buffer)] = _random_buffer(key, buffer, generator)
        state[key] = made[id(buffer)]
    return state


def _uniform(shape: torch.Size, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64) * (high - low) + low


def _random_parameter(key: str, parameter: Tensor, generator: torch.Generator) -> Tensor:
    if not parameter.is_floating_point():
        return parameter.detach().cpu().clone()
    normal = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    if parameter.dim() < 2:
        return 0.1 * normal if key.endswith("bias") else _uniform(parameter.shape, 0.5, 1.5, generator)
    fan_in = max(1, parameter[0].numel())
    return normal / fan_in**0.5 if fan_in > 1 else _uniform(parameter.shape, 0.5, 1.5, generator)


def _random_buffer(key: str, buffer: Tensor, generator: torch.Generator) -> Tensor:
    name = key.rpartition(".")[2]
    if name == "running_var":
        return _uniform(buffer.shape, 0.5, 1.5, generator)
    if name == "running_mean":
        return 0.1 * torch.randn(buffer.shape, generator=generator, dtype=torch.float64)
    value = buffer.detach().cpu().clone()
    return value.double() if value.is_floating_point() else value

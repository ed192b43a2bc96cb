"""What operators make of constants. An operator that is not here makes nothing known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxsparse.axes.rules.pointwise import pointwise
from fxsparse.axes.site import dim_of
from fxsparse.passes.constant_values import (
    Known,
    Shape,
    certain,
    dropped,
    full_on,
    product,
    reshaped,
    uniform,
    unknown,
)
from fxsparse.tracing.tape import Call, Ref, Tape

aten = torch.ops.aten


@dataclass(frozen=True)
class Step:
    """One call with what is known of its arguments."""

    call: Call
    tape: Tape
    look: Callable[[Ref], Known]
    sized: bool  # one of its numbers was computed from sizes, and is another one for other inputs
    bias: Tensor | None = None  # a bias that the layer is about to get

    def arg(self, name: str, default: Any = None) -> Any:
        for position, argument in enumerate(self.call.op._schema.arguments):
            if argument.name == name:
                if position < len(self.call.args):
                    return self.call.args[position]
                return self.call.kwargs.get(name, argument.default_value if argument.has_default_value() else default)
        return default

    def has(self, name: str) -> bool:
        return any(argument.name == name for argument in self.call.op._schema.arguments)

    def known(self, name: str) -> Known | None:
        """What is known of an argument; None where there is none."""
        ref = self.arg(name)
        return self.look(ref) if isinstance(ref, Ref) else None

    def shape(self, ref: Any) -> Shape:
        return tuple(self.tape.shape(ref))

    @property
    def tensors(self) -> list[Ref]:
        return list(_refs((*self.call.args, *self.call.kwargs.values())))

    @property
    def result(self) -> Shape:
        return self.shape(self.call.results[0])


def _refs(value: Any) -> Iterator[Ref]:
    if isinstance(value, Ref):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _refs(item)


Rule = Callable[[Step], "Known | Sequence[Known]"]
RULES: dict[str, Rule] = {}


def rule(names: str) -> Callable[[Rule], Rule]:
    def add(function: Rule) -> Rule:
        RULES.update({f"aten.{name}": function for name in names.split()})
        return function

    return add


def transfer(step: Step) -> list[Known]:
    """What is known of each result that is a tensor, in order; of a result that is none, nothing. What does not fit is not believed."""
    found = _rule_of(step.call)
    made = found(step) if found is not None else ()
    results = [made] if isinstance(made, Known) else list(made)
    out = []
    for index, ref in enumerate(step.call.results):
        shape = step.shape(ref) if isinstance(ref, Ref) else ()
        given = results[index] if index < len(results) else unknown(len(shape))
        fits = len(given.shape) == len(shape) and all(n in (1, extent) for n, extent in zip(given.shape, shape, strict=True))
        out.append(given if fits else unknown(len(shape)))
    return out


_TURNED_IN_PLACE = {f"aten.{name}_" for name in ("t", "transpose", "swapaxes", "squeeze", "unsqueeze", "detach")}


def _rule_of(call: Call) -> Rule | None:
    name = call.name
    if name in RULES:
        return RULES[name]
    if name in _TURNED_IN_PLACE:
        return None
    random = torch.Tag.nondeterministic_seeded in call.op.tags or any(
        w in name for w in ("empty", "rand", "dropout", "bernoulli", "normal_")
    )
    if random or not (name in pointwise.rules or is_pointwise(call)):
        return None
    return _elementwise


def is_pointwise(call: Call) -> bool:
    """By torch's tag, of the operator or of the one that it does in place."""
    if torch.Tag.pointwise in call.op.tags:
        return True
    base = getattr(getattr(torch.ops, call.op.namespace), call.op._schema.name.partition("::")[2].rstrip("_"), None)
    return base is not None and any(torch.Tag.pointwise in getattr(base, o).tags for o in base.overloads())


# ---- element by element -----------------------------------------------------------------------------------------------------------


def _elementwise(step: Step) -> Known:
    """The operator itself, on the few numbers that are known."""
    known = {ref: _to_rank(step.look(ref), len(step.result)) for ref in step.tensors}
    shape = torch.broadcast_shapes(*(x.shape for x in known.values())) if known else ()
    believed = torch.ones(shape, dtype=torch.bool)
    for x in known.values():
        believed = believed & x.known
    value = _run(step, known, shape) if not step.sized and bool(believed.any()) else torch.zeros(shape)
    if step.sized or value is None:
        believed, value = torch.zeros(shape, dtype=torch.bool), torch.zeros(shape)
    if step.call.name in ("aten.mul", "aten.mul_"):
        nothing = torch.zeros(shape, dtype=torch.bool)
        for x in known.values():
            nothing = nothing | x.zero
        value, believed = value.masked_fill(nothing, 0), believed | nothing
    return Known(value.expand(shape), believed.expand(shape))


def _to_rank(x: Known, rank: int) -> Known:
    """New axes in front, as broadcasting makes them."""
    return x.moved(lambda t: t.reshape([1] * (rank - t.dim()) + list(t.shape))) if len(x.shape) <= rank else unknown(rank)


def _run(step: Step, known: dict[Ref, Known], shape: Sequence[int]) -> Tensor | None:
    def real(value: Any) -> Any:
        if isinstance(value, Ref):
            return known[value].value
        if isinstance(value, (list, tuple)):
            return [real(item) for item in value]
        return torch.device("cpu") if isinstance(value, torch.device) else value

    args, kwargs = [real(a) for a in step.call.args], {k: real(v) for k, v in step.call.kwargs.items()}
    if step.call.op._schema.is_mutable and args and isinstance(args[0], Tensor):
        args[0] = args[0].expand(shape).clone()
    try:
        out = step.call.op(*args, **kwargs)
    except (RuntimeError, ValueError, IndexError):
        return None
    return out if isinstance(out, Tensor) and out.shape == torch.Size(shape) else None


@rule("fill fill_ zero zero_ zeros_like ones_like full_like zeros ones full new_zeros new_ones new_full scalar_tensor")
def _filled(step: Step) -> Known:
    if step.sized:
        return unknown(len(step.result))
    name = step.call.name
    number: Any = 0.0 if "zero" in name else 1.0 if "ones" in name else step.arg("value", step.arg("fill_value", step.arg("s")))
    if isinstance(number, Ref):
        return _to_rank(step.look(number), len(step.result))
    dtype = step.tape.values[step.call.results[0].id].dtype
    return uniform(number, len(step.result), torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype)


@rule("copy_ copy")
def _copied(step: Step) -> Known:
    return _to_rank(step.look(step.arg("src")), len(step.result))


@rule("native_dropout")
def _dropout(step: Step) -> Known:
    """As in eval mode."""
    return step.look(step.arg("input"))


@rule("bernoulli_")
def _bernoulli(step: Step) -> Known:
    """Dropout written out: in train mode, what is kept is divided by its probability, so that all of it together is as in eval mode."""
    kept = step.arg("p")
    rank = len(step.result)
    return uniform(kept, rank, torch.float64) if step.tape.mode == "train" and isinstance(kept, float) else unknown(rank)


@rule("glu")
def _glu(step: Step) -> Known:
    ref = step.arg("self")
    shape = step.shape(ref)
    dim = dim_of(step.arg("dim"), len(shape))
    x = full_on(step.look(ref), shape, [dim])
    half = shape[dim] // 2
    a, b = (x.moved(lambda t, at=at: t.narrow(dim, at, half)) for at in (0, half))  # type: ignore[misc]
    return Known(torch.where(a.zero, 0, a.value * torch.sigmoid(b.value)), a.zero | (a.known & b.known))


# ---- movement -----------------------------------------------------------------------------------------------------------------------


@rule("clone contiguous alias detach lift_fresh lift_fresh_copy positive as_strided_")
def _same(step: Step) -> Known:
    ref = step.tensors[0]
    return step.look(ref) if step.shape(ref) == step.result else unknown(len(step.result))


@rule("_to_copy")
def _cast(step: Step) -> Known:
    x, dtype = step.look(step.tensors[0]), step.tape.values[step.call.results[0].id].dtype
    return x if dtype.is_floating_point and x.value.is_floating_point() else Known(x.value.to(dtype), x.known)


@rule("view _unsafe_view reshape _reshape_alias view_copy unsqueeze squeeze unflatten flatten")
def _view(step: Step) -> Known:
    ref = step.tensors[0]
    return reshaped(step.look(ref), step.shape(ref), step.result)


@rule("permute transpose swapaxes t numpy_T movedim")
def _permute(step: Step) -> Known:
    rest = step.call.args[1:]
    return step.look(step.tensors[0]).moved(lambda t: step.call.op(t, *rest, **step.call.kwargs))


@rule("expand broadcast_to")
def _expand(step: Step) -> Known:
    return _to_rank(step.look(step.tensors[0]), len(step.result))


@rule("slice narrow")
def _slice(step: Step) -> Known:
    ref = step.arg("self")
    x, dim = step.look(ref), dim_of(step.arg("dim"), len(step.shape(ref)))
    if x.shape[dim] == 1 != step.shape(ref)[dim]:
        return x
    rest = step.call.args[1:]
    return x.moved(lambda t: step.call.op(t, *rest, **step.call.kwargs))


@rule("select")
def _select(step: Step) -> Known:
    ref = step.arg("self")
    x, dim = step.look(ref), dim_of(step.arg("dim"), len(step.shape(ref)))
    return x.moved(lambda t: t.select(dim, 0 if t.shape[dim] == 1 else step.arg("index")))


@rule("unbind")
def _unbind(step: Step) -> list[Known]:
    ref = step.arg("self")
    x, dim = step.look(ref), dim_of(step.arg("dim"), len(step.shape(ref)))
    return [x.moved(lambda t, i=i: t.select(dim, 0 if t.shape[dim] == 1 else i)) for i in range(len(step.call.results))]  # type: ignore[misc]


@rule("split split_with_sizes chunk unsafe_split unsafe_split_with_sizes unsafe_chunk")
def _split(step: Step) -> list[Known]:
    ref = step.arg("self")
    x, dim = step.look(ref), dim_of(step.arg("dim"), len(step.shape(ref)))
    found, start = [], 0
    for part in step.call.results:
        size = step.shape(part)[dim]
        alike = x.shape[dim] == 1
        found.append(x if alike else x.moved(lambda t, at=start, n=size: t.narrow(dim, at, n)))  # type: ignore[misc]
        start += size
    return found


@rule("cat concat stack")
def _cat(step: Step) -> Known:
    rank = len(step.result)
    dim = dim_of(step.arg("dim"), rank)
    parts = []
    for ref in step.arg("tensors"):
        if step.shape(ref) == (0,):
            continue
        x, shape = step.look(ref), step.shape(ref)
        if step.call.name == "aten.stack":
            x, shape = x.moved(lambda t: t.unsqueeze(dim)), (*shape[:dim], 1, *shape[dim:])
        parts.append(full_on(x, shape, [dim]))
    others = torch.broadcast_shapes(*([1 if i == dim else n for i, n in enumerate(x.shape)] for x in parts))
    sizes = [[x.shape[dim] if i == dim else n for i, n in enumerate(others)] for x in parts]
    return Known(
        torch.cat([x.value.expand(size) for x, size in zip(parts, sizes, strict=True)], dim),
        torch.cat([x.known.expand(size) for x, size in zip(parts, sizes, strict=True)], dim),
    )


@rule("constant_pad_nd")
def _pad(step: Step) -> Known:
    """Along an axis on which all is alike, a pad must be the same number."""
    ref, pad, number = step.arg("self"), step.arg("pad"), step.arg("value", 0)
    if step.sized:
        return unknown(len(step.result))
    x, shape = step.look(ref), step.shape(ref)
    for back in range(len(pad) // 2):
        dim, (before, after) = len(shape) - 1 - back, pad[2 * back : 2 * back + 2]
        if before == after == 0:
            continue
        if x.shape[dim] == 1 != shape[dim]:
            x = x.where(x.value == number) if before > 0 or after > 0 else x
        else:
            amounts = [0, 0] * back + [before, after]
            x = Known(aten.constant_pad_nd(x.value, amounts, number), aten.constant_pad_nd(x.known, amounts, True))
    return x


# ---- sums, means, windows -----------------------------------------------------------------------------------------------------------


def _dims(step: Step) -> tuple[Ref, list[int], bool]:
    ref = step.arg("self")
    rank, dims = len(step.shape(ref)), step.arg("dim")
    chosen = range(rank) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    return ref, [dim_of(d, rank) for d in chosen], bool(step.arg("keepdim", False))


@rule("mean amax amin")
def _mean(step: Step) -> Known:
    ref, dims, keep = _dims(step)
    x = step.look(ref)
    if not dims or not x.value.is_floating_point():
        return unknown(len(step.result))
    op: Any = {"aten.mean": torch.mean, "aten.amax": torch.amax, "aten.amin": torch.amin}[step.call.name]
    known = x.known
    for d in dims:
        known = known.all(d, keepdim=True)
    return dropped(Known(op(x.value, dims, keepdim=True), known), dims, keep)


@rule("sum")
def _sum(step: Step) -> Known:
    """Of alike summands, the sum follows their number, unless they are zero."""
    ref, dims, keep = _dims(step)
    x, shape = step.look(ref), step.shape(ref)
    known = x.known if all(x.shape[d] == shape[d] for d in dims) else x.zero
    for d in dims:
        known = known.all(d, keepdim=True)
    return dropped(Known(x.value.sum(dims, keepdim=True) if dims else x.value, known), dims, keep)


def _alike(step: Step, ref: Ref, places: int) -> Known:
    """What is alike along the last axes stays so; what is not is forgotten."""
    x = step.look(ref)
    rank = len(step.result)
    return x if all(n == 1 for n in x.shape[rank - places :]) and rank == len(x.shape) else unknown(rank)


PASSING = {
    1: "max_pool1d adaptive_avg_pool1d adaptive_max_pool1d upsample_nearest1d upsample_linear1d reflection_pad1d replication_pad1d "
    "_upsample_nearest_exact1d",
    2: "max_pool2d_with_indices max_pool2d adaptive_max_pool2d _adaptive_avg_pool2d adaptive_avg_pool2d upsample_nearest2d "
    "upsample_bilinear2d upsample_bicubic2d _upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa reflection_pad2d "
    "replication_pad2d",
    3: "max_pool3d_with_indices max_pool3d adaptive_max_pool3d _adaptive_avg_pool3d adaptive_avg_pool3d upsample_nearest3d "
    "upsample_trilinear3d _upsample_nearest_exact3d reflection_pad3d replication_pad3d",
}
for _places, _names in PASSING.items():
    rule(_names)(lambda step, places=_places: _alike(step, step.tensors[0], places))  # type: ignore[misc]


@rule("avg_pool1d avg_pool2d avg_pool3d")
def _avg_pool(step: Step) -> Known:
    """Padding with zeros that are counted leaves only zero alike."""
    x = _alike(step, step.tensors[0], int(step.call.name[-2]))
    pads = step.arg("padding")
    counted = any(pads if isinstance(pads, (list, tuple)) else [pads]) and step.arg("count_include_pad", True)
    return x.where(x.value == 0) if counted or step.arg("divisor_override") is not None else x


@rule("embedding")
def _embedding(step: Step) -> Known:
    """A dimension in which all words are the same."""
    table = step.look(step.arg("weight"))
    same = (table.value == table.value[:1]).all(0) & table.known.all(0)
    return _to_rank(Known(table.value[0], same.expand(table.value.shape[1:])), len(step.result))


# ---- norms and contractions -----------------------------------------------------------------------------------------------------------


@rule(
    "native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training _native_batch_norm_legit_functional "
    "cudnn_batch_norm batch_norm _batch_norm_with_update _batch_norm_no_update _batch_norm_with_update_functional"
)
def _batch_norm(step: Step) -> Known:
    """As in eval mode, by the running statistics; where the scale is zero, the shift is all that is left."""
    rank = len(step.result)
    mean, var, weight, bias = (step.known(name) for name in ("running_mean", "running_var", "weight", "bias"))
    dtype = step.look(step.arg("input")).value.dtype
    one, none = uniform(1.0, 1, dtype), uniform(0.0, 1, dtype)
    weight, bias = weight or one, bias or none
    shift = _channels(bias, rank)
    flat = _channels(weight, rank).zero & shift.known
    of_each_batch = step.tape.mode == "eval" and step.arg("training", False)
    if mean is None or var is None or of_each_batch:
        return Known(shift.value.expand(flat.shape), flat)
    x = step.look(step.arg("input"))
    m, v, w = (_channels(each, rank) for each in (mean, var, weight))
    scale = torch.rsqrt(v.value + step.arg("eps", step.arg("epsilon"))) * w.value
    value = (x.value - m.value) * scale + shift.value
    known = x.known & m.known & v.known & w.known & shift.known
    return Known(torch.where(flat, shift.value, value), known | flat)


def _channels(x: Known, rank: int) -> Known:
    return x.moved(lambda t: t.reshape(1, -1, *[1] * (rank - 2)))


@rule("mm bmm")
def _mm(step: Step) -> Known:
    a, b = step.arg("self"), step.arg("mat2")
    made = product(step.look(a), step.look(b), step.shape(a)[-1])
    return made if step.bias is None else Known(made.value + step.bias.to(made.value.dtype), made.known)


@rule("addmm baddbmm")
def _addmm(step: Step) -> Known:
    names = ("mat1", "mat2") if step.call.name == "aten.addmm" else ("batch1", "batch2")
    if step.arg("beta", 1) != 1 or step.arg("alpha", 1) != 1:
        return unknown(len(step.result))
    a, b = (step.arg(name) for name in names)
    made = product(step.look(a), step.look(b), step.shape(a)[-1])
    own = _to_rank(step.look(step.arg("self")), len(step.result))
    return Known(made.value + own.value, made.known & own.known)


@rule("convolution")
def _convolution(step: Step) -> Known:
    channels = channel_constants(step)
    rank, groups = len(step.result), step.arg("groups")
    weight = step.look(step.arg("weight"))
    if channels is None or len(weight.shape) != rank:
        return unknown(rank)
    value, known, usable = channels
    transposed = step.arg("transposed")
    lives = ~weight.zero.flatten(2).all(2)
    sums = weight.value.flatten(2).sum(2)
    certainly = weight.known.flatten(2).all(2)
    if transposed:  # (g·i, o) -> (g, o, i)
        lives, sums, certainly = (t.reshape(groups, -1, t.shape[1]).transpose(1, 2) for t in (lives, sums, certainly))
    else:
        lives, sums, certainly = (t.reshape(groups, -1, t.shape[1]) for t in (lives, sums, certainly))
    value, known, usable = (t.reshape(groups, 1, -1) for t in (value, known, usable))
    zero = known & (value == 0)
    sure = ~lives | zero | (usable & certainly)
    terms = torch.where(lives & usable & certainly & ~zero, sums.to(value.dtype) * value, 0)
    total, believed = terms.sum(2).reshape(-1), sure.all(2).reshape(-1)
    bias = step.known("bias")
    extra = bias if bias is not None else certain(step.bias) if step.bias is not None else None
    if extra is not None:
        total, believed = total + extra.value, believed & extra.known
    return _channels(Known(total, believed), rank)


def channel_constants(step: Step) -> tuple[Tensor, Tensor, Tensor] | None:
    """Of a convolution's input channels: the constant, where it is known, and where it may be multiplied by the sum of a kernel.

    Pads are zeros, and a transposed kernel meets the border in parts: there only zero is the same everywhere.
    """
    ref = step.arg("input")
    x, shape = step.look(ref), step.shape(ref)
    if len(shape) != len(step.result) or x.shape[0] != 1:
        return None
    x = full_on(x, shape, [1])
    if any(n != 1 for n in x.shape[2:]):
        value, known = torch.zeros(shape[1], dtype=x.value.dtype), x.zero.flatten(2).all(2).reshape(-1)
    else:
        value, known = x.value.reshape(-1), x.known.reshape(-1)
    borders = step.arg("transposed") or any(step.arg("padding"))
    return value, known, known & (value == 0) if borders else known

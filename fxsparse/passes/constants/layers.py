"""Norms and contractions: where constants meet weights."""

from __future__ import annotations

import torch
from torch import Tensor

from fxsparse.passes.constants.step import Family, Step, to_rank
from fxsparse.passes.constants.values import Known, certain, full_on, product, uniform, unknown

layers = Family()


@layers.rule(
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


@layers.rule("native_group_norm")
def _group_norm(step: Step) -> list[Known]:
    """A group whose channels are all constant has known statistics, and stays constant; where the scale is zero, the shift is left."""
    ref, groups = step.arg("input"), step.arg("group")
    shape, x = step.shape(ref), step.look(ref)
    rank = len(shape)
    dtype = x.value.dtype if x.value.is_floating_point() else torch.float32
    weight, bias = (step.known(name) or uniform(number, 1, dtype) for name, number in (("weight", 1.0), ("bias", 0.0)))
    w, shift = (full_on(_channels(each, rank), shape, [1]) for each in (weight, bias))
    if any(n != 1 for n in (x.shape[0], *x.shape[2:])):
        x = unknown(rank)
    x = full_on(x, shape, [1])
    value, known = (t.reshape(groups, -1) for t in (x.value.double(), x.known))
    centred = value - value.mean(1, keepdim=True)
    normed = centred * torch.rsqrt(centred.square().mean(1, keepdim=True) + step.arg("eps"))
    whole = known.all(1, keepdim=True).expand(known.shape).reshape(x.shape) & w.known
    scaled = torch.where(whole, normed.reshape(x.shape).to(dtype) * w.value, 0)
    return [Known(scaled + shift.value, (whole | w.zero) & shift.known)]


def _channels(x: Known, rank: int) -> Known:
    return x.moved(lambda t: t.reshape(1, -1, *[1] * (rank - 2)))


@layers.rule("mm bmm")
def _mm(step: Step) -> Known:
    a, b = step.arg("self"), step.arg("mat2")
    made = product(step.look(a), step.look(b), step.shape(a)[-1])
    return made if step.bias is None else Known(made.value + step.bias.to(made.value.dtype), made.known)


@layers.rule("addmm baddbmm")
def _addmm(step: Step) -> Known:
    names = ("mat1", "mat2") if step.call.name == "aten.addmm" else ("batch1", "batch2")
    if step.arg("beta", 1) != 1 or step.arg("alpha", 1) != 1:
        return unknown(len(step.result))
    a, b = (step.arg(name) for name in names)
    made = product(step.look(a), step.look(b), step.shape(a)[-1])
    own = to_rank(step.look(step.arg("self")), len(step.result))
    return Known(made.value + own.value, made.known & own.known)


@layers.rule("convolution")
def _convolution(step: Step) -> Known:
    channels = channel_constants(step)
    rank, groups = len(step.result), step.arg("groups")
    weight = step.look(step.arg("weight"))
    if channels is None or len(weight.shape) != rank:
        return unknown(rank)
    value, known, usable = channels
    weight = full_on(weight, step.shape(step.arg("weight")), [0, 1])  # one that is computed is known by no more than its rank
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
    terms = torch.where(lives & usable & certainly & ~zero, sums * value, 0)
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

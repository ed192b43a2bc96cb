"""Norms that a forward pass writes out: a mean, a variance or a sum that comes back to what it was taken of.

    x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)

takes statistics of the units, as a layer norm does. A mean that goes anywhere else (into a convolution, a gate, the output) is a value that
the network computes from all of them.
"""

from __future__ import annotations

import math

from fxsparse.axes.site import Site
from fxsparse.tracing.tape import Call, Ref, Tape

MOMENTS = frozenset({"aten.mean", "aten.var", "aten.std", "aten.var_mean", "aten.std_mean"})
# What leaves a statistic what it is. A mean of means, over other axes, is a mean.
_MOVES = frozenset(
    {
        *("aten._to_copy", "aten.clone", "aten.alias", "aten.detach", "aten.expand", "aten.mean"),
        *("aten.view", "aten._unsafe_view", "aten.reshape", "aten.unsqueeze", "aten.squeeze", "aten.permute", "aten.transpose"),
    }
)
_ON_THE_WAY = frozenset(
    {
        *("aten.add", "aten.sub", "aten.mul", "aten.div", "aten.clamp", "aten.clamp_min", "aten.maximum"),
        *("aten.sqrt", "aten.rsqrt", "aten.pow", "aten.square", "aten.reciprocal"),
    }
)


def is_norm(tape: Tape, call: Call) -> bool:
    """Whether all that is made of this mean, variance or sum centres or scales a tensor with the axes that it was taken over."""
    results = call.makes
    means = call.results[0 if call.name == "aten.mean" else 1 :]
    return any(tape.readers.get(ref.id) for ref in results) and all(
        _returns(tape, ref, _count(tape, ref), ref in means, False) for ref in results
    )


def _count(tape: Tape, ref: Ref) -> int:
    return math.prod(tape.shape(ref))


def _returns(tape: Tape, ref: Ref, count: int, mean: bool, inverse: bool) -> bool:
    """`count`: so many numbers are the statistics; a tensor with more has axes that they lack. `mean`: the value is a mean still,
    or a multiple of one. `inverse`: it is one over something."""
    if ref in tape.outputs:
        return False
    for call in tape.readers.get(ref.id, ()):
        name = call.name.rstrip("_")
        result = call.results[0]
        if name in _MOVES:
            if not _returns(tape, result, min(count, _count(tape, result)), mean, inverse):
                return False
            continue
        if name not in _ON_THE_WAY:
            return False
        divides = name == "aten.div" and call.args[1] == ref
        if result == ref:  # in place: those who read it later find it so
            mean, inverse = False, inverse or _inverts(name, call)
        elif _count(tape, result) > count:
            if not (divides or (name == "aten.sub" and (mean or inverse)) or (name == "aten.mul" and inverse)):
                return False
        else:  # w * s - m * s is (w - m) * s
            scaled = mean and not divides and name in ("aten.mul", "aten.div") and call.args[0] != call.args[1]
            if not _returns(tape, result, count, scaled, inverse or divides or _inverts(name, call)):
                return False
    return True


def _inverts(name: str, call: Call) -> bool:
    if name == "aten.pow":
        return isinstance(call.args[1], (int, float)) and call.args[1] < 0
    return name in ("aten.rsqrt", "aten.reciprocal")


def correction_of(site: Site) -> float:
    """What a variance takes off the count of its numbers: of no more than so many there is none."""
    if site.has("correction"):
        given = site.arg("correction")
        return 1.0 if given is None else float(given)
    return float(site.has("unbiased") and site.arg("unbiased"))

"""Norms that a forward pass writes out: a mean or a variance that comes back to what it was taken of.

    x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)

takes statistics of the units, as a layer norm does. A mean that goes anywhere else (into a convolution, a gate, the output) is a value that
the network computes from all of them.
"""

from __future__ import annotations

from collections.abc import Collection

from fxsparse.axes.site import Site
from fxsparse.tracing.tape import Call, Ref, Tape

MOMENTS = frozenset({"aten.mean", "aten.var", "aten.std", "aten.var_mean", "aten.std_mean"})
_COPIES = frozenset({"aten._to_copy", "aten.clone", "aten.alias", "aten.detach"})
_ON_THE_WAY = _COPIES | {
    *("aten.add", "aten.sub", "aten.mul", "aten.div", "aten.clamp", "aten.clamp_min", "aten.maximum"),
    *("aten.sqrt", "aten.rsqrt", "aten.pow", "aten.square", "aten.reciprocal"),
}


def is_norm(tape: Tape, call: Call, dims: Collection[int]) -> bool:
    """Whether all that is made of this mean or variance centres or scales along the very axes that it was taken over."""
    results = [ref for ref in call.results if isinstance(ref, Ref)]
    means = call.results[0 if call.name == "aten.mean" else 1 :]
    return any(tape.readers.get(ref.id) for ref in results) and all(_returns(tape, ref, dims, ref in means, False) for ref in results)


def _returns(tape: Tape, ref: Ref, dims: Collection[int], mean: bool, inverse: bool) -> bool:
    """`mean`: the value is a mean still. `inverse`: it is one over something."""
    if ref in tape.outputs:
        return False
    for call in tape.readers.get(ref.id, ()):
        name = call.name.rstrip("_")
        result = call.results[0]
        if name not in _ON_THE_WAY or len(tape.shape(result)) != len(tape.shape(ref)):
            return False
        divides = name == "aten.div" and call.args[1] == ref
        if result == ref:  # in place: those who read it later find it so
            mean, inverse = mean and name in _COPIES, inverse or _inverts(name, call)
            continue
        if any(tape.shape(result)[dim] > 1 for dim in dims):
            if not (divides or (name == "aten.sub" and mean) or (name == "aten.mul" and inverse)):
                return False
        elif not _returns(tape, result, dims, mean and name in _COPIES, inverse or divides or _inverts(name, call)):
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

"""Norms that a forward pass writes out: a mean or a variance that comes back to what it was taken of.

    x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)

takes statistics of the units, as a layer norm does. A mean that goes anywhere else (into a convolution, a gate, the output) is a value that
the network computes from all of them.
"""

from __future__ import annotations

from collections.abc import Collection

import torch

from fxsparse.tracing.tape import Call, Ref, Tape

MOMENTS = frozenset({"aten.mean", "aten.var", "aten.std", "aten.var_mean", "aten.std_mean"})
_COPIES = frozenset({"aten._to_copy", "aten.clone", "aten.alias", "aten.detach"})


def is_norm(tape: Tape, call: Call, dims: Collection[int]) -> bool:
    """Whether all that is made of this mean or variance centres or scales along the very axes that it was taken over."""
    results = [ref for ref in call.results if isinstance(ref, Ref)]
    return any(tape.readers.get(ref.id) for ref in results) and all(_returns(tape, ref, dims, False) for ref in results)


def _returns(tape: Tape, ref: Ref, dims: Collection[int], inverse: bool) -> bool:
    if ref in tape.outputs:
        return False
    for call in tape.readers.get(ref.id, ()):
        name = call.name.rstrip("_")
        if torch.Tag.pointwise not in call.op.tags and name not in _COPIES:
            return False
        divides = name == "aten.div" and call.args[1] == ref
        result = call.results[0]
        if len(tape.shape(result)) != len(tape.shape(ref)):
            return False
        if any(tape.shape(result)[dim] > 1 for dim in dims):
            if not (name in ("aten.sub", "aten.rsub") or divides or (name == "aten.mul" and inverse)):
                return False
        elif not _returns(tape, result, dims, inverse or divides or _inverts(name, call)):
            return False
    return True


def _inverts(name: str, call: Call) -> bool:
    if name == "aten.pow":
        return isinstance(call.args[1], (int, float)) and call.args[1] < 0
    return name in ("aten.rsqrt", "aten.reciprocal")

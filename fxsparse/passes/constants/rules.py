"""All rules in one table. An operator that is not here makes nothing known."""

from __future__ import annotations

import torch

from fxsparse.axes.rules.pointwise import pointwise
from fxsparse.passes.constants.elementwise import each_element, elementwise
from fxsparse.passes.constants.layers import layers
from fxsparse.passes.constants.movement import movement
from fxsparse.passes.constants.places import places
from fxsparse.passes.constants.step import Rule, Step
from fxsparse.passes.constants.values import Known, unknown
from fxsparse.tracing.tape import Call, Ref

RULES: dict[str, Rule] = {**elementwise.rules, **movement.rules, **places.rules, **layers.rules}


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
    return each_element


def is_pointwise(call: Call) -> bool:
    """By torch's tag, of the operator or of the one that it does in place."""
    if torch.Tag.pointwise in call.op.tags:
        return True
    base = getattr(getattr(torch.ops, call.op.namespace), call.op._schema.name.partition("::")[2].rstrip("_"), None)
    return base is not None and any(torch.Tag.pointwise in getattr(base, o).tags for o in base.overloads())

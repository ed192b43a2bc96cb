"""Random numbers in the proof. Networks of different widths draw different ones; here they all get one constant in the place of each."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from fxsparse.surgery.reference_contractions import nothing

VALUE = 0.5  # a probability, a uniform number, and not the mean of a normal one, which would hide its scale
_DRAWS = "bernoulli cauchy exponential geometric log_normal native_dropout normal poisson rand rand_like randn randn_like uniform"
DRAWS = frozenset(_DRAWS.split())


def draws(func: Any) -> bool:
    """Whether the operator draws random numbers that are not whole ones."""
    return torch.Tag.nondeterministic_seeded in func.tags and func._schema.name.removeprefix("aten::").removesuffix("_") in DRAWS


def drawn(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What the operator gives when each random number is `VALUE`. What it draws for a unit that is missing (NaN) is missing, too."""
    name = func._schema.name.removeprefix("aten::")
    if name == "native_dropout":  # all stay
        return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    if name == "normal" and tensors:
        mean, deviation = args[0], args[1] if len(args) > 1 else kwargs.get("std", 1.0)
        return mean + VALUE * deviation
    if name.endswith("_"):
        made: Tensor = args[0]
        missing = [leaf.isnan() for leaf in tensors]  # as they are now
        made.fill_(VALUE)
    else:
        missing = [leaf.isnan() for leaf in tensors]
        known = tree_map_only(Tensor, lambda t: t.masked_fill(t.isnan(), VALUE), (args, kwargs))
        made = func(*known[0], **known[1]).fill_(VALUE)
    for gone in missing:
        made.masked_fill_(gone, nothing(made))
    return made

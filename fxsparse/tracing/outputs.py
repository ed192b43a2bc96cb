"""What a forward pass gives: tensors in tuples, lists and dicts, and in the attributes of a user's own result classes."""

from __future__ import annotations

import types
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

_OPAQUE = (type, nn.Module, types.FunctionType, types.MethodType, types.ModuleType)


def output_tensors(out: Any) -> list[Tensor]:
    """All tensors of a result, in order. torch's trees do not open plain classes, but what stands in them is given all the same."""
    found: list[Tensor] = []
    seen: set[int] = set()

    def visit(value: Any) -> None:
        for leaf in tree_leaves(value):
            if isinstance(leaf, Tensor):
                found.append(leaf)
            elif hasattr(leaf, "__dict__") and not isinstance(leaf, _OPAQUE) and id(leaf) not in seen:
                seen.add(id(leaf))
                visit(list(vars(leaf).values()))
            elif hasattr(type(leaf), "__dataclass_fields__") and id(leaf) not in seen:  # with slots
                seen.add(id(leaf))
                visit([getattr(leaf, name, None) for name in type(leaf).__dataclass_fields__])

    visit(out)
    return found

"""`Tensor.tolist` on meta tensors: a list of what the recorder answers to `item`, entry by entry."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from fxsparse.errors import TraceError

LONGEST = 4096  # entries; whoever reads more than that in Python works with data


@contextlib.contextmanager
def lists_on_meta() -> Iterator[None]:
    """While this is open, plain Python code may make lists of meta tensors."""
    original = Tensor.tolist

    def tolist(self: Tensor) -> Any:
        if not self.is_meta:
            return original(self)
        if self.numel() > LONGEST:
            raise TraceError(f"the forward pass makes a list of all values of a tensor of shape {tuple(self.shape)}; keep it a tensor")
        return self.item() if self.dim() == 0 else [row.tolist() for row in self.unbind(0)]

    Tensor.tolist = tolist  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        Tensor.tolist = original  # type: ignore[method-assign]

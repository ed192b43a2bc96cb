"""Values that leave torch past its dispatcher, `Tensor.tolist` and `Tensor.numpy`: on meta tensors a list is made of what the recorder
answers to `item`, entry by entry."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor

from fxsparse.errors import TraceError
from fxsparse.tracing.recorder import Recorder

LONGEST = 4096  # entries; whoever reads more than that in Python works with data


@contextlib.contextmanager
def values_leave(recorder: Recorder) -> Iterator[None]:
    """While this is open, plain Python code may make lists of meta tensors, and the recorder learns which real ones it looks at."""
    as_list, as_array = Tensor.tolist, Tensor.numpy

    def tolist(self: Tensor) -> Any:
        if not self.is_meta and id(self) not in recorder.given:
            recorder.looked_at([self])
            return as_list(self)
        if self.numel() > LONGEST:
            raise TraceError(f"the forward pass makes a list of all values of a tensor of shape {tuple(self.shape)}; keep it a tensor")
        return self.item() if self.dim() == 0 else [row.tolist() for row in self.unbind(0)]

    def numpy(self: Tensor, **options: Any) -> Any:
        recorder.looked_at([self])
        recorder.tape.chance |= id(self) in recorder.given  # what is done with it asks nothing
        return as_array(self, **options)

    Tensor.tolist, Tensor.numpy = tolist, numpy  # type: ignore[assignment,method-assign]
    try:
        yield
    finally:
        Tensor.tolist, Tensor.numpy = as_list, as_array  # type: ignore[method-assign]

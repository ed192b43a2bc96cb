"""Parameters, or parts of them, that an optimizer's step must not change by a single bit.

A zero gradient is not enough: momentum and weight decay would still move a weight.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fxsparse.sparsity.masks import apply


class Frozen:
    """Call `before` and `after` around the step. A part is a mask, true where nothing may change; None is the whole parameter.

    Of a parameter that is frozen whole, the optimizer's state rests as well; of a part, only the values do.
    """

    def __init__(self, parts: Sequence[tuple[nn.Parameter, Tensor | None]]) -> None:
        self.parts = tuple(parts)
        self._saved: list[Tensor | None] = []

    def before(self) -> None:
        self._saved = []
        for parameter, part in self.parts:
            if part is None:
                self._saved.append(parameter.grad)
                parameter.grad = None  # optimizers pass over it
            else:
                self._saved.append(parameter.detach().clone())
                if parameter.grad is not None:
                    apply(~part, parameter.grad)

    def after(self) -> None:
        for (parameter, part), saved in zip(self.parts, self._saved, strict=True):
            if part is None:
                parameter.grad = saved
            elif saved is not None:
                torch.where(part, saved, parameter.detach(), out=parameter.detach())
        self._saved = []

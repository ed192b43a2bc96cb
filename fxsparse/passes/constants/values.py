"""What is known of a tensor without running the network: some of its coordinates are constants, the same for every input.

A `Known` has the rank of its tensor and on each axis either the tensor's extent or 1. Extent 1 on a longer axis says that everything is
alike along it, however long it is: so the constant of a channel is one number, whatever the batch and the image size are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Known:
    """Values, and where they are to be believed; both in the same shape."""

    value: Tensor
    known: Tensor

    def __post_init__(self) -> None:
        if self.value.is_floating_point():
            object.__setattr__(self, "known", self.known & self.value.isfinite())

    @property
    def shape(self) -> Shape:
        return tuple(self.value.shape)

    @property
    def zero(self) -> Tensor:
        """Where it is known to be zero."""
        return self.known & (self.value == 0)

    def moved(self, move: Callable[[Tensor], Tensor]) -> Known:
        """Both tensors, taken through the same movement of coordinates."""
        return Known(move(self.value), move(self.known))

    def where(self, condition: Tensor) -> Known:
        """Less is known: only what also fulfils a condition."""
        return Known(self.value, self.known & condition)


def unknown(rank: int) -> Known:
    return Known(torch.zeros([1] * rank, dtype=torch.float64), torch.zeros([1] * rank, dtype=torch.bool))


def certain(value: Tensor) -> Known:
    """A tensor whose every coordinate is known."""
    wide = value.float() if value.dtype in (torch.float16, torch.bfloat16) else value
    return Known(wide, torch.ones_like(value, dtype=torch.bool))


def uniform(number: float | bool, rank: int, dtype: torch.dtype) -> Known:
    """One number everywhere."""
    return certain(torch.full([1] * rank, number, dtype=dtype))


def full_on(x: Known, shape: Shape, dims: Sequence[int]) -> Known:
    """Written out on these axes."""
    wanted = [shape[i] if i in dims else n for i, n in enumerate(x.shape)]
    return x if list(x.shape) == wanted else x.moved(lambda t: t.expand(wanted))


def dropped(x: Known, dims: Sequence[int], keep: bool) -> Known:
    """Without axes of extent 1, or with them kept."""
    return x if keep else x.moved(lambda t: t.reshape([n for i, n in enumerate(t.shape) if i not in dims]))


def reshaped(x: Known, before: Shape, after: Shape) -> Known:
    """Row-major, segment by segment: what is alike along all axes of a segment stays alike along those that it becomes."""
    if 0 in before or 0 in after:
        return unknown(len(after))
    collapsed: list[int] = []
    made: list[int] = []
    wanted = list(x.shape)
    for into, out in _segments(before, after):
        alike = all(x.shape[i] == 1 for i in into)
        for i in into:
            wanted[i] = 1 if alike else before[i]
        collapsed.append(1 if alike else math.prod(before[i] for i in into))
        made += [1 if alike else after[i] for i in out]
    sizes = iter(made)
    result = [1 if n == 1 else next(sizes) for n in after]
    return x.moved(lambda t: t.expand(wanted).reshape(collapsed).reshape(result))


def _segments(before: Shape, after: Shape) -> list[tuple[list[int], list[int]]]:
    """The shortest runs of axes, longer than 1, that hold equally many coordinates before and after."""
    left = [i for i, n in enumerate(before) if n != 1]
    right = [i for i, n in enumerate(after) if n != 1]
    found: list[tuple[list[int], list[int]]] = []
    a = b = 0
    while a < len(left):
        into, out = [left[a]], [right[b]]
        a, b = a + 1, b + 1
        while (m := math.prod(before[i] for i in into)) != (n := math.prod(after[i] for i in out)):
            if m < n:
                into.append(left[a])
                a += 1
            else:
                out.append(right[b])
                b += 1
        found.append((into, out))
    return found


def product(a: Known, b: Known, inner: int) -> Known:
    """`a @ b` on the last two axes, `inner` long: known where every term is. Terms with a known zero are zero."""
    a = full_on(a, (*a.shape[:-1], inner), [len(a.shape) - 1])
    b = full_on(b, (*b.shape[:-2], inner, b.shape[-1]), [len(b.shape) - 2])
    dtype = torch.promote_types(a.value.dtype, b.value.dtype)
    living_a, living_b = (~a.zero).to(dtype), (~b.zero).to(dtype)
    both = (a.known & ~a.zero).to(dtype) @ (b.known & ~b.zero).to(dtype)
    open_terms = living_a @ living_b - both  # terms that are neither zero nor a product of two known numbers
    zero = torch.zeros((), dtype=dtype)
    value = torch.where(a.known, a.value.to(dtype), zero) @ torch.where(b.known, b.value.to(dtype), zero)
    return Known(value, open_terms < 0.5)

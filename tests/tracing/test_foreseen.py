"""What is foreseen of an operator is what its kernel gives, and nothing is foreseen where the kernel refuses."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from fxsparse.tracing.foreseen import ELEMENTWISE, foreseen

aten = torch.ops.aten
SHAPES = [(2, 4, 6, 5), (1, 4, 1, 1), (2, 1, 6, 5), (1, 1, 1, 1), (4, 1, 1), (6, 5), (5,), (1,), (3, 2), (0, 4, 6, 5), ()]
DTYPES = (torch.float32, torch.float16, torch.int64)


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def laid_out(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Tensors of one shape in several layouts: the second one of (1, 5) counts as contiguous, with other strides."""
    plain = meta(*shape, dtype=dtype)
    others = [plain.transpose(0, 1).contiguous().transpose(0, 1)] if len(shape) > 1 else []
    return [plain, *others, *([plain.to(memory_format=torch.channels_last)] if len(shape) == 4 else [])]


def require_the_same(func: Any, args: tuple[Any, ...]) -> bool:
    """Whether it was foreseen."""
    said = foreseen(func, args, {})
    if said is not None:
        wanted = func(*args)
        pairs = list(zip(said, wanted, strict=True)) if isinstance(wanted, tuple) else [(said, wanted)]
        assert [(a.shape, a.stride(), a.dtype, a.device) for a, _ in pairs] == [(b.shape, b.stride(), b.dtype, b.device) for _, b in pairs]
        assert all((said is each) == (wanted is each) for each in args)
    return said is not None


@pytest.mark.parametrize("func", sorted(ELEMENTWISE, key=str), ids=str)
def test_element_by_element(func: Any) -> None:
    tensors = [each for shape in SHAPES for dtype in DTYPES for each in laid_out(shape, dtype)]
    if len([each for each in func._schema.arguments if each.type.isSubtypeOf(torch._C.TensorType.get())]) == 2:
        calls: list[tuple[Any, ...]] = list(itertools.product(tensors, [*tensors, 2, 2.0, 1j]))
    elif func._schema.name.startswith("aten::hardtanh"):
        calls = [(each, *more) for each in tensors for more in ((), (0, 6))]
    else:
        calls = [(each,) for each in tensors]
    assert any([require_the_same(func, args) for args in calls])


@pytest.mark.parametrize("places", [1, 2, 3])
def test_convolutions(places: int) -> None:
    found = []
    for x, groups, bias in itertools.product([meta(2, 4, *[6] * places), meta(1, 1, *[1] * places)], (1, 2), (None, meta(6), meta(5))):
        for weight in (meta(6, 4 // groups, *[3] * places), meta(6, 4, *[1] * places), meta(6, 4 // groups, *[7] * places)):
            for numbers in itertools.product((0, 1, 2), (-1, 0, 1), (1, 2), (False, True)):
                stride, padding, dilation = ([number] * places for number in numbers[:3])
                args = (x, weight, bias, stride, padding, dilation, numbers[3], [0] * places, groups)
                found.append(require_the_same(aten.convolution.default, args))
    assert any(found) and not all(found)


def test_norms() -> None:
    found = []
    for shape in SHAPES:
        for x in laid_out(shape):
            for vector in (None, meta(*shape[1:2]), meta(7), meta(*shape[1:2], dtype=torch.float64)):
                for statistics, training in itertools.product((None, vector), (False, True)):
                    args = (x, vector, vector, statistics, statistics, training, 0.1, 1e-5)
                    found.append(require_the_same(aten.native_batch_norm.default, args))
            for sizes in [list(shape[start:]) for start in range(len(shape) + 1)]:
                for scale in (None, meta(*sizes), meta(7)):
                    found.append(require_the_same(aten.native_layer_norm.default, (x, sizes, scale, scale, 1e-5)))
    assert any(found) and not all(found)


def test_sums_joints_and_sizes() -> None:
    found = []
    for shape in SHAPES:
        for x in laid_out(shape):
            for dims, keep in itertools.product(([0], [-1], [2, 3], [-1, -2], [0, 0], [9], [], None), (False, True)):
                found.append(require_the_same(aten.mean.dim, (x, dims, keep)))
            for other, dim in itertools.product(SHAPES, (0, 1, -1, 7)):
                found.append(require_the_same(aten.cat.default, ([x, meta(*other)], dim)))
            for sizes in ([7, 9], [1, 1], [0, 2]):
                found.append(require_the_same(aten.upsample_bilinear2d.default, (x, sizes, False)))
            for bias in (meta(3), meta(1), meta(2, 3)):
                found.append(require_the_same(aten.addmm.default, (bias, x, meta(3, 5).t())))
    assert any(found) and not all(found)


def test_named_arguments_are_left_to_the_kernel() -> None:
    assert foreseen(aten.mean.dim, (meta(2, 3), [0]), {"dtype": torch.float64}) is None

"""What is remembered of meta kernels is what they give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fxsparse.tracing.shapes import Shapes, remembered, shapes

aten = torch.ops.aten


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def layouts(out: Any) -> list[Any]:
    return [t if t is None else (t.shape, t.stride(), t.dtype, t.device.type) for t in (out if isinstance(out, tuple) else [out])]


def image() -> Tensor:
    return meta(2, 4, 6, 6).to(memory_format=torch.channels_last)


CALLS: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {
    "add": (aten.add.Tensor, (image(), meta(4, 1, 1)), {}),
    "batch norm": (aten.native_batch_norm.default, (image(), *[meta(4)] * 4, False, 0.1, 1e-5), {}),
    "convolution": (aten.convolution.default, (image(), meta(8, 4, 3, 3), None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1), {}),
    "mean": (aten.mean.dim, (image(), [2, 3], True), {}),
    "to half": (aten._to_copy.default, (image(),), {"dtype": torch.float16}),
    "cat": (aten.cat.default, ([image(), image()], 1), {}),
    "topk": (aten.topk.default, (meta(3, 5), 2), {}),
    "relu in place": (aten.relu_.default, (image(),), {}),
    "clamp in place": (aten.clamp_.default, (image(), 0.0, 6.0), {}),
    "a view": (aten.permute.default, (image(), [0, 2, 3, 1]), {}),
}


@pytest.mark.parametrize("name", sorted(CALLS))
def test_remembered_layouts_are_those_of_the_kernel(name: str) -> None:
    func, args, kwargs = CALLS[name]
    memory = Shapes()
    wanted = layouts(func(*args, **kwargs))
    for _ in range(3):
        assert layouts(memory.run(func, args, kwargs)) == wanted


SHAPES = [(2, 4, 6, 6), (1, 4, 1, 1), (2, 4, 1, 1), (2, 1, 5, 5), (1, 1, 1, 1), (3, 4), (2, 4, 3, 2, 2), (2, 4, 0, 3)]
ELEMENTWISE = [aten.add.Tensor, aten.mul.Tensor, aten.relu.default, aten.sigmoid.default, aten.silu.default, aten.hardswish.default]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_layouts_that_are_known_without_the_kernel(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    plain = meta(*shape, dtype=dtype)
    for x in (plain, plain.transpose(0, 1).contiguous().transpose(0, 1)):
        for func in ELEMENTWISE if dtype.is_floating_point else ELEMENTWISE[:4]:
            operands: list[tuple[Any, ...]] = [(x, x), (x, plain), (x, 2), (x, 2.0)]
            for args in operands if "Tensor" in str(func) else [(x,)]:
                assert layouts(Shapes().run(func, args, {})) == layouts(func(*args))
        if dtype.is_floating_point:
            for kind in (dtype, torch.float32):
                c = meta(shape[1], dtype=kind)
                for weight in (c, None):
                    norm = (x, weight, weight, c, c, False, 0.1, 1e-5)
                    assert layouts(Shapes().run(aten.native_batch_norm.default, norm, {})) == layouts(aten.native_batch_norm.default(*norm))


def test_results_are_new_tensors_and_writing_returns_what_was_written_to() -> None:
    memory, x = Shapes(), meta(3)
    made = [memory.run(aten.exp.default, (x,), {}) for _ in range(3)]
    assert len({id(t) for t in (*made, x)}) == 4
    assert all(memory.run(aten.mul_.Tensor, (x, 2.0), {}) is x for _ in range(3))


def test_numbers_of_other_types_are_other_arguments() -> None:
    memory, x = Shapes(), meta(3, dtype=torch.int64)
    dtypes = [memory.run(aten.add.Tensor, (x, number), {}).dtype for number in (1, 1.0, 1, 1.0)]
    assert dtypes == [torch.int64, torch.float32] * 2


def test_the_default_dtype_counts() -> None:
    memory, x = Shapes(), meta(3, dtype=torch.int64)
    assert memory.run(aten.exp.default, (x,), {}).dtype == torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert memory.run(aten.exp.default, (x,), {}).dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_errors_come_again() -> None:
    memory = Shapes()
    for _ in range(2):
        with pytest.raises(RuntimeError):
            memory.run(aten.add_.Tensor, (meta(3), meta(2, 3)), {})


def test_real_tensors_are_computed() -> None:
    memory = Shapes()
    assert [float(memory.run(aten.add.Tensor, (torch.tensor(float(i)), 1), {})) for i in range(3)] == [1.0, 2.0, 3.0]


def test_recordings_share_a_memory_while_it_is_open() -> None:
    with remembered():
        shared = shapes()
        with remembered():
            assert shapes() is shared
        assert shapes() is shared
    assert shapes() is not shared

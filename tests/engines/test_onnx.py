"""Lowering to ONNX: equal to the module, for pruned, shared, masked and many-headed networks; or one sentence, and no file."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

import fxsparse
from fxsparse.engines import engine, export_onnx
from fxsparse.engines.onnx_export import quiet
from fxsparse.engines.onnx_parity import check_parity, difference
from fxsparse.errors import LoweringError
from fxsparse.models import build


class Tied(nn.Module):
    """One weight in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"a": self.second(torch.relu(self.first(x))), "b": self.first(x)}


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(5, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.lstm(x)[0][:, -1])
        return out


def randomised(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        parameter.data.normal_(0, 0.2, generator=generator)
    return module


def pruned(model: nn.Module, inputs: Any) -> fxsparse.Network:
    network = fxsparse.trace(randomised(model), inputs)
    return network.shrink({g.name: g.units[: -(len(g.units) // 3)] for g in network.groups if g.prunable and len(g.units) > 3})


def runs_alike(network: fxsparse.Network, path: Path) -> float:
    session = engine("onnxruntime", threads=1).open(path)  # type: ignore[attr-defined]
    inputs = tuple(torch.randn_like(t) for t in network.origin.inputs[0])
    wanted = torch.utils._pytree.tree_leaves(network.module.eval()(*inputs))
    return max(difference(a, b) for a, b in zip(session.run(*inputs), wanted, strict=True))


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (build("fxsparse:resnet20").model, torch.randn(2, 3, 16, 16)),
        (Recurrent(), torch.randn(2, 4, 5)),
        (Tied(), torch.randn(3, 6)),
        (nn.TransformerEncoderLayer(12, 3, 24, batch_first=True), torch.randn(2, 5, 12)),
        (nn.Sequential(nn.Linear(5, 6), SHARED := nn.SiLU(), nn.Linear(6, 4), SHARED), torch.randn(2, 5)),
    ],
    ids=["resnet", "lstm", "tied", "attention", "one module in two places"],
)
def test_pruned_networks_are_lowered(model: nn.Module, inputs: Tensor, tmp_path: Path) -> None:
    small = pruned(model.eval(), inputs)
    path = tmp_path / "model.onnx"
    report = export_onnx(small, path)
    assert report.max_error < 1e-4
    assert runs_alike(small, path) < 1e-4
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_a_shared_tensor_is_one_initialiser(tmp_path: Path) -> None:
    export_onnx(fxsparse.trace(randomised(Tied()), torch.randn(3, 6)), tmp_path / "tied.onnx")
    proto = onnx.load(tmp_path / "tied.onnx")
    assert sum(list(each.dims) == [6, 6] for each in proto.graph.initializer) == 1


def test_a_free_batch(tmp_path: Path) -> None:
    small = pruned(build("fxsparse:resnet20").model, torch.randn(1, 3, 16, 16))
    export_onnx(small, tmp_path / "free.onnx", dynamic_batch=True)
    session = engine("onnxruntime").open(tmp_path / "free.onnx")  # type: ignore[attr-defined]
    x = torch.randn(5, 3, 16, 16)
    assert difference(session.run(x)[0], small.module.eval()(x)) < 1e-4


@pytest.mark.parametrize(
    "ask", [lambda n: n != 1, lambda n: n < 5, lambda n: n % 3, lambda n: n == 7], ids=["not one", "few", "no three", "seven"]
)
def test_a_batch_that_the_code_asks_for_is_not_free(tmp_path: Path, ask: Callable[[int], Any]) -> None:
    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x).relu()
            out: Tensor = self.second(y * 2 if ask(x.shape[0]) else y)
            return out

    network = fxsparse.trace(Asking(), torch.randn(2, 4))
    with pytest.raises(fxsparse.Error, match=r"the batch cannot be free: .* leave dynamic_batch out"):
        export_onnx(network, tmp_path / "free.onnx", dynamic_batch=True)
    assert not list(tmp_path.iterdir())
    export_onnx(network, tmp_path / "two.onnx")


@pytest.mark.parametrize("use", [lambda y: y / math.sqrt(y.shape[0]), lambda y: torch.cat(y.chunk(2))], ids=["a root", "halves"])
def test_a_batch_that_a_file_would_hold_to_is_not_free(tmp_path: Path, use: Callable[[Tensor], Tensor]) -> None:
    class Using(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.second(use(self.first(x).relu()))
            return out

    network = fxsparse.trace(Using(), torch.randn(2, 4))
    with pytest.raises(fxsparse.Error, match=r"the batch cannot be free: .* leave dynamic_batch out"):
        export_onnx(network, tmp_path / "free.onnx", dynamic_batch=True)
    export_onnx(network, tmp_path / "two.onnx")


def test_half_precision_keeps_norms_and_softmax(tmp_path: Path) -> None:
    layer = nn.TransformerEncoderLayer(12, 3, 24, batch_first=True)
    report = export_onnx(pruned(layer.eval(), torch.randn(2, 5, 12)), tmp_path / "half.onnx", precision="fp16")
    proto = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "half.onnx"))
    types = {each.name: each.type.tensor_type.elem_type for each in proto.graph.value_info}
    of = {node.op_type: types.get(node.input[0], types.get(node.output[0])) for node in proto.graph.node}
    assert of["Softmax"] == of["LayerNormalization"] == onnx.TensorProto.FLOAT
    assert of["MatMul"] == onnx.TensorProto.FLOAT16
    assert 0 < report.max_error < 5e-2


def test_a_file_that_differs_is_found_out_and_the_first_tensor_named(tmp_path: Path) -> None:
    module = randomised(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))).eval()
    x = torch.randn(2, 4)
    with quiet():
        program = torch.onnx.export(module, (x,), dynamo=True, verbose=False)
    assert program is not None
    proto = program.model_proto
    wrong = next(each for each in proto.graph.initializer if list(each.dims) == [3])
    wrong.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(wrong) + 1, wrong.name))
    onnx.save(proto, tmp_path / "wrong.onnx")
    with torch.no_grad(), pytest.raises(LoweringError, match=r"differs from the module by .*; the first tensor that differs is 'linear_1'"):
        check_parity(tmp_path / "wrong.onnx", module, program.exported_program, (x,), 1e-4)


class Unexportable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.linalg.eigvals(x).abs()
        return out


def test_what_cannot_be_exported_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match=r"Unexportable cannot be exported to ONNX: .*eig"):
        export_onnx(Unexportable(), tmp_path / "x.onnx", inputs=torch.randn(2, 3, 3))
    assert not list(tmp_path.iterdir())
    with pytest.raises(LoweringError, match="is not there; make it first"):
        export_onnx(nn.Linear(2, 2), tmp_path / "a" / "x.onnx", inputs=torch.randn(1, 2))
    with pytest.raises(LoweringError, match="give example inputs"):
        export_onnx(nn.Linear(2, 2), tmp_path / "x.onnx")


class WithNumbers(nn.Module):
    """Returns what is no tensor beside what is one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> dict[str, object]:
        y = self.second(self.first(x).relu())
        return {"scores": y, "samples": y.shape[0], "version": "1", "nothing": None, "doubled": [y * 2, 0.5]}


@pytest.mark.parametrize("dynamic_batch", [False, True])
def test_numbers_among_the_outputs_are_left_out(tmp_path: Path, dynamic_batch: bool) -> None:
    network = fxsparse.trace(WithNumbers(), torch.randn(2, 4))
    report = export_onnx(network, tmp_path / "model.onnx", dynamic_batch=dynamic_batch)
    assert len(report.outputs) == 2 and report.max_error < 1e-5
    assert network.module(torch.randn(3, 4))["samples"] == 3, "the module returns what it did"


class Kept:
    """What a forward pass keeps for its caller."""

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys


def test_tensors_in_plain_objects_are_outputs(tmp_path: Path) -> None:
    class Keeping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.keys = nn.Linear(6, 4), nn.Linear(6, 3)

        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"y": self.fc(x), "kept": Kept(self.keys(x))}

    network = fxsparse.trace(Keeping().eval(), torch.randn(2, 6))
    export_onnx(network, tmp_path / "m.onnx")
    assert len(onnx.load(tmp_path / "m.onnx").graph.output) == 2


def test_the_module_stays_in_its_mode(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout()).train()
    module[1].eval()
    export_onnx(module, tmp_path / "x.onnx", inputs=torch.randn(2, 3))
    assert (module.training, module[0].training, module[1].training) == (True, True, False)


def test_sessions_say_what_is_wrong(tmp_path: Path) -> None:
    runtime: Any = engine("onnxruntime", threads=2)
    built = runtime.build(nn.Linear(3, 4), (torch.randn(2, 3),))
    assert built.describe()["threads"] == 2
    with pytest.raises(
        LoweringError, match=r"input 0 is float32 of shape \(2, 4\), and the engine was built for float32 of shape \(2, 3\)"
    ):
        built.run(torch.randn(2, 4))
    with pytest.raises(LoweringError, match="takes 1 tensors, and got 2"):
        built.run(torch.randn(2, 3), torch.randn(2, 3))
    with pytest.raises(LoweringError, match=r"none\.onnx is not there"):
        runtime.open(tmp_path / "none.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"no onnx")
    with pytest.raises(LoweringError, match=r"bad\.onnx cannot be loaded by ONNX Runtime"):
        runtime.open(tmp_path / "bad.onnx")
    with pytest.raises(LoweringError, match=r"there is no engine 'onxruntime' \(did you mean 'onnxruntime'"):
        engine("onxruntime")
    with pytest.raises(LoweringError, match="unexpected keyword argument 'thread'"):
        engine("onnxruntime", thread=1)
    with pytest.raises(LoweringError, match="at least 1 thread"):
        engine("onnxruntime", threads=0)


def test_what_is_slow_to_import_waits_until_it_is_needed() -> None:
    code = "import sys, fxsparse; assert not {'onnx_ir', 'sympy', 'torch._dynamo', 'torchvision', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

"""What cannot be exported, or written: one sentence that names operator, node and module, and no file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import fxsparse
from fxsparse.engines import export_onnx
from fxsparse.errors import LoweringError


class Eigen(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = torch.linalg.eigvals(x).abs()
        return out


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.block = nn.Sequential(nn.ReLU(), Eigen())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.block(self.first(x))
        return out


class Deciding(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.sum() > 0 else x


class Random(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) + torch.rand_like(x)


X = torch.randn(2, 3, 3)


def refused(model: nn.Module | fxsparse.Network, folder: Path, capfd: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(LoweringError) as caught:
        export_onnx(model, folder / "x.onnx", inputs=X)
    assert not list(folder.iterdir())
    assert capfd.readouterr() == ("", "")  # torch's own talk stays out of sight
    said = str(caught.value)
    assert "\n" not in said
    return said


def test_the_operator_its_node_and_its_module_are_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    node = "the operator aten.linalg_eig (node 'linalg_eig' in module 'block.1'"
    said = refused(Nested(), tmp_path, capfd)
    assert said.startswith(f"Nested cannot be exported to ONNX: {node}, of class Eigen) has no ONNX form; ")
    said = refused(fxsparse.trace(Nested(), X), tmp_path, capfd)
    assert said.startswith(f"Nested cannot be exported to ONNX: {node}) has no ONNX form; ")


def test_control_flow_on_values_is_shown_by_its_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said = refused(Deciding(), tmp_path, capfd)
    assert "its Python code decides by the values of a tensor" in said and "test_onnx_refusal.py, line" in said


def test_the_first_tensor_that_differs_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert "the first tensor that differs is 'rand_like' of shape (2, 3, 3)" in refused(Random(), tmp_path, capfd)


def test_where_and_how_it_shall_be_written(tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match=r"is a folder; give the name of a file in it, such as .*model\.onnx"):
        export_onnx(nn.Linear(3, 3), tmp_path, inputs=X)
    with pytest.raises(LoweringError, match="writes opset 18 here, not 3"):
        export_onnx(nn.Linear(3, 3), tmp_path / "x.onnx", inputs=X, opset=3)
    with pytest.raises(LoweringError, match="precision is one of fp32, fp16, not 'fp8'"):
        export_onnx(nn.Linear(3, 3), tmp_path / "x.onnx", inputs=X, precision="fp8")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("onnx.save", full)
    with pytest.raises(LoweringError, match=r"x\.onnx cannot be written: No space left on device"):
        export_onnx(nn.Linear(3, 3), tmp_path / "x.onnx", inputs=X)
    assert not list(tmp_path.iterdir())

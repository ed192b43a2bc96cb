"""TensorRT: the calls that we make, held against the names of both versions; what we conclude from its answers; refusals."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn

from fxsparse.engines import engine, export_onnx
from fxsparse.engines.measure import Milliseconds, compare
from fxsparse.engines.tensorrt import TensorRT
from fxsparse.engines.tensorrt_inspector import BuiltLayer, built_layers, require_precision
from fxsparse.engines.tensorrt_plan import Choices, bindings, build_plan, read_cache, write_cache
from fxsparse.errors import LoweringError
from tests.engines.tensorrt_double import Double

VERSIONS = ("10", "11")


class Host:
    """A device without a GPU: the host's memory, and a clock that always says 2 ms."""

    name, cuda, stream = "Double GPU (sm_90)", "13.0", 77

    def put(self, tensor: Tensor) -> Tensor:
        return tensor.contiguous()

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.zeros(shape, dtype=dtype)

    def wait(self) -> None:
        return None

    def captured(self, once: Callable[[], None]) -> Callable[[], None]:
        once()
        return once

    def timed(self, once: Callable[[], None]) -> float:
        once()
        return 2.0


class OnHost(TensorRT):
    def _device(self) -> Host:
        return Host()


def information(kind: str = "FP32", tactic: str = "sm80_xmma_fprop") -> str:
    tensor = {"Name": "x", "Format/Datatype": f"Row major linear {kind} format"}
    return json.dumps({"Layers": [{"Name": "conv", "LayerType": "gemm", "TacticName": tactic, "Inputs": [tensor], "Outputs": [tensor]}]})


class Port:
    def __init__(self, name: str, shape: tuple[int, ...]) -> None:
        self.name, self.shape = name, shape


def answers(batch: int = 2, kind: str = "FP32") -> dict[str, Any]:
    """What TensorRT would say of a network from (batch, 4) to (batch, 3)."""
    ports = (("x", (batch, 4)), ("y", (2, 3)))
    return {
        "INetworkDefinition.num_inputs": 1,
        "INetworkDefinition.get_input": lambda self, index: Port("x", (batch, 4)),
        "Builder.build_serialized_network": lambda self, network, config: b"a plan",
        "ITimingCache.serialize": lambda self: b"timings",
        "Runtime.deserialize_cuda_engine": lambda self, plan: DOUBLES[-1].new("ICudaEngine"),
        "ICudaEngine.create_execution_context": lambda self: DOUBLES[-1].new("IExecutionContext"),
        "ICudaEngine.num_io_tensors": 2,
        "ICudaEngine.get_tensor_name": lambda self, index: ports[index][0],
        "ICudaEngine.get_tensor_shape": lambda self, name: dict(ports)[name],
        "ICudaEngine.get_tensor_dtype": lambda self, name: DOUBLES[-1].DataType.FLOAT,
        "ICudaEngine.get_tensor_mode": lambda self, name: getattr(DOUBLES[-1].TensorIOMode, "INPUT" if name == "x" else "OUTPUT"),
        "ICudaEngine.get_tensor_profile_shape": lambda self, name, index: [(1, 4), (2, 4), (8, 4)],
        "IExecutionContext.set_input_shape": lambda self, name, shape: True,
        "IExecutionContext.get_tensor_shape": lambda self, name: (2, 3),
        "EngineInspector.get_engine_information": lambda self, format: information(kind),
    }


DOUBLES: list[Double] = []


@pytest.fixture(params=VERSIONS)
def trt(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Double:
    return installed(request.param, monkeypatch)


def installed(version: str, monkeypatch: pytest.MonkeyPatch, **more: Any) -> Double:
    double = Double(version, answers() | more)
    DOUBLES.append(double)
    monkeypatch.setitem(sys.modules, "tensorrt", double)
    monkeypatch.setattr("fxsparse.engines.tensorrt.export_onnx", lambda *_, **__: None)  # the double reads no file
    return double


def test_an_engine_is_built_run_and_timed_with_names_that_exist(trt: Double) -> None:
    built = OnHost().build(nn.Linear(4, 3), [torch.randn(2, 4)])
    assert trt.called("Builder.create_network") == [(2 if trt.__version__.startswith("10") else 1,)]  # strongly typed, by name
    assert trt.called("IBuilderConfig.profiling_verbosity=") == [(trt.ProfilingVerbosity.DETAILED,)]
    assert trt.called("IBuilderConfig.clear_flag") == [(trt.BuilderFlag.TF32,)]
    assert not trt.called("IBuilderConfig.set_flag") and not trt.called("IBuilderConfig.add_optimization_profile")
    assert [tuple(each.shape) for each in built.run()] == [(2, 3)]
    assert trt.called("IExecutionContext.execute_async_v3") == [(77,)]
    assert [name for name, _ in trt.called("IExecutionContext.set_tensor_address")] == ["x", "y"]
    assert compare({"a": built.prepare()}, runs=3, seconds=0, warmup=0)["a"].median == 2.0  # the device's clock, not ours
    about = built.describe()
    assert (about["precision"], about["sparse_layers"], about["inputs"]) == ("fp32", 0, [[2, 4]])
    with pytest.raises(LoweringError, match=r"of shape \(2, 5\), and the engine was built for float32 of shape \(2, 4\)"):
        built.run(torch.randn(2, 5))


def test_options_reach_the_builder(trt: Double, tmp_path: Path) -> None:
    options = OnHost(sparse=True, tf32=True, level=5, timing_cache=str(tmp_path))
    options.build(nn.Linear(4, 3), [torch.randn(2, 4)])
    assert trt.called("IBuilderConfig.set_flag") == [(trt.BuilderFlag.SPARSE_WEIGHTS,)] and not trt.called("IBuilderConfig.clear_flag")
    assert trt.called("IBuilderConfig.builder_optimization_level=") == [(5,)]
    assert trt.called("IBuilderConfig.create_timing_cache") == [(b"",)]
    options.build(nn.Linear(4, 3), [torch.randn(2, 4)])
    assert trt.called("IBuilderConfig.create_timing_cache")[-1] == (b"timings",)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(LoweringError, match="is damaged; delete it"):
        options.build(nn.Linear(4, 3), [torch.randn(2, 4)])


@pytest.mark.parametrize("version", VERSIONS)
def test_free_batches_have_a_profile(version: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    double = installed(version, monkeypatch, **answers(batch=-1))
    built = OnHost(batches=(1, 2, 8)).build(nn.Linear(4, 3), [torch.randn(2, 4)])
    assert double.called("IOptimizationProfile.set_shape") == [("x", (1, 4), (2, 4), (8, 4))]
    assert len(double.called("IBuilderConfig.add_optimization_profile")) == 1
    assert built.run(torch.randn(2, 4))[0].shape == (2, 3)
    with pytest.raises(LoweringError, match=r"give batches=\(least, usual, most\)"):
        build_plan(double, tmp_path / "model.onnx", Choices())


def test_an_engine_is_saved_and_refused_elsewhere(trt: Double, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "small.plan"
    OnHost().build(nn.Linear(4, 3), [torch.randn(2, 4)]).save(path)
    again = OnHost().load(path)
    assert [tuple(each.shape) for each in again.inputs] == [(2, 4)]
    monkeypatch.setattr(Host, "name", "Another GPU")
    with pytest.raises(LoweringError, match=r"built for gpu Double GPU .*, and here is Another GPU; build it again here"):
        OnHost().load(path)
    monkeypatch.setattr(Host, "name", "Double GPU (sm_90)")
    path.write_bytes(b"a plot")
    with pytest.raises(LoweringError, match="is damaged, or does not belong to its side file"):
        OnHost().load(path)
    path.with_name("small.plan.json").write_text("{")
    with pytest.raises(LoweringError, match=r"small\.plan\.json is damaged"):
        OnHost().load(path)
    with pytest.raises(LoweringError, match="cannot be read"):
        OnHost().load(tmp_path / "none.plan")


def test_the_precision_built_must_be_the_one_asked(trt: Double) -> None:
    with pytest.raises(LoweringError, match=r"fp16 was asked for, and TensorRT built 1 of 1 layers otherwise, first 'conv' \(fp32\)"):
        OnHost(precision="fp16").build(nn.Linear(4, 3), [torch.randn(2, 4)])
    half = BuiltLayer("conv", "CaskConvolution", "", ("fp16",))
    norm = BuiltLayer("norm", "kgen", "", ("fp32",))
    require_precision((half, norm), "fp16")
    with pytest.raises(LoweringError, match="fp32 was asked for"):
        require_precision((half, norm), "fp32")
    with pytest.raises(LoweringError, match="names no types"):
        require_precision((BuiltLayer("conv", "", "", ()),), "fp16")


@pytest.mark.parametrize(("said", "kind"), [("FP16", "fp16"), ("Half", "fp16"), ("BF16", "bf16"), ("Float", "fp32"), ("Int32", "")])
def test_types_and_sparse_kernels_are_read_back(said: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def inform(self: Any, format: Any) -> str:
        return information(said, "sm80_xmma_sparse_gemm")

    double = installed("11", monkeypatch, **{"EngineInspector.get_engine_information": inform})
    (layer,) = built_layers(double, double.new("ICudaEngine"))
    assert layer.sparse and layer.heavy and set(layer.types) == ({kind} if kind else set())


def test_layers_are_profiled_apart(trt: Double) -> None:
    built = OnHost().build(nn.Linear(4, 3), [torch.randn(2, 4)])

    def report(self: Any, stream: int) -> bool:
        if "profiler" in self.__dict__:
            self.profiler.report_layer_time("conv", 0.5)
        return True

    trt.answers["IExecutionContext.execute_async_v3"] = report
    assert built.layer_times(runs=4) == {"conv": 0.5}


def test_what_tensorrt_refuses_is_one_sentence(trt: Double) -> None:
    trt.answers["Builder.build_serialized_network"] = lambda self, network, config: None
    with pytest.raises(LoweringError, match="TensorRT builds no engine: it gives no reason"):
        OnHost().build(nn.Linear(4, 3), [torch.randn(2, 4)])
    trt.answers["OnnxParser.parse_from_file"] = lambda self, path: False
    trt.answers |= {"OnnxParser.num_errors": 1, "ParserError.desc": lambda self: "no importer\nmore"}
    trt.answers |= {"ParserError.node_name": lambda self: "node_3", "ParserError.node_operator": lambda self: "Foo"}
    trt.answers["OnnxParser.get_error"] = lambda self, index: trt.new("ParserError")
    with pytest.raises(LoweringError, match=r"cannot read model\.onnx: node 'node_3' \(Foo\): no importer$"):
        OnHost().build(nn.Linear(4, 3), [torch.randn(2, 4)])


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(LoweringError, match=r"pip install 'fxsparse\[tensorrt\]'"):
        bindings()
    double = installed("10", monkeypatch)
    double.__version__ = "10.9.0"
    with pytest.raises(LoweringError, match=r"10\.9\.0 is too old; install 10\.12 or newer"):
        bindings()
    double.__version__ = "10.16.1"
    with pytest.raises(LoweringError, match="for the timing cache is not there"):
        OnHost(timing_cache=str(tmp_path / "none")).build(nn.Linear(4, 3), [torch.randn(2, 4)])


def test_the_double_knows_what_a_version_lacks() -> None:
    ten, eleven = Double("10"), Double("11")
    assert ten.BuilderFlag.FP16.name == "FP16"
    with pytest.raises(AttributeError):
        eleven.BuilderFlag.FP16  # noqa: B018
    with pytest.raises(AttributeError, match="has no fp16_mode"):
        eleven.Builder(eleven.ILogger()).fp16_mode = True
    with pytest.raises(TypeError, match="got 0 arguments"):
        eleven.new("IBuilderConfig").set_flag()
    with pytest.raises(AttributeError, match="has no Rubbish"):
        eleven.Rubbish  # noqa: B018


def test_caches_come_back(tmp_path: Path) -> None:
    assert read_cache(tmp_path / "none") == b""
    write_cache(tmp_path / "cache", b"data")
    assert read_cache(tmp_path / "cache") == b"data"
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]
    assert isinstance(Milliseconds(2.0), float)


@pytest.mark.tensorrt
def test_on_a_gpu() -> None:
    if importlib.util.find_spec("tensorrt") is None or not torch.cuda.is_available():
        pytest.skip("needs TensorRT and a GPU")
    module = nn.Sequential(nn.Conv2d(8, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1)).eval()
    inputs = torch.randn(2, 8, 16, 16)
    built = engine("tensorrt").build(module, [inputs])
    torch.testing.assert_close(built.run(inputs)[0], module(inputs), rtol=1e-3, atol=1e-3)
    assert compare({"a": built.prepare()}, runs=10, seconds=0.1)["a"].median > 0
    half = engine("tensorrt", precision="fp16").build(module, [inputs])
    torch.testing.assert_close(half.run(inputs)[0].float(), module(inputs), rtol=2e-2, atol=2e-2)


def test_the_file_that_is_parsed_is_a_model(trt: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxsparse.engines.tensorrt.export_onnx", export_onnx)
    seen: list[str] = []

    def parse(self: Any, path: str) -> bool:
        seen.extend(node.op_type for node in onnx.load(path).graph.node)
        return True

    trt.answers["OnnxParser.parse_from_file"] = parse
    OnHost().build(nn.Linear(4, 3), [torch.randn(2, 4)])
    assert seen == ["Gemm"]

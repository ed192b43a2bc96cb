"""Where a network runs: ONNX Runtime, TensorRT, torch.compile; one interface, one way to measure."""

from fxsparse.engines.base import Built, Engine
from fxsparse.engines.explain import explain, summary
from fxsparse.engines.measure import Timing, compare, ratio
from fxsparse.engines.onnx_export import OnnxReport, export_onnx
from fxsparse.engines.profile import LayerTime, profile
from fxsparse.engines.table import engine, engine_names

__all__ = [
    "Built",
    "Engine",
    "LayerTime",
    "OnnxReport",
    "Timing",
    "compare",
    "engine",
    "engine_names",
    "explain",
    "export_onnx",
    "profile",
    "ratio",
    "summary",
]

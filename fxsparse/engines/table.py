"""The engines by name."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from fxsparse.engines.base import Engine
from fxsparse.errors import LoweringError, nearest

# name -> file, class, the package that it needs, how to get that
ENGINES: dict[str, tuple[str, str, str, str]] = {
    "onnxruntime": ("onnxruntime", "OnnxRuntime", "onnxruntime", "pip install onnxruntime"),
    "tensorrt": ("tensorrt", "TensorRT", "tensorrt", "pip install 'fxsparse[tensorrt]'"),
    "inductor": ("inductor", "Inductor", "torch", "pip install torch"),
}


def engine_names() -> list[str]:
    """All engines that fxsparse knows, installed or not."""
    return sorted(ENGINES)


def engine(name: str, **options: Any) -> Engine:
    """An engine with its options, such as `engine("onnxruntime", threads=1)`."""
    if name not in ENGINES:
        raise LoweringError(f"there is no engine {name!r}{nearest(name, ENGINES)}; there are {', '.join(engine_names())}")
    file, cls, package, advice = ENGINES[name]
    if importlib.util.find_spec(package) is None:
        raise LoweringError(f"the engine {name!r} needs {package}, which is not installed; {advice}")
    made = getattr(importlib.import_module(f"fxsparse.engines.{file}"), cls)
    try:
        found: Engine = made(**options)
    except TypeError as error:
        raise LoweringError(f"the engine {name!r}: {str(error).rpartition('__init__() ')[2]}") from error
    return found

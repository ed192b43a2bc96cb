"""What TensorRT built: the types of its layers and the kernels that it picked, read back from the engine inspector."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from fxsparse.errors import LoweringError

TYPES = {"fp16": ("fp16", "half"), "bf16": ("bf16",), "fp32": ("fp32", "float"), "int8": ("int8",), "fp8": ("fp8",)}
HEAVY = re.compile(r"conv|gemm|matrix.?multiply|matmul|fc|fully", re.IGNORECASE)
SPARSE = re.compile(r"sparse|spmma", re.IGNORECASE)


@dataclass(frozen=True)
class BuiltLayer:
    """One layer of an engine; TensorRT fuses, so it may stand for many nodes."""

    name: str
    kind: str
    tactic: str
    types: tuple[str, ...]  # of its inputs and outputs, as far as the inspector tells

    @property
    def heavy(self) -> bool:
        """Whether it is made of convolutions or matrix products."""
        return bool(HEAVY.search(self.kind) or HEAVY.search(self.tactic))

    @property
    def sparse(self) -> bool:
        """Whether its kernel is one for 2:4 weights."""
        return bool(SPARSE.search(self.tactic))


def built_layers(trt: Any, engine: Any) -> tuple[BuiltLayer, ...]:
    """The layers of a deserialised engine."""
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise LoweringError("TensorRT's engine inspector gives no layers; build the engine again, with this version of fxsparse") from error
    return tuple(_layer(each) for each in layers)


def _layer(said: Any) -> BuiltLayer:
    if not isinstance(said, dict):  # an engine that was built without detailed verbosity tells names alone
        return BuiltLayer(str(said), "", "", ())
    tensors = [*said.get("Inputs", ()), *said.get("Outputs", ())]
    types = (_type(each) for each in tensors if isinstance(each, dict))
    tactic = str(said.get("TacticName", ""))
    return BuiltLayer(str(said.get("Name", "")), str(said.get("LayerType", "")), tactic, tuple(each for each in types if each))


def _type(tensor: dict[str, Any]) -> str:
    """The type that a tensor's format names: `Channel major FP16 format where channel % 8 == 0`, or `Half`."""
    text = " ".join(str(value) for key, value in tensor.items() if key.lower().startswith(("format", "datatype", "type"))).lower()
    found = [name for name, words in TYPES.items() if any(re.search(rf"\b{word}\b", text) for word in words)]
    return found[0] if found else ""


def require_precision(layers: tuple[BuiltLayer, ...], precision: str) -> None:
    """What was asked for must be what was built: TensorRT itself would not complain."""
    heavy = [layer for layer in layers if layer.heavy]
    if not any(layer.types for layer in layers):
        raise LoweringError("TensorRT's engine inspector names no types, so the precision that was built cannot be checked")
    wrong = [layer for layer in heavy if layer.types and precision not in layer.types]
    if precision == "fp32":
        wrong = [layer for layer in layers if {"fp16", "bf16", "fp8", "int8"} & set(layer.types)]
    if wrong:
        said = ", ".join(dict.fromkeys(wrong[0].types))
        raise LoweringError(
            f"{precision} was asked for, and TensorRT built {len(wrong)} of {len(layers)} layers otherwise, "
            f"first {wrong[0].name!r} ({said}); precision comes from the ONNX file, so export it in this precision"
        )

"""What torch's exporter could not do, in one sentence that names the operator, its node and its module."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from fxsparse.network import Network

NODE = re.compile(r"translating node %(\w+) .*?target=(?:torch\.ops\.)?([\w.:]+)", re.DOTALL)

LINE = re.compile(r'raised this error:\n +File "(.+?)", line (\d+)')


def refusal(model: Network | nn.Module, module: nn.Module, example: tuple[Any, ...], error: BaseException) -> str:
    """The sentence for what `torch.onnx.export` raised."""
    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    what = f"{_name(model)} cannot be exported to ONNX"
    found = next((match for each in chain if (match := NODE.search(str(each)))), None)
    if found is None and "data-dependent" in str(chain[-1]):
        line = LINE.search(str(chain[-1]))
        return f"{what}: its Python code decides by the values of a tensor" + (f" ({line[1]}, line {line[2]})" if line else "")
    if found is None:
        said = next((line.strip() for line in str(chain[-1]).splitlines() if line.strip()), type(chain[-1]).__name__)
        return f"{what}: {said[:300]}"
    node, target = found[1], ".".join(found[2].split(".")[:2])
    place = _place(model, module, example, node, target)
    reason = "has no ONNX form" if "No ONNX function" in str(chain[-1]) else f"is refused: {str(chain[-1]).splitlines()[0][:200]}"
    return f"{what}: the operator {target} (node {node!r}{place}) {reason}; replace it by others, or leave it out of what is exported"


def _name(model: Network | nn.Module) -> str:
    return model.origin.original.__name__ if isinstance(model, Network) else type(model).__name__


def _place(model: Network | nn.Module, module: nn.Module, example: tuple[Any, ...], node: str, target: str) -> str:
    """` in module 'block.1', an Eig`, as far as it can be told."""
    if isinstance(model, Network):
        calls = model.origin.structure.reading.tapes[0].tape.calls
        owners = list(dict.fromkeys(call.owner.module for call in calls if call.name == target))
        return f" in module {', '.join(map(repr, owners[:3]))}" if any(owners) else ""
    try:
        program = torch.export.export(module, example, strict=False).run_decompositions()
    except Exception:  # it is only wanted for the message
        return ""
    stack: Any = next((each.meta.get("nn_module_stack", {}) for each in program.graph.nodes if each.name == node), {})
    path, kind = list(stack.values())[-1] if stack else ("", "")
    return f" in module {path!r}, of class {str(kind).rpartition('.')[2]}" if path else ""

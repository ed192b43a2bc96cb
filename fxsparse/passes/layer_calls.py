"""Convolutions and linear layers in graphs, called as modules or as functions with a weight of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from fxsparse.surgery.graphs import Place, graphs
from fxsparse.tracing.copies import names_of
from fxsparse.tracing.taught import is_parametrized

Kind = Literal["linear", "convolution", "transposed"]

# The arguments of torch's functions, in order, as far as they say what a layer is.
_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_FUNCTIONS: Mapping[Callable[..., Any], tuple[Kind, tuple[str, ...]]] = {
    F.linear: ("linear", ("input", "weight", "bias")),
    **{function: ("convolution", _CONVOLUTION) for function in (F.conv1d, F.conv2d, F.conv3d)},
    **{function: ("transposed", _TRANSPOSED) for function in (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)},
}


@dataclass(frozen=True)
class Layer:
    """What a node calls: the same for all nodes that call the same layer in the same way."""

    name: str  # of the module, or of what holds the weight
    kind: Kind
    weight: str
    bias: str | None  # its key; None where there is none
    new_bias: str  # the key that a bias would get
    groups: int
    pads: bool  # with zeros
    module: bool

    @property
    def keys(self) -> list[str]:
        return [self.weight] if self.bias is None else [self.weight, self.bias]


def layer_of(names: Mapping[int, str], place: Place, node: fx.Node) -> Layer | str | None:
    """The layer that a node calls; why it cannot be changed; None where it calls none. `names` are those of all modules, by identity."""
    if node.op == "call_module":
        return _module(names, place, node)
    if node.op == "call_function" and node.target in _FUNCTIONS:
        return _function(place, node)
    return None


def layers_of(root: nn.Module) -> dict[str, Layer]:
    """The layers that the graphs call, by name; of those that are called in several ways, the last."""
    names = names_of(root)
    calls = (layer_of(names, place, node) for place in graphs(root) for node in place.graph.nodes)
    return {layer.name: layer for layer in calls if isinstance(layer, Layer)}


def input_of(node: fx.Node) -> fx.Node | None:
    """What a layer is applied to."""
    given = node.args[0] if node.args else node.kwargs.get("input")
    return given if isinstance(given, fx.Node) else None


def _module(names: Mapping[int, str], place: Place, node: fx.Node) -> Layer | str | None:
    each = place.module_of(node)
    if not isinstance(each, (_ConvNd, nn.Linear)) or len(node.args) != 1 or node.kwargs:
        return None
    if "weight" not in each._parameters or is_parametrized(each):
        return f"the weight of {names[id(each)]} is parametrized"
    return _made_of(each, names[id(each)])


def uncalled(root: nn.Module, name: str) -> Layer:
    """The layer that a module is, whether a graph calls it or not."""
    return _made_of(root.get_submodule(name), name)


def _made_of(module: Any, name: str) -> Layer:
    bias = f"{name}.bias" if module._parameters.get("bias") is not None else None
    kind: Kind = "linear" if isinstance(module, nn.Linear) else "transposed" if isinstance(module, _ConvTransposeNd) else "convolution"
    padding = getattr(module, "padding", 0) if getattr(module, "padding_mode", "zeros") == "zeros" else 0
    pads = _pads(padding, getattr(module, "kernel_size", (1,)))
    return Layer(name, kind, f"{name}.weight", bias, f"{name}.bias", getattr(module, "groups", 1), pads, True)


def _function(place: Place, node: fx.Node) -> Layer | str:
    kind, arguments = _FUNCTIONS[node.target]  # type: ignore[index]
    given = dict(zip(arguments, node.args, strict=False)) | dict(node.kwargs)
    weight, bias = (_parameter(place, given.get(each)) for each in ("weight", "bias"))
    if weight is None:
        return f"the weight of {node.name} is computed in the forward pass"
    if bias is None and given.get("bias") is not None:
        return f"the bias of {node.name} is computed in the forward pass"
    groups, padding = given.get("groups", 1), given.get("padding", 0)
    if not isinstance(groups, int) or isinstance(padding, fx.Node) or any(isinstance(p, fx.Node) for p in _each(padding)):
        return f"the padding of {node.name} is computed in the forward pass"
    path, _, own = weight.rpartition(".")
    target = str(given["weight"].target)  # type: ignore[union-attr]
    owner = place.owner.get_submodule(target.rpartition(".")[0])
    new = "bias" if own == "weight" and getattr(owner, "bias", None) is None else f"{own}_bias"
    kernel = tuple(place.owner.get_parameter(target).shape[2:])
    return Layer(path or own, kind, weight, bias, f"{path}.{new}" if path else new, groups, _pads(padding, kernel), False)


def _parameter(place: Place, given: object) -> str | None:
    """The key of the parameter that an argument is."""
    if not isinstance(given, fx.Node) or given.op != "get_attr":
        return None
    key = place.name(str(given.target))
    path, _, name = str(given.target).rpartition(".")
    return key if place.owner.get_submodule(path)._parameters.get(name) is not None else None


def _each(value: object) -> Sequence[object]:
    return value if isinstance(value, (tuple, list)) else (value,)


def _pads(padding: object, kernel: Sequence[int]) -> bool:
    if isinstance(padding, str):
        return padding != "valid" and any(size > 1 for size in kernel)
    return any(_each(padding))


def bias_of(module: nn.Module, layer: Layer) -> Tensor | None:
    """The bias that a layer has by now."""
    path, _, name = (layer.bias or layer.new_bias).rpartition(".")
    return module.get_submodule(path)._parameters.get(name)


def give_bias(module: nn.Module, layer: Layer, bias: Tensor) -> None:
    """Give a layer that has no bias this one, wherever it is called."""
    path, _, name = layer.new_bias.rpartition(".")
    owner = module.get_submodule(path)
    weight = module.get_parameter(layer.weight)
    owner.register_parameter(name, nn.Parameter(bias.to(weight.dtype), requires_grad=weight.requires_grad))
    if layer.module:
        return
    for place in graphs(module):
        for node in place.graph.nodes:
            if node.op == "call_function" and node.target in _FUNCTIONS and _parameter(place, _argument(node, "weight")) == layer.weight:
                with place.graph.inserting_before(node):
                    made = place.graph.create_node("get_attr", local(place, layer.new_bias))
                if len(node.args) > 2:
                    node.args = (*node.args[:2], made, *node.args[3:])
                else:
                    node.kwargs = {**node.kwargs, "bias": made}


def local(place: Place, name: str) -> str:
    """A qualified name as the graph's own module says it."""
    return name.removeprefix(f"{place.prefix}.") if place.prefix else name


def _argument(node: fx.Node, name: str) -> object:
    position = _CONVOLUTION.index(name)
    return node.args[position] if len(node.args) > position else node.kwargs.get(name)


def zeros_for(module: nn.Module, layer: Layer) -> Tensor:
    """A bias of zeros, as long as the layer's output is wide."""
    weight = module.get_parameter(layer.weight)
    size = weight.shape[1] * layer.groups if layer.kind == "transposed" else weight.shape[0]
    return torch.zeros(size, dtype=weight.dtype, device=weight.device)

"""Takes a batch norm into the layer beside it: the weights, the graphs, the names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from fxsparse.passes.batch_norms import Norm, Site, is_batch_norm, read_function
from fxsparse.passes.layer_calls import Layer, bias_of, give_bias, zeros_for
from fxsparse.surgery.graphs import graphs


class Fold(NamedTuple):
    """A norm, the layer that takes it in, and where the layer stands."""

    norm: Norm
    layer: Layer
    side: Literal["before", "after"]


def fold_all(module: nn.Module, folds: Sequence[Fold]) -> None:
    for fold in folds:
        with torch.no_grad():
            _write(module, fold)
        rewire(module, fold)


def _tensor(module: nn.Module, key: str) -> Tensor:
    path, _, name = key.rpartition(".")
    owner = module.get_submodule(path)
    found = owner._parameters.get(name)
    value = found if found is not None else owner._buffers[name]
    assert value is not None
    return value


def _write(module: nn.Module, fold: Fold) -> None:
    """In float64, then rounded once."""
    norm, layer = fold.norm, fold.layer
    mean, var = (_tensor(module, key).double() for key in (norm.mean, norm.var))
    scale = (var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * _tensor(module, norm.weight).double()
    shift = -mean * scale
    if norm.bias is not None:
        shift = shift + _tensor(module, norm.bias).double()
    weight = module.get_parameter(layer.weight)
    wide = weight.double()
    old = bias_of(module, layer)
    bias = (zeros_for(module, layer) if old is None else old).double()
    if fold.side == "before":
        bias = bias * scale + shift
        wide = wide * _along_outputs(layer, scale, wide)
    else:
        each = _along_inputs(layer, shift, wide)
        bias = bias + (wide * each).flatten(1).sum(1)
        wide = wide * _along_inputs(layer, scale, wide)
    weight.copy_(wide)
    if old is None:
        give_bias(module, layer, bias)
    else:
        old.copy_(bias)


def _along_outputs(layer: Layer, scale: Tensor, weight: Tensor) -> Tensor:
    """A number for each output, in a shape that multiplies the weight."""
    if layer.kind != "transposed":
        return scale.reshape(-1, *[1] * (weight.dim() - 1))
    by_group = scale.reshape(layer.groups, 1, -1).expand(-1, weight.shape[0] // layer.groups, -1)
    return by_group.reshape(*weight.shape[:2], *[1] * (weight.dim() - 2))


def _along_inputs(layer: Layer, scale: Tensor, weight: Tensor) -> Tensor:
    """A number for each input, in a shape that multiplies the weight of a layer that is not transposed."""
    if layer.kind == "linear":
        return scale
    by_group = scale.reshape(layer.groups, 1, -1).expand(-1, weight.shape[0] // layer.groups, -1)
    return by_group.reshape(*weight.shape[:2], *[1] * (weight.dim() - 2))


def rewire(module: nn.Module, fold: Fold) -> None:
    """Take the norm out of every graph, and its tensors out of the module."""
    norm = None if fold.norm.module is None else module.get_submodule(fold.norm.module)
    paths = {name for name, each in module.named_modules(remove_duplicate=False) if each is norm}
    for place in graphs(module):
        for node in list(place.graph.nodes):
            calls = node.op == "call_module"
            if place.name(str(node.target)) in paths if calls else is_batch_norm(place, node) and read_function(place, node) == fold.norm:
                source = Site(place, node).input
                assert source is not None
                constants = [each for each in node.all_input_nodes if each.op == "get_attr"]
                node.replace_all_uses_with(source)
                place.graph.erase_node(node)
                for each in constants:
                    if not each.users:
                        place.graph.erase_node(each)
    if norm is not None:
        for path in paths:
            parent, _, child = path.rpartition(".")
            module.get_submodule(parent)._modules[child] = nn.Identity()
        return
    for key in fold.norm.tensors:
        path, _, name = key.rpartition(".")
        owner = module.get_submodule(path)
        (owner._parameters if name in owner._parameters else owner._buffers)[name] = None

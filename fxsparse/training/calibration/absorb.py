"""Batch norms that only shift: their scale goes into the weights of the layer before them; the model keeps its class and its names."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from fxsparse.errors import Error
from fxsparse.network import trace
from fxsparse.passes.fold_batch_norm import plan
from fxsparse.training.calibration.images import Calibration, take
from fxsparse.training.evaluate import evaluating


def pairs(model: nn.Module, data: Calibration) -> dict[str, str]:
    """Layer -> the norm behind it that could be folded into it; none where the model cannot be traced."""
    try:
        with evaluating(model):
            folds, _ = plan(trace(model, (take(data.inputs, torch.arange(2)),)))
    except Error:
        return {}
    found: dict[str, str] = {}
    for fold in folds:
        norm = fold.norm
        if fold.side == "before" and fold.layer.module and norm.module is not None and norm.weight is not None and norm.bias is not None:
            found.setdefault(fold.layer.name, norm.module)
    return found


@torch.no_grad()
def absorb(model: nn.Module, found: dict[str, str]) -> None:
    """The same function in evaluation mode: from w x / deviation ... to (w / deviation) x + shift."""
    for layer_name, norm_name in found.items():
        layer, norm = model.get_submodule(layer_name), model.get_submodule(norm_name)
        assert isinstance(norm, nn.modules.batchnorm._BatchNorm) and norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
        weight, bias = layer.get_parameter("weight"), layer._parameters.get("bias")
        weight.copy_(weight.double() * _along_outputs(layer, scale, weight))
        if bias is not None:
            bias.copy_(bias.double() * scale)
        norm.bias.copy_(norm.bias.double() - norm.running_mean.double() * scale)
        norm.weight.fill_(1)
        norm.running_mean.zero_()
        norm.running_var.fill_(1 - norm.eps)


def _along_outputs(layer: nn.Module, scale: Tensor, weight: Tensor) -> Tensor:
    """A number for each output, in a shape that multiplies the weight."""
    rest = [1] * (weight.dim() - 2)
    if not isinstance(layer, _ConvTransposeNd):
        return scale.reshape(-1, 1, *rest)
    each = scale.reshape(layer.groups, 1, -1).expand(-1, weight.shape[0] // layer.groups, -1)
    return each.reshape(*weight.shape[:2], *rest)

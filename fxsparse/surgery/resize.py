"""Sizes that torch's own modules keep as attributes, brought in line with their tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from torch import nn

from fxsparse.tracing.taught import operator_of

Literals = dict[str, Any]  # operator argument -> what it will be, from the module's recorded calls


def _linear(m: nn.Linear, _: Literals) -> None:
    m.out_features, m.in_features = m.weight.shape


def _bilinear(m: nn.Bilinear, _: Literals) -> None:
    m.out_features, m.in1_features, m.in2_features = m.weight.shape


def _convolution(m: Any, literals: Literals) -> None:
    m.groups = literals.get("groups", m.groups)
    first, second = m.weight.shape[:2]
    if m.transposed:
        m.in_channels, m.out_channels = first, second * m.groups
    else:
        m.out_channels, m.in_channels = first, second * m.groups


def _channel_norm(m: Any, _: Literals) -> None:
    tensor = m.weight if m.weight is not None else m.running_mean
    if tensor is not None:
        m.num_features = tensor.shape[0]


def _layer_norm(m: Any, literals: Literals) -> None:
    shape = m.weight.shape if m.weight is not None else literals["shape"][-len(m.normalized_shape) :]
    m.normalized_shape = tuple(shape)


def _group_norm(m: nn.GroupNorm, literals: Literals) -> None:
    m.num_groups = literals.get("group", m.num_groups)
    m.num_channels = literals.get("C", m.num_channels)


def _embedding(m: Any, _: Literals) -> None:
    m.num_embeddings, m.embedding_dim = m.weight.shape


def _recurrent(m: Any, _: Literals) -> None:
    gates = {"LSTM": 4, "GRU": 3}.get(m.mode, 1)
    m.hidden_size = m.weight_ih_l0.shape[0] // gates
    m.input_size = m.weight_ih_l0.shape[1]
    if m.proj_size:
        m.proj_size = m.weight_hr_l0.shape[0]


def _recurrent_cell(m: Any, _: Literals) -> None:
    m.hidden_size, m.input_size = m.weight_hh.shape[1], m.weight_ih.shape[1]


def _prelu(m: nn.PReLU, _: Literals) -> None:
    m.num_parameters = m.weight.shape[0]


def _channel_shuffle(m: nn.ChannelShuffle, literals: Literals) -> None:
    m.groups = literals.get("groups", m.groups)


def _unflatten(m: nn.Unflatten, literals: Literals) -> None:
    size = literals.get("size")
    if size is not None:
        dim, count = m.dim if isinstance(m.dim, int) else 0, len(m.unflattened_size)
        start = dim if dim >= 0 else len(size) - count + 1 + dim
        m.unflattened_size = tuple(size[start : start + count])


RESIZERS: tuple[tuple[tuple[type, ...], Callable[[Any, Literals], None]], ...] = (
    ((nn.Linear,), _linear),
    ((nn.Bilinear,), _bilinear),
    ((nn.modules.conv._ConvNd,), _convolution),
    ((nn.modules.batchnorm._NormBase,), _channel_norm),
    ((nn.LayerNorm, nn.RMSNorm), _layer_norm),
    ((nn.GroupNorm,), _group_norm),
    ((nn.Embedding, nn.EmbeddingBag), _embedding),
    ((nn.RNNBase,), _recurrent),
    ((nn.RNNCellBase,), _recurrent_cell),
    ((nn.PReLU,), _prelu),
    ((nn.ChannelShuffle,), _channel_shuffle),
    ((nn.Unflatten,), _unflatten),
)


def resize(module: nn.Module, literals: Literals) -> None:
    """Bring a module's size attributes in line; a module of another kind has none, unless it was taught with a `resize` of its own."""
    operator = operator_of(module)
    if operator is not None:
        if operator.resize is not None:
            operator.resize(module)
        return
    for types, adapt in RESIZERS:
        if isinstance(module, types):
            with contextlib.suppress(AttributeError):  # a weight that other code puts there at each run; what does not fit is found then
                adapt(module, literals)
            return

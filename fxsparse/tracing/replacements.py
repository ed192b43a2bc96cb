"""Modules that insist on sizes which pruning breaks, and their equivalents that do not.

`nn.MultiheadAttention` wants embed_dim == heads x head_dim and one width for queries, keys and values. `FreeAttention` has the same
state_dict keys and the same arithmetic, and every size of it is free.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxsparse.errors import PlanError
from fxsparse.tracing.walk import all_modules


class FreeAttention(nn.Module):
    """Multi-head attention whose heads, head dimensions and widths are independent of each other."""

    in_proj_weight: Tensor
    in_proj_bias: Tensor | None
    q_proj_weight: Tensor
    k_proj_weight: Tensor
    v_proj_weight: Tensor
    bias_k: Tensor
    bias_v: Tensor

    def __init__(self, source: nn.MultiheadAttention) -> None:
        super().__init__()
        for name, parameter in source._parameters.items():
            self.register_parameter(name, parameter)
        self.out_proj = source.out_proj
        self.embed_dim, self.num_heads, self.dropout = source.embed_dim, source.num_heads, source.dropout
        self.batch_first, self.add_zero_attn = source.batch_first, source.add_zero_attn
        self._qkv_same_embed_dim = source._qkv_same_embed_dim
        self.has_bias_kv = source.bias_k is not None
        self.head_dim = source.head_dim
        self.train(source.training)
        self._forward_hooks, self._forward_pre_hooks = source._forward_hooks, source._forward_pre_hooks
        self._forward_hooks_with_kwargs, self._forward_pre_hooks_with_kwargs = (
            source._forward_hooks_with_kwargs,
            source._forward_pre_hooks_with_kwargs,
        )

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        batched = query.dim() == 3
        if not batched:
            query, key, value = (x.unsqueeze(0 if self.batch_first else 1) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        separate = None if self._qkv_same_embed_dim else (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        projected = _projected(query, key, value, separate, None if separate else self.in_proj_weight, self.in_proj_bias)
        out, weights = _attended(
            projected,
            _mask(attn_mask, key_padding_mask, projected[0]),
            heads=self.num_heads,
            head_dim=self.head_dim,
            more=(self.bias_k, self.bias_v) if self.has_bias_kv else None,
            add_zero=self.add_zero_attn,
            dropout=self.dropout if self.training else 0.0,
            need_weights=need_weights,
            average=average_attn_weights,
        )
        out = self.out_proj(out)
        if not self.batch_first:
            out = out.transpose(0, 1)
        if not batched:
            out = out.squeeze(0 if self.batch_first else 1)
            weights = None if weights is None else weights.squeeze(0)
        return out, weights


def free_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    embed_dim_to_check: int,
    num_heads: int,
    in_proj_weight: Tensor | None,
    in_proj_bias: Tensor | None,
    bias_k: Tensor | None,
    bias_v: Tensor | None,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Tensor,
    out_proj_bias: Tensor | None,
    training: bool = True,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Tensor | None = None,
    k_proj_weight: Tensor | None = None,
    v_proj_weight: Tensor | None = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """`F.multi_head_attention_forward`, with its arguments, where sizes are free."""
    batched = query.dim() == 3
    if not batched:
        query, key, value = (x.unsqueeze(1) for x in (query, key, value))
        key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
    query, key, value = (x.transpose(0, 1) for x in (query, key, value))
    separate = None
    if use_separate_proj_weight:
        assert q_proj_weight is not None and k_proj_weight is not None and v_proj_weight is not None
        separate = q_proj_weight, k_proj_weight, v_proj_weight
    projected = _projected(query, key, value, separate, in_proj_weight, in_proj_bias)
    out, weights = _attended(
        projected,
        _mask(attn_mask, key_padding_mask, projected[0]),
        heads=num_heads,
        head_dim=int(embed_dim_to_check) // num_heads,
        more=None if bias_k is None or bias_v is None else (bias_k, bias_v),
        add_zero=add_zero_attn,
        dropout=dropout_p if training else 0.0,
        need_weights=need_weights,
        average=average_attn_weights,
    )
    out = F.linear(out, out_proj_weight, out_proj_bias).transpose(0, 1)
    if not batched:
        out, weights = out.squeeze(1), None if weights is None else weights.squeeze(0)
    return out, weights


def _projected(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    separate: tuple[Tensor, Tensor, Tensor] | None,
    together: Tensor | None,
    bias: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values by their own weights, or by one weight that holds the three."""
    if separate is None:
        assert together is not None
        if query is key and key is value:
            q, k, v = F.linear(query, together, bias).chunk(3, dim=-1)
            return q, k, v
        first, second, third = together.chunk(3)
        separate = first, second, third
    biases = (None, None, None) if bias is None else bias.chunk(3)
    q, k, v = (F.linear(x, w, b) for x, w, b in zip((query, key, value), separate, biases, strict=True))
    return q, k, v


def _attended(
    projected: tuple[Tensor, Tensor, Tensor],
    mask: Tensor | None,
    *,
    heads: int,
    head_dim: int,
    more: tuple[Tensor, Tensor] | None,
    add_zero: bool,
    dropout: float,
    need_weights: bool,
    average: bool,
) -> tuple[Tensor, Tensor | None]:
    """What the heads see, side by side, and the weights of each, or their average. `more` is a key and a value beside those given."""
    q, k, v = projected
    batch, scale = q.shape[0], 1.0 / math.sqrt(head_dim)
    if more is not None:
        k = torch.cat([k, more[0].expand(batch, -1, -1)], dim=1)
        v = torch.cat([v, more[1].expand(batch, -1, -1)], dim=1)
        mask = None if mask is None else F.pad(mask, (0, 1))
    q, k, v = (x.reshape(batch, x.shape[1], heads, head_dim).transpose(1, 2) for x in (q, k, v))
    if add_zero:
        k = torch.cat([k, torch.zeros_like(k[:, :, :1])], dim=2)
        v = torch.cat([v, torch.zeros_like(v[:, :, :1])], dim=2)
        mask = None if mask is None else F.pad(mask, (0, 1))
    weights = None
    if need_weights:
        scores = (q * scale) @ k.transpose(-2, -1)
        weights = F.dropout(torch.softmax(scores if mask is None else scores + mask, dim=-1), dropout, dropout > 0)
        out = weights @ v
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale)
    return out.transpose(1, 2).flatten(2), weights.mean(dim=1) if weights is not None and average else weights


def _mask(attn_mask: Tensor | None, padding: Tensor | None, q: Tensor) -> Tensor | None:
    def additive(mask: Tensor) -> Tensor:
        return torch.zeros_like(mask, dtype=q.dtype).masked_fill(mask, -math.inf) if mask.dtype == torch.bool else mask

    mask = None
    if attn_mask is not None:
        mask = additive(attn_mask)
        if mask.dim() == 3:
            mask = mask.unflatten(0, (q.shape[0], -1))
    if padding is not None:
        padding = additive(padding)[:, None, None, :]
        mask = padding if mask is None else mask + padding
    return mask


def replace_attention(module: nn.Module) -> nn.Module:
    """Every nn.MultiheadAttention in a structural copy becomes a FreeAttention that holds the same tensors."""
    made: dict[int, FreeAttention] = {}

    def replacement(old: nn.Module) -> nn.Module:
        if type(old) is not nn.MultiheadAttention:
            return old
        if id(old) not in made:
            made[id(old)] = FreeAttention(old)
        return made[id(old)]

    for parent in all_modules(module):
        for name, child in list(parent._modules.items()):
            if child is not None:
                parent._modules[name] = replacement(child)
    return replacement(module)


def restore_attention(module: nn.Module) -> nn.Module:
    """The inverse of `replace_attention`, for attention whose sizes nn.MultiheadAttention can express."""

    def restored(new: nn.Module) -> nn.Module:
        if not isinstance(new, FreeAttention):
            return new
        width = new.out_proj.weight.shape[0]
        inner = new.out_proj.weight.shape[1]
        if width != new.embed_dim or inner != new.embed_dim:
            raise PlanError(
                f"nn.MultiheadAttention wants embed_dim == heads x head_dim, but the pruned attention has width {width} and "
                f"{inner} inner dimensions; use network.module, which is free of that"
            )
        old = nn.MultiheadAttention.__new__(nn.MultiheadAttention)
        nn.Module.__init__(old)
        old.__dict__.update({k: v for k, v in new.__dict__.items() if k != "has_bias_kv"})
        if not new.has_bias_kv:
            old.bias_k = old.bias_v = None
        old.kdim = new.k_proj_weight.shape[1] if not new._qkv_same_embed_dim else width
        old.vdim = new.v_proj_weight.shape[1] if not new._qkv_same_embed_dim else width
        return old

    for parent in all_modules(module):
        for name, child in list(parent._modules.items()):
            if child is not None:
                parent._modules[name] = restored(child)
    return restored(module)

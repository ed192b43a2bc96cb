"""`F.multi_head_attention_forward`, as CLIP's attention pooling calls it: traced through, with free sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsparse


class Attending(nn.Module):
    def __init__(self, separate: bool, more: bool, options: dict[str, Any]) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.q, self.k, self.v, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.together = nn.Parameter(torch.randn(48, 16) / 4)
        self.more = nn.ParameterList([torch.randn(1, 1, 16), torch.randn(1, 1, 16)] if more else [])
        self.separate, self.options = separate, {k: v for k, v in options.items() if not isinstance(v, Tensor)}
        for name, value in options.items():
            if isinstance(value, Tensor):
                self.register_buffer(name, value)

    def forward(self, x: Tensor, y: Tensor) -> Any:
        x, y = self.embed(x), self.embed(y)
        biases = torch.cat([self.q.bias, self.k.bias, self.v.bias])
        given: dict[str, Any] = {**self.options, **dict(self.named_buffers(recurse=False)), "use_separate_proj_weight": self.separate}
        if self.separate:
            given |= {"q_proj_weight": self.q.weight, "k_proj_weight": self.k.weight, "v_proj_weight": self.v.weight}
        bias_k, bias_v = tuple(self.more) or (None, None)
        zero, together = given.pop("zero", False), None if self.separate else self.together
        heads: Any = (x.shape[-1], 4, together, biases, bias_k, bias_v, zero, 0.1, self.out.weight, self.out.bias, self.training)
        return F.multi_head_attention_forward(x, y, y, *heads, **given)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "zero": {"zero": True},
    "no weights": {"need_weights": False},
    "weights of heads": {"average_attn_weights": False},
    "a mask": {"attn_mask": torch.ones(5, 7).triu(1).bool()},
    "a mask of each head": {"attn_mask": torch.randn(8, 5, 7)},
    "padding": {"key_padding_mask": torch.tensor([[False] * 7, [False] * 4 + [True] * 3])},
}


def outputs_of(result: Any) -> list[Tensor]:
    return [each for each in result if each is not None]


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize(("separate", "more"), [(True, False), (False, False), (True, True)])
def test_the_same_values_and_free_sizes(name: str, separate: bool, more: bool) -> None:
    torch.manual_seed(0)
    model = Attending(separate, more, OPTIONS[name]).double().eval()
    x, y = torch.randn(5, 2, 6, dtype=torch.float64), torch.randn(7, 2, 6, dtype=torch.float64)
    network = fxsparse.trace(model, (x, y))
    assert network.origin.islands == ("",)
    for ours, theirs in zip(outputs_of(network.module(x, y)), outputs_of(model(x, y)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    prunable = [group for group in network.groups if group.prunable]
    assert "head_dim" in {group.kind for group in prunable}
    small = network.shrink({group.name: list(group.units)[::2] for group in prunable})
    proof = fxsparse.verify(network, small)
    assert proof.max_error < 1e-9 < proof.effect


def test_one_sequence_without_a_batch() -> None:
    torch.manual_seed(0)
    model = Attending(True, False, {}).eval()
    x, y = torch.randn(5, 6), torch.randn(7, 6)
    network = fxsparse.trace(model, (x, y))
    for ours, theirs in zip(outputs_of(network.module(x, y)), outputs_of(model(x, y)), strict=True):
        torch.testing.assert_close(ours, theirs)

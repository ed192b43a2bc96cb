"""What users call between layers: whatever writes a size, an index or a count follows every change of width, down to a single unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsparse

Function = Callable[[Tensor, Tensor, Tensor], Any]  # two feature maps of 12 channels, 4 x 4, and a weight of 12


class Between(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        self.a, self.b = nn.Conv2d(3, 12, 1), nn.Conv2d(3, 12, 1)
        self.weight = nn.Parameter(torch.rand(12))
        self.head = nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.function(self.a(x), self.b(x), self.weight).flatten(1))


def _assigned(y: Tensor, index: Any, value: Any) -> Tensor:
    made = y.clone()
    made[index] = value
    return made


ALL = slice(None)
FUNCTIONS: dict[str, Function] = {
    "batch_norm": lambda y, z, w: F.batch_norm(y, None, None, w, None, training=True),
    "broadcast_tensors": lambda y, z, w: torch.broadcast_tensors(y, z[:, :, :1, :1])[1] + y,
    "broadcast_to": lambda y, z, w: torch.broadcast_to(w[None, :, None, None], (y.shape[0], 12, 4, 4)) + y,
    "channel_shuffle": lambda y, z, w: F.channel_shuffle(y, 3),
    "chunk, by name": lambda y, z, w: torch.cat(torch.chunk(y, chunks=2, dim=-3)[::-1], 1),
    "convolution of the parameter": lambda y, z, w: F.conv2d(y, w[:, None, None, None], groups=12),
    "cosine_similarity": lambda y, z, w: y * F.cosine_similarity(y, z, dim=1).unsqueeze(1),
    "count of channels": lambda y, z, w: y / torch.tensor(y.shape[1]) * y.size(1) ** -0.5,
    "dsplit": lambda y, z, w: torch.cat(torch.dsplit(y.transpose(1, 2), [5])[::-1], 2),
    "expand": lambda y, z, w: w[:, None, None].expand(12, 4, 4) * y,
    "full, by name": lambda y, z, w: torch.full(size=(12, 1, 1), fill_value=2.0) * y,
    "glu": lambda y, z, w: torch.cat([F.glu(y, 1), F.glu(z, 1)], 1),
    "group_norm": lambda y, z, w: F.group_norm(y, num_groups=4, weight=w),
    "hsplit": lambda y, z, w: torch.cat(torch.hsplit(y, 2)[::-1], 1),
    "index, negative": lambda y, z, w: y * y[:, -2][:, None],
    "layer_norm": lambda y, z, w: F.layer_norm(y.transpose(1, 3), normalized_shape=[12], weight=w),
    "local_response_norm": lambda y, z, w: F.local_response_norm(y, 3),
    "loop over groups": lambda y, z, w: torch.cat([y[:, i * 4 : (i + 1) * 4] for i in range(3)][::-1], 1),
    "maxout": lambda y, z, w: y.view(y.shape[0], 6, 2, 4, 4).max(2)[0],
    "narrow, by name": lambda y, z, w: torch.cat([torch.narrow(y, dim=1, start=6, length=6), y.narrow(1, 0, 6)], 1),
    "new_full": lambda y, z, w: y.new_full((y.size(0), 12, 1, 1), 2.0) * y,
    "outer product": lambda y, z, w: torch.einsum("bi,bj->bij", y.mean((2, 3)), z.mean((2, 3))),
    "pad, by name": lambda y, z, w: F.pad(input=y[:, :8], pad=[0, 0, 0, 0, 2, 2], value=1.0),
    "pixel_shuffle": lambda y, z, w: F.pixel_shuffle(y, 2),
    "prelu": lambda y, z, w: F.prelu(y, w),
    "repeat_interleave": lambda y, z, w: torch.repeat_interleave(y[:, :6], repeats=2, dim=1),
    "repeat_interleave of a known size": lambda y, z, w: y[:, :6].repeat_interleave(2, dim=1, output_size=12),
    "rms_norm": lambda y, z, w: F.rms_norm(y.transpose(1, 3), (12,), w),
    "scaled_dot_product_attention, by name": lambda y, z, w: F.scaled_dot_product_attention(
        query=y.flatten(2).mT, key=z.flatten(2).mT, value=y.flatten(2).mT
    ),
    "select": lambda y, z, w: y * y.select(1, 7).unsqueeze(1),
    "slice, assigned": lambda y, z, w: _assigned(y, (ALL, slice(0, 6)), z[:, :6]),
    "slice, from the end": lambda y, z, w: torch.cat([y[:, -5:], y[:, :-5]], 1),
    "split, by name": lambda y, z, w: torch.cat(torch.split(y, split_size_or_sections=[5, 7], dim=1)[::-1], 1),
    "squeeze": lambda y, z, w: y.mean((2, 3), keepdim=True).squeeze(),
    "squeeze, no axis of one": lambda y, z, w: y.squeeze(1),
    "squeeze, several axes": lambda y, z, w: y.mean((2, 3), keepdim=True).squeeze((1, 2, 3)),
    "tensor_split": lambda y, z, w: torch.cat(torch.tensor_split(y, 5, dim=1)[::-1], 1),
    "tensor_split, indices": lambda y, z, w: torch.cat(y.tensor_split([3, 7], 1)[::-1], 1),
    "tile, by name": lambda y, z, w: torch.tile(y[:, :6], dims=(2, 1, 1)),
    "unflatten": lambda y, z, w: y.unflatten(1, (-1, 4)).transpose(1, 2).flatten(1, 2),
    "unflatten, by name": lambda y, z, w: torch.unflatten(input=y, dim=1, sizes=(3, 4)).transpose(1, 2).flatten(start_dim=1, end_dim=2),
    "unfold": lambda y, z, w: F.unfold(y, 3, padding=1),
    "view of two axes": lambda y, z, w: y.view(-1, 4, 4).relu().view(-1, 12, 4, 4),
    "vsplit": lambda y, z, w: torch.cat(torch.vsplit(y.transpose(0, 1), [5])[::-1], 0).transpose(0, 1),
}


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_every_width_down_to_one(name: str) -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 4, 4)
    model = Between(FUNCTIONS[name]).eval()
    model(x)
    network = fxsparse.trace(model, x)
    assert network.origin.islands == ("",) and not network.origin.structure.reading.unknown
    groups = [group for group in network.groups if group.prunable and len(group.units) > 1]
    assert groups
    plans: list[dict[str, Sequence[int]]] = [
        {group.name: group.units[:1] for group in groups},
        {group.name: group.units[1:] for group in groups},
    ]
    plans += [{group.name: [group.units[len(group.units) // 2]]} for group in groups]
    for plan in plans:
        small = network.shrink(plan)
        assert fxsparse.verify(network, small).max_error <= 1e-9
        assert small.module(torch.rand(5, 3, 4, 4)).shape == (5, 4)

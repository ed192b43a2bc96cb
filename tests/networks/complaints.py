"""Small networks for what users of other pruning tools complain about; the numbers are Torch-Pruning's issues.

Where several issues make one complaint, each of its networks carries all of their numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tests.networks.blocks import attention
from tests.networks.complaint_images import (
    BroadcastGate,
    ChannelsLastFlattenLinear,
    ConcatenatedWithItself,
    CrossStage,
    DepthwiseMultiplier,
    FlattenLinear,
    GroupedConvolution,
    NamedTensors,
    PixelShuffle,
    RawParameter,
    ResidualStream,
    SharedHead,
    ShuffleUnits,
    SplitAndSlice,
    SqueezeExcite,
    UnbalancedGroups,
    UnflattenGroups,
    ViewShuffle,
    WindowedAttention,
)
from tests.networks.complaint_sequences import (
    AttentionBlock,
    Einsum,
    EinsumHeads,
    MultiheadAttention,
    PackedAttention,
    Recurrent,
    TiedEmbedding,
    VisionTransformer,
)
from tests.networks.randomise import randomise


@dataclass(frozen=True)
class Complaint:
    """`build()` makes the network with random values, in eval mode; `example_inputs()` what it is called with."""

    name: str
    issue: str
    make: Callable[[], nn.Module]
    example_inputs: Callable[[], tuple[Tensor, ...]]

    def build(self, seed: int = 0) -> nn.Module:
        return randomise(self.make(), seed)


def images() -> tuple[Tensor, ...]:
    return (torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)


def sequences() -> tuple[Tensor, ...]:
    return (torch.randn(2, 6, 12, generator=torch.Generator().manual_seed(0)),)


def words() -> tuple[Tensor, ...]:
    return (torch.randint(0, 11, (2, 6), generator=torch.Generator().manual_seed(0)),)


RESHAPE = "#14 #125 #219 #258 #287 #300 #340 #349 #393"
PARTS = "#415 #481"
UNTOUCHED = "#80 #136 #178 #463"
BUDGET = "#204 #417 #479 #492"
CONTINUE = "#29 #148 #428 #436"
MEASURED = "measured: wrong, or stopped with an error"

COMPLAINTS: tuple[Complaint, ...] = (
    Complaint("flatten, then Linear", RESHAPE, FlattenLinear, images),
    Complaint("NHWC flatten, then Linear", f"{RESHAPE}; {MEASURED}", ChannelsLastFlattenLinear, images),
    Complaint("channel shuffle by views", f"{RESHAPE}; {MEASURED}", ViewShuffle, images),
    Complaint("shuffle units", f"{RESHAPE}; {MEASURED}", ShuffleUnits, images),
    Complaint("groups by unflatten", RESHAPE, UnflattenGroups, images),
    Complaint("packed attention", RESHAPE, PackedAttention, sequences),
    Complaint("chunked attention", RESHAPE, lambda: AttentionBlock(attention.ChunkedAttention(12, 3)), sequences),
    Complaint("attention with a bias of the places", RESHAPE, lambda: AttentionBlock(attention.SeparateAttention(12, 3, 6)), sequences),
    Complaint("grouped queries", RESHAPE, lambda: AttentionBlock(attention.GroupedQueryAttention(12, 6, 2, "repeat")), sequences),
    Complaint("rotary embedding", RESHAPE, lambda: AttentionBlock(attention.NormedAttention(12, 3, 6)), sequences),
    Complaint("torch's multi-head attention", RESHAPE, MultiheadAttention, sequences),
    Complaint("vision transformer", RESHAPE, VisionTransformer, images),
    Complaint("windowed attention", f"{RESHAPE}; Swin times out", WindowedAttention, images),
    Complaint("cat with itself", "#146", ConcatenatedWithItself, images),
    Complaint("split and slice", PARTS, SplitAndSlice, images),
    Complaint("squeeze and excite", PARTS, SqueezeExcite, images),
    Complaint("one channel times 32", "#510", BroadcastGate, images),
    Complaint("C2f", "#147", CrossStage, images),
    Complaint("LSTM", "#44 #404", lambda: Recurrent(nn.LSTM), sequences),
    Complaint("GRU", "#44 #404; nothing is pruned", lambda: Recurrent(nn.GRU), sequences),
    Complaint("pixel shuffle", "#98 #420", PixelShuffle, images),
    Complaint("feature pyramid with a shared head", "#211", SharedHead, images),
    Complaint("tied weights", MEASURED, TiedEmbedding, words),
    Complaint("einsum", f"{UNTOUCHED}; nothing is pruned", Einsum, sequences),
    Complaint("heads by einsum", f"{UNTOUCHED}; nothing is pruned", EinsumHeads, sequences),
    Complaint("raw parameter", UNTOUCHED, RawParameter, images),
    Complaint("grouped convolution and group norm", BUDGET, GroupedConvolution, images),
    Complaint("unbalanced groups", f"{BUDGET}; {MEASURED}", UnbalancedGroups, images),
    Complaint("depthwise multiplier", BUDGET, DepthwiseMultiplier, images),
    Complaint("residual stream", "#120 #140 #176", ResidualStream, images),
    Complaint("keys of the state dict", CONTINUE, NamedTensors, images),
)

"""Several processes train one model: what sparse training asks of torch.distributed.

Masks are never sent. They are equal on all ranks because what decides on them is: weights that DistributedDataParallel keeps equal,
gradients that it has averaged (of the dense tensors, masked weights included), and random numbers from seeds. After each change of the
masks, eight bytes a rank show whether that holds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fxsparse.errors import Error


def world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def fingerprint(masks: Mapping[str, Tensor]) -> Tensor:
    """One 64-bit number that differs, for all practical purposes, when any mask differs."""
    total = torch.zeros((), dtype=torch.int64)
    for index, mask in enumerate(masks.values()):
        places = mask.flatten().nonzero().squeeze(1) + 1
        mixed = places * 0x9E3779B97F4A7C1 + index * 0x5851F42D4C957F2
        total = total * 31 + (mixed ^ (mixed >> 29)).sum().cpu()  # int64 wraps around
    return total


def require_agreement(masks: Mapping[str, Tensor]) -> None:
    """An error on every rank when the masks of the ranks differ."""
    if world_size() == 1:
        return
    device = next(iter(masks.values())).device if dist.get_backend() == "nccl" else torch.device("cpu")
    mine = fingerprint(masks).to(device)
    all_prints = [torch.zeros_like(mine) for _ in range(world_size())]
    dist.all_gather(all_prints, mine)
    odd = [number for number, other in enumerate(all_prints) if int(other) != int(all_prints[0])]
    if odd:
        raise Error(
            f"the masks of rank {odd[0]} differ from those of rank 0; give every rank the same seed, and wrap the model in "
            "DistributedDataParallel before the sparsifier is made, so that weights and gradients are equal"
        )


def of_first(find: Callable[[], Any]) -> Any:
    """What rank 0 finds, on all ranks: plain values, sent as JSON. Where it raises an error of ours, all do."""
    if world_size() == 1:
        return find()
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    text = b""
    if rank() == 0:
        try:
            text = json.dumps({"found": find()}).encode()
        except Error as error:
            text = json.dumps({"error": str(error)}).encode()
    size = torch.tensor(len(text), device=device)
    dist.broadcast(size, 0)
    sent = torch.tensor(list(text) or [0] * int(size), dtype=torch.uint8, device=device)
    dist.broadcast(sent, 0)
    content = json.loads(bytes(sent.tolist()))
    if "error" in content:
        raise Error(content["error"])
    return content["found"]


def require_whole(name: str, parameter: nn.Parameter) -> None:
    """An error for parameters of which this process holds a part only."""
    kind = type(parameter).__name__
    if kind in ("DTensor", "FlatParameter") or hasattr(parameter, "device_mesh") or "_fsdp_wrapped_module" in name or "_flat_param" in name:
        raise Error(
            f"{name} is sharded ({kind}), and a mask needs the whole tensor; use DistributedDataParallel, or leave it out with exclude"
        )

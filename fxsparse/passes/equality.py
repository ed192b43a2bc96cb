"""The check of passes that change what a network is made of, and not what it computes: both run in float64, on their own weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from fxsparse.errors import PassError, VerificationError
from fxsparse.network import Network
from fxsparse.surgery.reference import InDouble, run_in_double
from fxsparse.tracing.copies import double_copy

# How far outputs may be apart, relative to the largest: weights that were changed are rounded to their own type.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 5e-2, torch.bfloat16: 2e-1}


def difference(before: Network, after: Network, seed: int = 0) -> float:
    """The largest difference of two networks' outputs in eval mode, relative to the largest output."""
    args, kwargs = _inputs(before, seed)
    worst, scale = 0.0, 0.0
    for a, b in zip(_outputs(before.module, args, kwargs), _outputs(after.module, args, kwargs), strict=True):
        if a.shape != b.shape:
            raise VerificationError(f"an output has the shape {tuple(b.shape)}, and had {tuple(a.shape)}")
        if a.numel() and not a.is_complex():
            finite = a.isfinite()
            if not bool((finite == b.isfinite()).all()):
                return float("inf")
            scale = max(scale, float(a[finite].abs().amax()) if bool(finite.any()) else 0.0)
            worst = max(worst, float((a - b)[finite].abs().amax()) if bool(finite.any()) else 0.0)
    return worst / scale if scale else worst


def require_same_function(name: str, before: Network, after: Network) -> None:
    """Raise where the pass `name` changed what the network computes on its example inputs. Networks without values, and those of which only
    parts could be traced, whose outputs may follow from the last bit of a number, are not run."""
    types = {p.dtype for p in before.module.parameters() if p.is_floating_point()}
    if before.origin.islands != ("",) or any(t.is_meta for t in before.tensors().values()):
        return
    tolerance = max((TOLERANCES.get(each, 1e-1) for each in types), default=1e-9)
    found = difference(before, after)
    if not found <= tolerance:
        raise VerificationError(
            f"{name} changed the network's outputs by {found:.1e} of the largest, more than {tolerance:.0e}; this is an error in the pass"
        )


def require_values(name: str, network: Network) -> None:
    """Raise where the network has shapes and no weights, as on the meta device."""
    empty = next((key for key, tensor in network.tensors().items() if tensor.is_meta), None)
    if empty is not None:
        raise PassError(f"{name} looks at weights, and {empty} has no values (it is on the meta device); load the weights first")


def _inputs(network: Network, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)

    def real(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor.cpu()
        if tensor.is_meta or (tensor.numel() > 1 and bool((tensor == tensor.reshape(-1)[0]).all())):  # zeros or ones would hide errors
            return torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
        return tensor.cpu().double()

    return tree_map_only(Tensor, real, network.origin.inputs)


def _outputs(module: nn.Module, args: Any, kwargs: Any) -> list[Tensor]:
    twin = double_copy(module).eval()
    state = {**dict(twin.named_parameters(remove_duplicate=False)), **dict(twin.named_buffers(remove_duplicate=False))}
    return [t.double() if not t.is_complex() else t for t in run_in_double(twin, state, args, kwargs, InDouble())[0]]

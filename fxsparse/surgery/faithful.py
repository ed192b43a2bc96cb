"""Whether a traced network does what the user's own model does, on real values. `verify` compares two networks of one trace: what tracing
itself had got wrong would be the same in both."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from fxsparse.errors import TraceError
from fxsparse.tracing.outputs import output_tensors

# How far outputs may be apart, relative to the largest: attention is computed by other kernels.
TOLERANCES = {torch.float64: 1e-9, torch.float32: 1e-3, torch.float16: 5e-2, torch.bfloat16: 2e-1}


def require_faithful(model: nn.Module, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Run both in eval mode on the inputs, and on twice as many where both take them: a traced module may refuse inputs of other sizes, but
    it may not give anything else than the model."""
    empty = next((key for key, each in model.state_dict().items() if isinstance(each, Tensor) and each.is_meta), None)
    if empty is not None or any(leaf.is_meta for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor)):
        raise TraceError(f"check=True runs the model, and {empty or 'an input'} has no values (it is on the meta device); leave check away")
    _compare(model, args, kwargs, _outputs(model, args, kwargs), _outputs(module, args, kwargs), "")
    more = _doubled(args, kwargs)
    try:
        theirs, ours = _outputs(model, *more), _outputs(module, *more)
    except Exception:  # of the model's own, or a refusal
        return
    _compare(model, *more, theirs, ours, "for twice as many inputs ")


def _outputs(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Tensor]:
    args, given = tree_map_only(Tensor, lambda t: t.detach().clone(), (args, dict(kwargs)))
    devices = {parameter.device for parameter in module.parameters() if parameter.device.type == "cuda"}
    with _as_it_was(module), torch.no_grad(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        return [tensor.detach() for tensor in output_tensors(module.eval()(*args, **given))]


@contextlib.contextmanager
def _as_it_was(module: nn.Module) -> Iterator[None]:
    """Modes, attributes and buffers are what they were, afterwards: what a model remembers of its last image is no business of a check."""
    attributes = [(each, dict(vars(each))) for each in module.modules()]
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        yield
    finally:
        for each, own in attributes:
            vars(each).clear()
            vars(each).update(own)
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                if name in buffers and buffer.shape == buffers[name].shape:
                    buffer.copy_(buffers[name])


def _compare(
    model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], theirs: list[Tensor], ours: list[Tensor], when: str
) -> None:
    found = _difference(theirs, ours)
    if found is None or _difference(theirs, _outputs(model, args, kwargs)) is not None:  # a model that differs from itself says nothing
        return
    raise TraceError(
        f"the traced {type(model).__name__} gives other outputs than the model {when}({found}): its code does something that tracing lost; "
        "look for what depends on values, on the device, or on earlier calls, and please report it"
    )


def _difference(theirs: list[Tensor], ours: list[Tensor]) -> str | None:
    """What differs, in a few words."""
    if len(theirs) != len(ours):
        return f"{len(ours)} tensors in the place of {len(theirs)}"
    for index, (a, b) in enumerate(zip(theirs, ours, strict=True)):
        if a.shape != b.shape or a.dtype != b.dtype:
            return f"output {index} is {b.dtype} {tuple(b.shape)} in the place of {a.dtype} {tuple(a.shape)}"
        tolerance = TOLERANCES.get(a.dtype, 1e-3 if a.is_complex() else 0.0)
        both = a.isfinite() & b.isfinite()
        if not torch.equal(a.isfinite(), b.isfinite()):
            return f"output {index} is not finite where the model's is, or the other way round"
        if bool(both.any()):
            wide = torch.complex128 if a.is_complex() else torch.float64
            x, y = a[both].to(wide), b[both].to(wide)
            off, scale = float((x - y).abs().max()), float(x.abs().max())
            if off > tolerance * scale:
                return (
                    f"output {index} is off by {off / scale:.1e} of its largest value" if scale else f"output {index} is off by {off:.1e}"
                )
    return None


def _doubled(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, Any]:
    """Every tensor that is as long as the first one, twice: a larger batch, as far as one can tell."""
    first = next((leaf for leaf in tree_leaves((args, dict(kwargs))) if isinstance(leaf, Tensor) and leaf.dim()), None)

    def twice(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor]) if first is not None and tensor.dim() and len(tensor) == len(first) else tensor

    made: tuple[Any, Any] = tree_map_only(Tensor, twice, (args, dict(kwargs)))
    return made

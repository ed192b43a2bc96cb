"""Back to the user's own class, where only tensors and attributes had to change."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from torch import nn

from fxsparse.errors import PlanError, TraceError
from fxsparse.surgery.expectation import Expectation, difference
from fxsparse.tracing.attributes import release
from fxsparse.tracing.copies import meta_copy, shared_copy
from fxsparse.tracing.modes import both_modes, exporting
from fxsparse.tracing.recording import record
from fxsparse.tracing.replacements import FreeAttention, restore_attention
from fxsparse.tracing.traced_module import TracedModule, as_plain

if TYPE_CHECKING:
    from fxsparse.network import Network


def as_original(network: Network) -> nn.Module:
    """The result shares its tensors with the network's module."""
    module = shared_copy(network.module)
    for each in list(module.modules()):
        if isinstance(each, TracedModule):
            as_plain(each)
            release(each)
            release(each, prefix="_gather_")
    module = restore_attention(module)
    _check(network, module)
    return module


def _check(network: Network, module: nn.Module) -> None:
    """Run the class's own code on meta and compare it with what the algebra predicts."""
    reading = network.origin.structure.reading.tapes[0]
    args, kwargs = network.origin.inputs
    where = "a size is written in its source, so that the traced module must be used (network.module)"
    try:
        tape = record(meta_copy(module), args, kwargs, "eval")
    except TraceError as error:
        raise PlanError(f"{type(module).__name__} cannot run at the new widths: {where}: {error}") from error
    if any(isinstance(m, FreeAttention) for m in network.module.modules()):
        same = [tape.shape(ref) for ref in tape.outputs] == [network.prediction.shape(reading.axes[ref.id]) for ref in reading.tape.outputs]
        if not same:
            raise PlanError(f"{type(module).__name__} gives outputs of other shapes at the new widths: {where}")
        return
    ragged, _ = network.prediction.gathers(0)
    expectation = Expectation(reading, network.prediction, ragged)
    expected = [expectation.expected(p) for p in range(len(reading.tape.calls))]
    wrong = difference(tape, tape.calls, expected)
    if wrong is not None and network.origin.islands == ("",):  # as a graph it may do it: some functions are traced by way of others
        with contextlib.suppress(TraceError):
            _, (traced, *_), _ = both_modes(module, args, kwargs, "", exporting, train=False)
            wrong = wrong if difference(traced, traced.calls, expected) is not None else None
    if wrong is not None:
        owner = next(
            (c.owner.module for c, each in zip(tape.calls, expected, strict=False) if difference(tape, [c], [each]) is not None),
            "",
        )
        raise PlanError(f"{type(module).__name__} does something else at the new widths, in {owner or 'its forward'!r}: {wrong}; {where}")

"""The graphs and tapes of one module: of eval mode, and of train mode where its code asks which one it is."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from fxsparse.errors import TraceError
from fxsparse.tracing.copies import meta_copy
from fxsparse.tracing.recorder import ALONE
from fxsparse.tracing.tape import Mode, Tape
from fxsparse.tracing.traced_module import TracedGraph
from fxsparse.tracing.tracer import trace_graph
from fxsparse.tracing.whole import Run, with_whole_numbers


@contextlib.contextmanager
def exporting() -> Iterator[None]:
    """While this is open, `torch.compiler.is_exporting()` says so, as under torch.export: code that looks at values for the sake of speed
    alone, as whether a mask masks anything, leaves it then."""
    before = torch.compiler._is_compiling_flag, torch.compiler._is_exporting_flag
    torch.compiler._is_compiling_flag = torch.compiler._is_exporting_flag = True
    try:
        yield
    finally:
        torch.compiler._is_compiling_flag, torch.compiler._is_exporting_flag = before


EVAL_ALONE = "the network was traced for eval mode alone; to train it, trace it without train=False"


def both_modes(
    module: nn.Module,
    args: Any,
    kwargs: Mapping[str, Any],
    prefix: str,
    again: Callable[[], AbstractContextManager[None]] | None = None,
    *,
    train: bool = True,
) -> tuple[dict[Mode, TracedGraph], tuple[Tape, ...], str]:
    """The eval graph, and the train graph where the code asks for its mode; each tried `again` in this context if it fails. Code that asks
    does not train without `train`."""

    device = next(
        (
            t.device.type
            for t in itertools.chain(module.parameters(), module.buffers(), tree_leaves((args, dict(kwargs))))
            if isinstance(t, torch.Tensor)
        ),
        "cpu",
    )

    def graph_of(mode: Mode) -> Run:
        def run(follow: Iterable[dict[str, Any]]) -> Run:
            return trace_graph(meta_copy(module), args, kwargs, mode, prefix, device, follow)

        try:
            return with_whole_numbers(run, bool(prefix))
        except TraceError:
            if again is None:
                raise
        with ALONE, again():  # what still stands in the way is what there is to say
            return with_whole_numbers(run, bool(prefix))

    evaluated = graph_of("eval")
    graphs: dict[Mode, TracedGraph] = {"eval": evaluated.graph}
    tapes = [evaluated.tape]
    train_error = ""
    if evaluated.asked and not train:
        train_error = EVAL_ALONE
    elif evaluated.asked:
        try:
            trained = graph_of("train")
            graphs["train"] = trained.graph
            tapes.append(trained.tape)
        except TraceError as error:
            train_error = f"the train mode of {type(module).__name__} could not be traced: {error}"
    return graphs, tuple(tapes), train_error

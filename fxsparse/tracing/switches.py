"""Modes of torch that a forward pass switches on and off, as nodes: `with torch.no_grad():`, `torch.enable_grad()`, `torch.autocast(...)`.

A network is recorded without gradients, so what a block goes back to when it ends is not what it will go back to when the network runs:
the node that opens a block returns what was there before, and the node that closes it takes that.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.amp.autocast_mode import _enter_autocast, _exit_autocast


def switch_gradients(enabled: bool) -> bool:
    """A node of the graph: a block begins; returns what it ends with."""
    before = torch.is_grad_enabled()
    torch._C._set_grad_enabled(enabled)
    return before


def restore_gradients(before: bool) -> None:
    """A node of the graph: a block ends."""
    torch._C._set_grad_enabled(before)


enter_autocast: Callable[..., Any] = _enter_autocast
exit_autocast: Callable[..., Any] = _exit_autocast
for _function in (switch_gradients, restore_gradients, enter_autocast, exit_autocast):
    torch.fx.node.has_side_effect(_function)


class Gradients:
    """Writes the switches of gradients into one graph."""

    def __init__(self, graph: torch.fx.Graph) -> None:
        self.graph = graph
        self.silent = False
        self.open: list[tuple[torch.fx.Node, Any]] = []  # the node that began a block, and the object that stands for the block

    def set(self, enabled: bool) -> None:
        """`torch._C._set_grad_enabled` was called; who called it says whether a block begins or ends."""
        if self.silent:
            return
        frame: Any = sys._getframe(1)
        while frame is not None and not (_is_mode(frame) or frame.f_code in (switch_gradients.__code__, restore_gradients.__code__)):
            frame = frame.f_back
        names: list[str] = []
        block: Any = None
        while frame is not None and (_is_mode(frame) or frame.f_code is restore_gradients.__code__):
            names.append(frame.f_code.co_name)
            block = frame.f_locals.get("self") if block is None else block
            frame = frame.f_back
        if names and names[-1] in ("__exit__", "restore_gradients", "__call__"):  # a decorator undoes what making it did
            if self.open:
                self.graph.call_function(restore_gradients, (self.open.pop()[0],))
        elif block is None or not self.open or self.open[-1][1] is not block:  # torch.set_grad_enabled switches when made, and again
            self.open.append((self.graph.call_function(switch_gradients, (enabled,)), block))

    @contextlib.contextmanager
    def muted(self) -> Iterator[None]:
        """While this is open, nothing is written."""
        before, self.silent = self.silent, True
        try:
            yield
        finally:
            self.silent = before


def _is_mode(frame: Any) -> bool:
    return bool(frame.f_globals.get("__name__") == "torch.autograd.grad_mode")


@contextlib.contextmanager
def autocasts(graph: torch.fx.Graph) -> Iterator[None]:
    """While this is open, blocks of autocast write where they begin and end. On meta tensors they do nothing."""
    enter: Callable[..., Any] = torch.autocast.__enter__
    leave: Callable[..., Any] = torch.autocast.__exit__
    opened: dict[int, torch.fx.Node] = {}

    @functools.wraps(enter)
    def entered(self: Any) -> Any:
        device, dtype, enabled, cache = self.device, self.fast_dtype, self._enabled, self._cache_enabled
        opened[id(self)] = graph.call_function(enter_autocast, (device, dtype, enabled, cache))
        return enter(self)

    @functools.wraps(leave)
    def left(self: Any, *error: Any) -> Any:
        node = opened.pop(id(self), None)
        if node is not None:
            graph.call_function(exit_autocast, (node,))
        return leave(self, *error)

    torch.autocast.__enter__, torch.autocast.__exit__ = entered, left  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.autocast.__enter__, torch.autocast.__exit__ = enter, leave  # type: ignore[method-assign]


def guarded(graph: torch.fx.Graph, function: Callable[..., Any]) -> Callable[..., Any]:
    """The graph's code; if it fails inside of a block, gradients are switched back."""
    if not any(node.target is switch_gradients for node in graph.nodes):
        return function

    def forward(*args: Any) -> Any:
        before = torch.is_grad_enabled()
        try:
            return function(*args)
        finally:
            torch._C._set_grad_enabled(before)

    return forward

"""The terminal, for commands: what is printed stands there as it is."""

from __future__ import annotations

from rich.console import Console


def plain(*, stderr: bool = False, soft_wrap: bool = True) -> Console:
    """A console that reads nothing into names and sentences: no markup in `a[0]`, no picture in `zoo:tiger`."""
    return Console(stderr=stderr, soft_wrap=soft_wrap, highlight=False, markup=False, emoji=False)

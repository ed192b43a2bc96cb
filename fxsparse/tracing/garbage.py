"""Python's cyclic garbage collector, put off while something large is built."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def collected_later() -> Iterator[None]:
    """Nodes, tapes and axes are hundreds of thousands of objects that stay: looking through all of them again and again for garbage took a
    third of the time of a large network."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()

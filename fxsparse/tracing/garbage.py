"""Python's cyclic garbage collector, put off while something large is built."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

_spared = -1  # how many full collections there had been when the collector was last spared a look


@contextlib.contextmanager
def collected_later() -> Iterator[None]:
    """Nodes, tapes and axes are hundreds of thousands of objects that stay: looking through all of them again and again for garbage took a
    third of the time of a large network, and once at the end still took a seventh. So they count as old at once, which they would after
    that look; but only once between two full collections, as the collector must learn how much there is to look through."""
    global _spared
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            full = gc.get_stats()[-1]["collections"]
            if full != _spared and gc.get_freeze_count() == 0:  # else what the user has frozen would thaw
                gc.freeze()
                gc.unfreeze()  # into the oldest generation
                _spared = full
            gc.enable()

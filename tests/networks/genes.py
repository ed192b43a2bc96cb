"""The numbers that decide how one operator is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Genes:
    """A finite list of bytes, read one per decision; where they end the first option is taken, so that shorter is simpler.

    An operator reads only its own genes: whoever removes or changes one step of a network leaves the decisions of the others alone.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def _next(self) -> int:
        value = self._data[self._position] if self._position < len(self._data) else 0
        self._position += 1
        return value

    def pick(self, *options: T) -> T:
        return options[self._next() % len(options)]

    def choose(self, options: Sequence[T]) -> T:
        return options[self._next() % len(options)]

    def flag(self) -> bool:
        return self._next() % 2 == 1

"""Operators that a random network may be made of; one file of `operators` is one family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.networks.body import Body

Write = Callable[[Body], None]


@dataclass(frozen=True)
class Operator:
    """Takes live tensors of a body, of any kind, and adds new ones."""

    name: str
    family: str
    write: Write
    weight: int  # how often it is drawn


class Family:
    def __init__(self, name: str) -> None:
        self.name = name
        self.operators: list[Operator] = []

    def operator(self, weight: int = 2) -> Callable[[Write], Write]:
        def add(write: Write) -> Write:
            self.operators.append(Operator(write.__name__, self.name, write, weight))
            return write

        return add

"""Amounts as people write them: 0.5 is a share of what there is now; 2500000, "2.5M" and "1.2G" are absolute."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from fxsparse.errors import BudgetError

COUNTS = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}
BYTES = {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9}
TIMES = {"": 1.0, "ms": 1.0, "us": 1e-3, "s": 1e3}
UNITS = {"latency": TIMES, "memory": {**COUNTS, **BYTES}}  # of what else is counted, COUNTS
EXAMPLES = {"latency": "3.2ms", "memory": "20MB"}


@dataclass(frozen=True, slots=True)
class Amount:
    """What is asked for.

    >>> Amount.parse("2.5M", "parameters").of(4e6)
    2500000.0
    >>> Amount.parse(0.5, "macs").of(4e6)
    2000000.0
    """

    value: float
    share: bool
    written: str

    @classmethod
    def parse(cls, value: float | int | str, what: str) -> Amount:
        if isinstance(value, str):
            found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([kKMGBmus]{0,2}|%)\s*", value)
            units = UNITS.get(what, COUNTS)
            if not found or (found[2] not in units and found[2] != "%"):
                example = EXAMPLES.get(what, "2.5M")
                raise BudgetError(f"{what}={value!r} is no amount; write a share such as 0.5 or 50%, or an amount such as {example}")
            number = float(found[1])
            if found[2] == "%":
                return cls(number / 100, True, value)._checked(what)
            share = not found[2] and "." in found[1] and number <= 1
            return cls(number * units[found[2]], share, value)._checked(what)
        return cls(float(value), isinstance(value, float) and value <= 1, str(value))._checked(what)

    def _checked(self, what: str) -> Amount:
        if not self.value > 0 or (self.share and self.value > 1):
            raise BudgetError(f"{what}={self.written} cannot be reached; a share lies above 0 and is at most 1.0, an amount is positive")
        if what != "latency" and not self.share and math.isfinite(self.value) and self.value < 1000 and self.value % 1:
            raise BudgetError(f"{what}={self.written} is neither a share, which is at most 1.0, nor a whole number")
        return self

    def of(self, now: float) -> float:
        """The amount in absolute numbers."""
        return self.value * now if self.share else self.value

"""Why a layer did not get as much faster as it got smaller: reasons that the profiles before and after bear out, as data and as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fxsparse.engines.profile import LayerTime
from fxsparse.errors import LoweringError

MISSED = 0.1  # a layer whose time fell this much less than its MACs is explained
FLOOR = 2.0  # a layer within this factor of the fastest ones takes what starting it costs


@dataclass(frozen=True)
class Explained:
    """One layer, before and after."""

    before: LayerTime
    after: LayerTime
    reasons: tuple[str, ...]

    @property
    def time_ratio(self) -> float:
        return self.after.milliseconds / max(self.before.milliseconds, 1e-9)

    @property
    def macs_ratio(self) -> float:
        return self.after.macs / self.before.macs

    def as_data(self) -> dict[str, Any]:
        return {
            "layer": self.after.name,
            "kind": self.after.kind,
            "before_ms": self.before.milliseconds,
            "after_ms": self.after.milliseconds,
            "time_ratio": self.time_ratio,
            "macs_ratio": self.macs_ratio,
            "widths": {"before": list(widths(self.before)), "after": list(widths(self.after))},
            "reasons": list(self.reasons),
        }

    def __str__(self) -> str:
        said = f"{self.after.name} ({self.after.kind}): time x{self.time_ratio:.2f}, MACs x{self.macs_ratio:.2f}"
        return said + ("; " + "; ".join(self.reasons) if self.reasons else "")


def explain(before: Sequence[LayerTime], after: Sequence[LayerTime], step: int = 8, masked: bool = False) -> tuple[Explained, ...]:
    """Pair the convolutions and products of two profiles, in the order of the exported file, and say why time did not follow MACs.

    `step` is the width that the engine likes (`align=auto` measures it); `masked` says that weights of the second network are masked.
    """
    first, second = (sorted((layer for layer in each if layer.macs), key=lambda layer: layer.place) for each in (before, after))
    if len(first) != len(second):
        raise LoweringError(
            f"the profiles have {len(first)} and {len(second)} convolutions and products, which cannot be paired; "
            "compare a network with what pruning made of it"
        )
    if not second:
        raise LoweringError("the profiles hold no convolution and no product, so there is nothing to explain")
    floor = FLOOR * float(np.percentile([layer.milliseconds for layer in after], 10))
    balance = _balance(after)
    return tuple(Explained(a, b, _reasons(a, b, step, masked, floor, balance)) for a, b in zip(first, second, strict=True))


def summary(explained: Sequence[Explained]) -> str:
    """The layers that were explained, the costliest first."""
    lines = [str(each) for each in sorted(explained, key=lambda each: -each.after.milliseconds) if each.reasons]
    return "\n".join(lines) if lines else "every layer got as much faster as it got smaller"


def widths(layer: LayerTime) -> tuple[int, int]:
    """Channels that a layer takes and makes."""
    if "Conv" not in layer.kind:
        return layer.inputs[0][-1], layer.outputs[0][-1]
    return layer.inputs[0][1], layer.outputs[0][1] if layer.weight is None else layer.weight[0]


def _reasons(before: LayerTime, after: LayerTime, step: int, masked: bool, floor: float, balance: float) -> tuple[str, ...]:
    made, smaller = after.milliseconds / max(before.milliseconds, 1e-9), after.macs / before.macs
    if smaller == 1.0:
        return ("no sparse kernel: its zeros are multiplied like other numbers",) if masked else ()
    if made <= smaller + MISSED:
        return ()
    reasons = []
    odd = [new for old, new in zip(widths(before), widths(after), strict=True) if new % step and not old % step]
    if odd:
        reasons.append(f"odd width: {' and '.join(map(str, odd))} {'is' if len(odd) == 1 else 'are'} no multiple of {step}")
    computed = after.outputs[0][1] if "Conv" in after.kind else widths(after)[1]
    if computed != widths(after)[1]:
        reasons.append(f"padded: {widths(after)[1]} channels are computed as {computed}")
    if after.milliseconds <= floor:
        reasons.append(f"launch-bound: {1e3 * after.milliseconds:.0f} us is about what the smallest layers take")
    elif after.macs / after.bytes < 0.99 * balance:
        reasons.append(
            f"memory-bound: {after.macs / after.bytes:.1f} MACs a byte, and this machine computes {balance:.1f} while it moves one"
        )
    return tuple(reasons) or ("unexplained: widths, size and traffic give no reason; another kernel was picked, or the run was noisy",)


def _balance(layers: Sequence[LayerTime]) -> float:
    """MACs that are computed in the time in which a byte is moved, by the best that this profile shows of both."""
    timed = [layer for layer in layers if layer.milliseconds > 0 and layer.bytes]
    computing = max((layer.macs / layer.milliseconds for layer in timed), default=0.0)
    moving = max((layer.bytes / layer.milliseconds for layer in timed), default=1.0)
    return computing / moving

"""Watchers of a pipeline: print what each pass did, time it, prove it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fxsparse.network import Network
from fxsparse.passes.base import Pass, PassResult
from fxsparse.surgery.verify import Proof, verify


@dataclass(frozen=True)
class PrintBetween:
    """After each pass: its text, its notes, and the size of the network."""

    write: Callable[[str], object] = print

    def __call__(self, each: Pass, before: Network, result: PassResult, seconds: float) -> None:
        after = result.network
        what = "" if result.modified else ", unchanged"
        self.write(f"{each}: {after.parameter_count:,} parameters, {after.macs:,} MACs{what}")
        for note in result.notes:
            self.write(f"  {note}")


@dataclass(frozen=True)
class Timing:
    """The seconds of each pass, in order."""

    seconds: list[tuple[str, float]] = field(default_factory=list)

    def __call__(self, each: Pass, before: Network, result: PassResult, seconds: float) -> None:
        self.seconds.append((str(each), seconds))


@dataclass(frozen=True)
class VerifyEach:
    """Prove each change of widths; passes that change what a network is made of hold their own checks."""

    proofs: list[tuple[str, Proof]] = field(default_factory=list)

    def __call__(self, each: Pass, before: Network, result: PassResult, seconds: float) -> None:
        after = result.network
        if not result.modified or before.origin is not after.origin:
            return
        wide, narrow = (before, after) if sum(map(len, before.living.values())) >= sum(map(len, after.living.values())) else (after, before)
        if before.living != after.living:
            self.proofs.append((str(each), verify(wide, narrow)))

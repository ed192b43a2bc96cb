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
    write: Callable[[str], object] | None = None

    def __call__(self, each: Pass, before: Network, result: PassResult, seconds: float) -> None:
        self.seconds.append((str(each), seconds))
        if self.write is not None:
            self.write(f"{each}: {seconds:.2f} s")


@dataclass(frozen=True)
class VerifyEach:
    """Prove the network after each pass that changed widths, or what the network is made of."""

    proofs: list[tuple[str, Proof]] = field(default_factory=list)
    write: Callable[[str], object] | None = None

    def __call__(self, each: Pass, before: Network, result: PassResult, seconds: float) -> None:
        if not result.modified:
            return
        proof = proved(before, result.network)
        if proof is not None:
            self.proofs.append((str(each), proof))
        if self.write is not None:
            self.write(f"{each}: {proof or 'no width has changed, nothing to prove'}")


def proved(before: Network, after: Network) -> Proof | None:
    """The proof of a change: of widths alone against the network before it; of an edit, or where units both went and came, against the
    changed network with all its units. None where no unit came or went. Raises where the proof fails."""
    if before.origin is after.origin:
        if before.living == after.living:
            return None
        if _within(after, before):
            return verify(before, after)
        if _within(before, after):
            return verify(after, before)
    whole = after.regrow(init="fresh")  # the proof draws its own values
    return verify(whole, after) if whole.living != after.living else None


def _within(narrow: Network, wide: Network) -> bool:
    return all(set(units) <= set(wide.living[name]) for name, units in narrow.living.items())

"""Rules as text: `(b, g·i, x!, y!), (g·o, i, k!, l!), (g·o) -> (b, g·o, u, v)`.

Each bracket is a tensor, each entry an axis. The same letter is the same axis everywhere. `g·i` is an axis that is a product.
`k!` may not lose a coordinate. `…` stands for any number of leading axes that broadcast. A letter that only the result has is free.
A letter that two operands share and the result lacks is contracted: the operator sums over it. The text is what runs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from fxsparse.axes.factors import Axis, size
from fxsparse.axes.site import Contraction, Site
from fxsparse.errors import RuleError
from fxsparse.tracing.tape import Ref

ELLIPSIS = "…"


@dataclass(frozen=True, slots=True)
class Entry:
    """One axis of a spec: its letters, outermost first."""

    letters: tuple[str, ...]
    frozen: bool = False

    def __str__(self) -> str:
        return "·".join(self.letters) + ("!" if self.frozen else "")


@dataclass(frozen=True, slots=True)
class Spec:
    operands: tuple[tuple[Entry, ...], ...]
    results: tuple[tuple[Entry, ...], ...]

    def __str__(self) -> str:
        def side(tensors: tuple[tuple[Entry, ...], ...]) -> str:
            return ", ".join(f"({', '.join(map(str, entries))})" for entries in tensors)

        return f"{side(self.operands)} -> {side(self.results)}"


@lru_cache
def parse(text: str) -> Spec:
    """Read a spec; a malformed one is a `RuleError` that shows it."""
    normal = text.replace("...", ELLIPSIS).replace("*", "·")
    left, arrow, right = normal.partition("->")
    tensor = r"\(([^()]*)\)"
    if not arrow or re.sub(tensor, "", normal).strip(" ,->"):
        raise RuleError(f"a rule reads like '(n, i), (i, o) -> (n, o)'; this one does not: {text!r}")

    def entries(body: str) -> tuple[Entry, ...]:
        names = [name.strip() for name in body.split(",") if name.strip()]
        for name in names:
            if not re.fullmatch(rf"{ELLIPSIS}|1|\w+(·\w+)*!?", name):
                raise RuleError(f"{name!r} is not an axis in the rule {text!r}; write letters, products like g·i, or …")
        return tuple(Entry(tuple(name.rstrip("!").split("·")), name.endswith("!")) for name in names)

    return Spec(tuple(entries(b) for b in re.findall(tensor, left)), tuple(entries(b) for b in re.findall(tensor, right)))


class Matcher:
    """Applies a spec to one call."""

    def __init__(self, site: Site, spec: Spec, sizes: Mapping[str, int]) -> None:
        self.site = site
        self.spec = spec
        self.sizes = dict(sizes)
        self.bound: dict[str, Axis] = {}
        self.broadcast: list[Axis] = []  # what … stands for, right-aligned
        self.uses: dict[str, list[bool]] = {}  # letter -> for each operand that has it, whether it is a weight

    def run(self, operands: Sequence[Ref | None]) -> None:
        if len(operands) > len(self.spec.operands):
            raise RuleError(f"{self.site.call.op} has {len(operands)} tensors, its rule {self.spec} speaks of {len(self.spec.operands)}")
        for ref, entries in zip(operands, self.spec.operands, strict=False):
            if ref is not None:
                self.operand(ref, entries)
        for index, entries in enumerate(self.spec.results):
            if index < len(self.site.call.results) and isinstance(self.site.call.results[index], Ref):
                self.site.give(self.result(entries, self.site.result_shape(index)), index)
        self.roles(operands)

    def operand(self, ref: Ref, entries: tuple[Entry, ...]) -> None:
        axes = self.site.axes(ref)
        if any(entry.letters == (ELLIPSIS,) for entry in entries):
            extra = len(axes) - len(entries) + 1
            position = next(i for i, entry in enumerate(entries) if entry.letters == (ELLIPSIS,))
            self.unify_broadcast(axes[position : position + extra])
            axes = axes[:position] + axes[position + extra :]
            entries = entries[:position] + entries[position + 1 :]
        if len(axes) != len(entries):
            raise RuleError(f"{self.site.call.op}: a tensor of {len(axes)} axes meets ({', '.join(map(str, entries))})")
        for axis, entry in zip(axes, entries, strict=True):
            if entry.frozen:
                self.site.freeze(axis, f"works along {'·'.join(entry.letters)}")
            for letter, part in zip(entry.letters, self.parts(axis, entry), strict=True):
                self.bind(letter, part)
                self.uses.setdefault(letter, []).append(self.site.is_weight(ref))

    def parts(self, axis: Axis, entry: Entry) -> list[Axis]:
        if len(entry.letters) == 1:
            return [axis]
        known = {letter: self.sizes[letter] for letter in entry.letters if letter in self.sizes}
        missing = [letter for letter in entry.letters if letter not in known]
        if len(missing) > 1:
            raise RuleError(f"{self.site.call.op}: the sizes of {' and '.join(missing)} in {entry} are not known")
        for letter in missing:
            known[letter] = size(axis) // math.prod(known.values())
        return self.site.algebra.reshape([axis], [known[letter] for letter in entry.letters])

    def bind(self, letter: str, axis: Axis) -> None:
        self.site.touch(axis)
        if letter == "1":
            return
        if letter in self.bound:
            self.site.algebra.unify(self.bound[letter], axis)
        else:
            self.bound[letter] = axis
            self.sizes.setdefault(letter, size(axis))

    def unify_broadcast(self, axes: Sequence[Axis]) -> None:
        self.broadcast = unify_aligned(self.site, self.broadcast, list(axes))

    def result(self, entries: tuple[Entry, ...], shape: Sequence[int]) -> list[Axis]:
        axes: list[Axis] = []
        for index, entry in enumerate(entries):
            if entry.letters == (ELLIPSIS,):
                axes.extend(self.broadcast)
                continue
            extent = shape[len(shape) - (len(entries) - index)]
            if len(entry.letters) == 1 and entry.letters[0] not in self.bound:
                axes.append(() if entry.letters[0] == "1" else self.site.free(extent, "makes this axis"))
            else:
                axes.append(tuple(factor for letter in entry.letters for factor in self.bound[letter]))
        return axes

    def roles(self, operands: Sequence[Ref | None]) -> None:
        made = {letter for entries in self.spec.results for entry in entries for letter in entry.letters}
        contracted = {letter for letter, uses in self.uses.items() if len(uses) > 1 and letter not in made}
        for letter in contracted:
            if sum(self.uses[letter]) != 1:
                self.site.meeting(self.bound[letter])
        # Where weights are multiplied with weights (low rank, spectral norm), the first holds the unit, and the second consumes it.
        held = {letter for letter in contracted if all(self.uses[letter])}
        for ref, entries in zip(operands, self.spec.operands, strict=False):
            if ref is None or not contracted or not self.site.is_weight(ref):
                continue
            for axis, entry in zip(self.site.axes(ref), entries, strict=False):
                if set(entry.letters) & held:
                    self.site.role(axis, "follows")
                    held -= set(entry.letters)
                elif set(entry.letters) & contracted:
                    self.site.role(axis, "consumes")
                    self.site.book.consumers.update(factor.uid for factor in axis)
                elif set(entry.letters) & made:
                    self.site.role(axis, "produces")


def unify_aligned(site: Site, known: list[Axis], axes: list[Axis]) -> list[Axis]:
    """Broadcasting: align to the right, unify axes of equal size, and let an axis of size one take the other's place."""
    longer, shorter = (known, axes) if len(known) >= len(axes) else (axes, known)
    result = list(longer)
    for back in range(1, len(shorter) + 1):
        a, b = longer[-back], shorter[-back]
        if size(a) == 1:
            result[-back] = b
        elif size(b) != 1:
            site.algebra.unify(a, b)
    site.touch(*result)
    return result


def apply_spec(site: Site, text: str, operands: Sequence[Ref | None], sizes: Mapping[str, int] | None = None) -> dict[str, Axis]:
    """Run a spec on these operands; returns what each letter stands for."""
    matcher = Matcher(site, parse(text), sizes or {})
    matcher.run(operands)
    return matcher.bound


def macs(site: Site, *axes: Axis) -> None:
    site.contractions.append(Contraction(axes))

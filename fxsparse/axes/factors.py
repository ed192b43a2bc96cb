"""Atoms, factors and axes: what an operator's rule may do to them.

An *atom* is one coordinate of an axis, a plain number. A *factor* is an array of at least two atoms. An *axis* is an ordered product
of factors (row-major); an axis of size one is the empty product, so that broadcasting and squeezing need no special case. A *free*
factor has a size but no atoms: batch, spatial positions, everything that is never removed. It carries the reason.

The algebra only collects facts: equalities, freezes, products. `fxsparse.axes.solve` draws the conclusions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Atoms = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """`size` coordinates. Without atoms it is free, and `reason` says why it may never lose one."""

    uid: int
    size: int
    atoms: Atoms | None
    reason: str = ""

    @property
    def free(self) -> bool:
        return self.atoms is None

    def __repr__(self) -> str:
        return f"{'free' if self.free else 'f'}{self.uid}[{self.size}]"


Axis = tuple[Factor, ...]


def connected(left: Iterable[Atoms], right: Iterable[Atoms], count: int) -> tuple[int, Atoms]:
    """How many classes there are of what is equal, pair by pair, and the class of each of `count` atoms; numbered by their first atoms."""
    one, other = (np.concatenate([np.zeros(0, np.int64), *side], dtype=np.int32, casting="same_kind") for side in (left, right))
    edges = coo_array((np.ones(len(one), dtype=bool), (one, other)), shape=(count, count))
    number, found = connected_components(edges, directed=False)  # visits the atoms in order
    return int(number), found.astype(np.int64)


def size(axis: Axis) -> int:
    return math.prod(factor.size for factor in axis)


@dataclass(frozen=True, slots=True)
class Split:
    """A factor seen as a product of others. It binds only once `kept`: see `Algebra.touch`."""

    parent: Factor
    children: tuple[Factor, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """whole[i, j, ...] is alive exactly when parts[0][i] and parts[1][j] and ... are."""

    whole: Atoms
    parts: tuple[Atoms, ...]


class Algebra:
    """The append-only book of facts, and the operations on axes that write into it."""

    def __init__(self) -> None:
        self.atom_count = 0
        self.equalities: list[tuple[Atoms, Atoms]] = []
        self.freezes: list[tuple[Atoms, str]] = []
        self.merges: list[Product] = []
        self.labels: list[tuple[Atoms, str]] = []
        self.left_out: list[tuple[Factor, Bools]] = []  # what slices did not take
        self.met: list[tuple[Factor, Factor]] = []  # free factors, and what they were found equal to
        self.factors: list[Factor] = []
        self._interned: dict[bytes, Factor] = {}
        self._splits: dict[tuple[int, tuple[int, ...]], Split] = {}
        self._splits_of: dict[int, list[Split]] = {}
        self._split_making: dict[int, Split] = {}  # child uid -> the split that made it
        self._rearranged_from: dict[int, Factor] = {}
        self._kept: set[int] = set()  # id of splits that bind
        self._touched: set[int] = set()
        self._merged: dict[tuple[int, ...], Factor] = {}
        self._materialised: dict[int, Factor] = {}

    # ---- making factors -------------------------------------------------------------------------------------------------

    def fresh(self, count: int) -> Axis:
        """An axis of new, so far unrelated coordinates."""
        if count == 1:
            return ()
        if count == 0:
            return self.free(0, "empty")
        atoms = np.arange(self.atom_count, self.atom_count + count, dtype=np.int64)
        self.atom_count += count
        return (self._intern(atoms),)

    def free(self, count: int, reason: str) -> Axis:
        """An axis that never loses a coordinate."""
        return () if count == 1 else (self._new(count, None, reason),)

    def _new(self, count: int, atoms: Atoms | None, reason: str = "") -> Factor:
        factor = Factor(len(self.factors), count, atoms, reason)
        self.factors.append(factor)
        return factor

    def _intern(self, atoms: Atoms) -> Factor:
        """The factor with exactly these atoms: one array, one identity, however it was reached."""
        key = atoms.tobytes()
        factor = self._interned.get(key)
        if factor is None:
            factor = self._interned[key] = self._new(len(atoms), atoms)
        return factor

    # ---- facts ----------------------------------------------------------------------------------------------------------

    def touch(self, axis: Iterable[Factor]) -> None:
        """An operator that is more than movement works on these coordinates: the splits that made them bind from now on."""
        for factor in axis:
            if factor.free or factor.uid in self._touched:
                continue
            self._touched.add(factor.uid)
            split = self._split_making.get(factor.uid)
            if split is not None and id(split) not in self._kept:
                self._kept.add(id(split))
                self.touch((split.parent,))
            origin = self._rearranged_from.get(factor.uid)
            if origin is not None:
                self.touch((origin,))

    def keep(self, split: Split) -> None:
        """Make a split bind although nothing has touched its parts."""
        self.touch(split.children)

    def freeze(self, axis: Iterable[Factor], reason: str) -> None:
        for factor in axis:
            if factor.atoms is not None:
                self.touch((factor,))
                self.freezes.append((factor.atoms, reason))

    def freeze_atoms(self, factor: Factor, which: Bools, reason: str) -> None:
        """Some coordinates of a factor."""
        assert factor.atoms is not None
        self.touch((factor,))
        self.freezes.append((factor.atoms[which], reason))

    def label(self, axis: Iterable[Factor], kind: str) -> None:
        """Say what kind of unit these coordinates are, for names and reports only."""
        for factor in axis:
            if factor.atoms is not None:
                self.labels.append((factor.atoms, kind))

    def _equal(self, a: Factor, b: Factor) -> None:
        if a is b:
            return
        if a.atoms is None or b.atoms is None:
            self.freeze((a, b), a.reason or b.reason)
            self.met.append((a, b) if a.free else (b, a))
            return
        self.touch((a, b))
        self.equalities.append((a.atoms, b.atoms))

    def classes(self) -> Atoms:
        """Atom -> the number of what it was found equal to, so far."""
        return connected([one for one, _ in self.equalities], [other for _, other in self.equalities], self.atom_count)[1]

    def unify(self, a: Axis, b: Axis) -> None:
        """The two axes are one: coordinate by coordinate they live and die together."""
        if size(a) != size(b):
            raise ValueError(f"axes of {size(a)} and {size(b)} coordinates cannot be one")
        left, right = list(a), list(b)
        while left and right:
            x, y = left[-1], right[-1]
            if x.size == y.size:
                left.pop(), right.pop()
                self._equal(x, y)
            elif x.size > y.size and x.size % y.size == 0:
                left.pop(), right.pop()
                outer, inner = self.split(x, (x.size // y.size, y.size))
                self._equal(inner[0], y)
                left.extend(outer)
            elif y.size > x.size and y.size % x.size == 0:
                left.pop(), right.pop()
                outer, inner = self.split(y, (y.size // x.size, x.size))
                self._equal(x, inner[0])
                right.extend(outer)
            else:  # neither divides the other: go down to single coordinates
                self._equal(self.merge(tuple(left)), self.merge(tuple(right)))
                return

    # ---- movement -------------------------------------------------------------------------------------------------------

    def split(self, factor: Factor, sizes: Sequence[int]) -> tuple[Axis, ...]:
        """The factor as a row-major product, one axis for each size. Memoised; tentative until a part is touched."""
        if factor.free:
            return tuple(self.free(s, factor.reason) for s in sizes)
        proper = tuple(s for s in sizes if s != 1)
        if len(proper) <= 1:
            return tuple((factor,) if s != 1 else () for s in sizes)
        split = self._splits.get((factor.uid, proper))
        if split is None:
            children = tuple(self.fresh(s)[0] for s in proper)
            split = self._splits[factor.uid, proper] = Split(factor, children)
            self._splits_of.setdefault(factor.uid, []).append(split)
            for child in children:
                self._split_making[child.uid] = split
        rest = iter(split.children)
        return tuple((next(rest),) if s != 1 else () for s in sizes)

    def undivided(self, factor: Factor) -> Factor:
        """What the factor is a part of, at last."""
        while (split := self._split_making.get(factor.uid)) is not None:
            factor = split.parent
        return factor

    def reshape(self, axes: Sequence[Axis], sizes: Sequence[int]) -> list[Axis]:
        """Row-major regrouping of factors, splitting them where a new boundary falls inside one."""
        if 0 in sizes:
            return [self.free(s, "empty") for s in sizes]
        pending = [factor for axis in axes for factor in axis]
        result: list[Axis] = []
        for wanted in sizes:
            parts: list[Factor] = []
            missing = wanted
            while missing > 1:
                head = pending[0]
                if missing % head.size == 0:
                    parts.append(pending.pop(0))
                    missing //= head.size
                elif head.size % missing == 0:
                    outer, inner = self.split(head, (missing, head.size // missing))
                    parts.extend(outer)
                    pending[:1] = inner
                    missing = 1
                else:  # boundaries that do not divide: flatten until one does
                    end, total = 1, head.size
                    while total % missing:
                        total *= pending[end].size
                        end += 1
                    pending[:end] = [self.merge(tuple(pending[:end]))]
            result.append(self.collapse(tuple(parts)))
        return result

    def collapse(self, axis: Axis) -> Axis:
        """Replace runs of factors that are all parts of one split, in whatever order, by a single factor."""
        start = 0
        while start < len(axis):
            for end in range(len(axis), start + 1, -1):
                whole = self._rearranged(axis[start:end])
                if whole is not None:
                    axis = (*axis[:start], whole, *axis[end:])
                    break
            start += 1
        return axis

    def merge(self, axis: Axis) -> Factor:
        """The axis as one factor. Rearranged parts of one split are a permutation of its atoms; anything else is a new product."""
        axis = self.collapse(axis)
        if len(axis) == 1:
            return axis[0]
        if all(factor.free for factor in axis):
            return self._new(size(axis), None, axis[0].reason)
        key = tuple(factor.uid for factor in axis)
        whole = self._merged.get(key)
        if whole is None:
            solid = tuple(self.materialise(factor) for factor in axis)
            whole = self._merged[key] = self.fresh(size(axis))[0]
            assert whole.atoms is not None
            self.touch(solid)
            self.merges.append(Product(whole.atoms, tuple(f.atoms for f in solid if f.atoms is not None)))
        return whole

    def materialise(self, factor: Factor) -> Factor:
        """A free factor with atoms, all frozen: needed where it meets coordinates that are not free."""
        if not factor.free:
            return factor
        solid = self._materialised.get(factor.uid)
        if solid is None:
            solid = self._materialised[factor.uid] = self.fresh(factor.size)[0]
            self.freeze((solid,), factor.reason)
        return solid

    def _rearranged(self, run: Axis) -> Factor | None:
        if any(factor.free for factor in run):
            return None
        wanted = {factor.uid for factor in run}
        if len(wanted) != len(run):
            return None
        ancestor: Factor | None = run[0]
        while ancestor is not None:
            frontier = self._frontier(ancestor, wanted)
            if frontier is not None and len(frontier) == len(run):
                return self._permuted(ancestor, frontier, run)
            split = self._split_making.get(ancestor.uid)
            ancestor = split.parent if split else None
        return None

    def _frontier(self, factor: Factor, wanted: set[int]) -> list[Factor] | None:
        """`factor` written with the wanted factors alone, in row-major order, if some chain of splits allows it."""
        if factor.uid in wanted:
            return [factor]
        for split in self._splits_of.get(factor.uid, ()):
            parts: list[Factor] = []
            for child in split.children:
                found = self._frontier(child, wanted)
                if found is None:
                    break
                parts.extend(found)
            else:
                return parts
        return None

    def _permuted(self, whole: Factor, frontier: list[Factor], run: Axis) -> Factor:
        assert whole.atoms is not None
        place = {factor.uid: position for position, factor in enumerate(frontier)}
        order = [place[factor.uid] for factor in run]
        factor = self._intern(np.ascontiguousarray(whole.atoms.reshape([f.size for f in frontier]).transpose(order)).reshape(-1))
        if factor is not whole:
            self._rearranged_from.setdefault(factor.uid, whole)
            if factor.uid in self._touched:  # the same atoms had been met on another way
                self.touch((whole,))
        return factor

    def cut(self, axis: Axis, start: int, stop: int, step: int = 1) -> Axis:
        """A slice. Whole outer rows cut the outer factor alone; a single coordinate taken out is frozen."""
        count = len(range(start, stop, step))
        if count == size(axis):
            return axis
        if all(factor.free for factor in axis):
            return self.free(count, axis[0].reason if axis else "sliced")
        inner = size(axis[1:])
        if step == 1 and inner > 1 and start % inner == 0 and stop % inner == 0:
            return (*self.cut(axis[:1], start // inner, stop // inner), *axis[1:])
        whole = self.merge(axis)
        assert whole.atoms is not None
        self.touch((whole,))
        piece = whole.atoms[start:stop:step]
        rest = np.ones(len(whole.atoms), dtype=bool)
        rest[start:stop:step] = False
        self.left_out.append((whole, rest))
        if count == 1:
            self.freezes.append((piece, "selected by a fixed index"))
            return ()
        return (self._intern(np.ascontiguousarray(piece)),) if count else self.free(0, "empty")

    def concatenate(self, axes: Sequence[Axis]) -> Axis:
        """Axes laid end to end."""
        axes = [axis for axis in axes if size(axis)]
        if len(axes) == 1:
            return axes[0]
        if all(factor.free for axis in axes for factor in axis):
            reasons = [factor.reason for axis in axes for factor in axis]
            return self.free(sum(map(size, axes)), reasons[0] if reasons else "concatenated")
        pieces: list[Atoms] = []
        for axis in axes:
            if axis:
                factor = self.materialise(self.merge(axis))
                self.touch((factor,))
            else:
                factor = self.fresh(2)[0]  # one coordinate: it has no factor of its own, so it gets an atom, and keeps it
                assert factor.atoms is not None
                self.freezes.append((factor.atoms, "the only coordinate of its axis"))
            assert factor.atoms is not None
            pieces.append(factor.atoms if axis else factor.atoms[:1])
        return (self._intern(np.concatenate(pieces)),)

    # ---- what the solver reads --------------------------------------------------------------------------------------------

    def products(self) -> list[Product]:
        kept = [split for split in self._splits.values() if id(split) in self._kept]
        return self.merges + [
            Product(split.parent.atoms, tuple(child.atoms for child in split.children if child.atoms is not None))
            for split in kept
            if split.parent.atoms is not None
        ]

    def loose_splits(self) -> list[Split]:
        """Splits that do not bind: nothing but movement ever saw their parts."""
        return [split for split in self._splits.values() if id(split) not in self._kept]

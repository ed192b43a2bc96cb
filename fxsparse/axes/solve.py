"""From facts to conclusions: which coordinates are one, which are frozen and why, and which are products of others.

Everything is an array operation over atoms; the loop runs until a round adds no fact (five rounds were the most ever seen).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fxsparse.axes.factors import Algebra, Atoms, Bools, Product, connected

WHOLE, PARTS = "part of a protected product", "all its parts are protected"  # and behind them, what the others are protected for
AMBIGUOUS = "two incompatible factorisations of the same coordinates meet here"


@dataclass(frozen=True, slots=True)
class ClassProduct:
    """A product over classes, written out: whole[k] is alive exactly when parts[0][k] and parts[1][k] and ... are."""

    whole: Atoms
    parts: tuple[Atoms, ...]


@dataclass(frozen=True)
class Solution:
    """A *class* is a set of atoms that live and die together."""

    class_of: Atoms  # atom -> class
    frozen: Bools  # class -> may never be removed
    reasons: tuple[str, ...]
    why: Atoms  # class -> which reason froze it first; -1: none did
    products: tuple[ClassProduct, ...]  # outermost first: a product's parts may be the whole of a later one
    derived: Bools  # class -> it is the whole of some product

    @property
    def count(self) -> int:
        return len(self.frozen)

    def reason(self, one: int) -> str:
        """Why a class was frozen; nothing where it was not, or is only coupled to what was."""
        return self.reasons[self.why[one]] if self.why[one] >= 0 else ""

    def living(self, removed: Atoms) -> Bools:
        """Which classes are left when these (none of them derived) go."""
        alive = np.ones(self.count, dtype=bool)
        alive[removed] = False
        for product in reversed(self.products):
            alive[product.whole] = functools.reduce(np.logical_and, (alive[part] for part in product.parts))
        return alive

    def generators(self, classes: Atoms) -> Atoms:
        """The classes that decide over these: derived ones are replaced by their parts, all the way down (with repetition)."""
        if not (self.products and self.derived[classes].any()):
            return classes
        pending, done = classes, []
        while len(pending):
            is_derived = self.derived[pending]
            done.append(pending[~is_derived])
            pending = pending[is_derived]
            if len(pending):
                which, where = self._places[0][pending], self._places[1][pending]
                pending = np.concatenate([part[where[which == p]] for p in np.unique(which).tolist() for part in self.products[p].parts])
        return np.concatenate(done)

    @functools.cached_property
    def _places(self) -> tuple[Atoms, Atoms]:
        """class -> the product that it is the whole of, and where in it."""
        which = np.full(self.count, -1, dtype=np.int64)
        where = np.zeros(self.count, dtype=np.int64)
        for index, product in enumerate(self.products):
            which[product.whole] = index
            where[product.whole] = np.arange(len(product.whole))
        return which, where


class _Solver:
    def __init__(self, algebra: Algebra) -> None:
        self.atom_count = algebra.atom_count
        self.left = [a for a, _ in algebra.equalities]
        self.right = [b for _, b in algebra.equalities]
        self.products = algebra.products()
        self.frozen_atoms = np.zeros(self.atom_count, dtype=bool)
        self.reason_of_atom: dict[int, str] = {}
        self.freezes = list(algebra.freezes)
        for atoms, _ in algebra.freezes:
            self.frozen_atoms[atoms] = True
        self.news = True
        self.joined = 0  # so many equalities are in the classes
        self.class_of: Atoms = np.zeros(0, dtype=np.int64)
        self.frozen: Bools = np.zeros(0, dtype=bool)
        self.grids: dict[int, tuple[Product, tuple[Atoms, ...]]] = {}  # by the product's identity

    def equal(self, a: Atoms, b: Atoms) -> None:
        different = self.class_of[a] != self.class_of[b]
        if different.any():
            self.left.append(a[different])
            self.right.append(b[different])
            self.news = True

    def freeze(self, atoms: Atoms, reason: str) -> None:
        new = atoms[~self.frozen[self.class_of[atoms]]]
        if len(new):
            self.freezes.append((new, reason))
            self.frozen_atoms[new] = True
            self.frozen[self.class_of[new]] = True
            self.news = True

    def components(self) -> None:
        """Join the classes that new equalities make one. They are numbered by their first atoms."""
        known, new_atoms = len(self.class_of), self.atom_count - len(self.class_of)
        if self.joined == len(self.left) and not new_atoms:  # the news are freezes, which `frozen` knows
            return
        count = len(self.frozen) + new_atoms
        before = np.concatenate([self.class_of, np.arange(len(self.frozen), count)]) if known else None
        left, right = ([each if before is None else before[each] for each in side[self.joined :]] for side in (self.left, self.right))
        count, found = connected(left, right, count)
        self.class_of = found if before is None else found[before]
        self.joined = len(self.left)
        self.frozen = np.zeros(count, dtype=bool)
        self.frozen[self.class_of[self.frozen_atoms]] = True

    def run(self) -> Solution:
        if not self.atom_count:
            empty = np.zeros(0, dtype=np.int64)
            return Solution(empty, empty.astype(bool), (), empty, (), empty.astype(bool))
        while self.news:
            self.news = False
            self.components()
            self.propagate()
            if not self.news:
                self.congruence()
            if not self.news:
                self.refuse_ambiguity()
        return self.conclude()

    def written_out(self, product: Product) -> tuple[Atoms, ...]:
        known = self.grids.get(id(product))
        if known is None:
            grids = np.meshgrid(*product.parts, indexing="ij") if len(product.parts) > 1 else [product.parts[0]]
            known = self.grids[id(product)] = (product, tuple(grid.reshape(-1) for grid in grids))
        return known[1]

    def propagate(self) -> None:
        """Freezes go through products both ways; where all parts but one are frozen, the whole is that part."""
        for product in self.products:
            parts = self.written_out(product)
            frozen_parts = np.stack([self.frozen[self.class_of[part]] for part in parts])
            whole_frozen = self.frozen[self.class_of[product.whole]]
            for part in parts:
                self.freeze(part[whole_frozen], WHOLE)
            self.freeze(product.whole[frozen_parts.all(axis=0)], PARTS)
            single = (~frozen_parts).sum(axis=0) == 1
            for part, is_frozen in zip(parts, frozen_parts, strict=True):
                chosen = single & ~is_frozen
                if chosen.any():
                    self.equal(product.whole[chosen], part[chosen])

    def congruence(self) -> None:
        """Equal wholes of equal shape have equal parts; equal parts have equal wholes; equal wholes of other shape are refined."""
        by_whole: dict[bytes, list[Product]] = {}
        by_parts: dict[tuple[bytes, ...], Product] = {}
        for product in self.products:
            parts_key = tuple(self.class_of[part].tobytes() for part in product.parts)
            twin = by_parts.setdefault(parts_key, product)
            self.equal(product.whole, twin.whole)
            same_whole = by_whole.setdefault(self.class_of[product.whole].tobytes(), [])
            for other in same_whole:
                if [len(p) for p in other.parts] == [len(p) for p in product.parts]:
                    for a, b in zip(other.parts, product.parts, strict=True):
                        self.equal(a, b)
            if not any([len(p) for p in other.parts] == [len(p) for p in product.parts] for other in same_whole):
                same_whole.append(product)
        for products in by_whole.values():
            for one, other in itertools.pairwise(products):
                self.refine(one, other)

    def refine(self, a: Product, b: Product) -> None:
        """Two factorisations of the same coordinates: split both to the common one, if their boundaries nest."""
        bounds = sorted({*_boundaries(a), *_boundaries(b)})
        if any(outer % inner for inner, outer in itertools.pairwise(bounds)):
            return  # left to `refuse_ambiguity`
        sizes = [outer // inner for inner, outer in itertools.pairwise(bounds)][::-1]
        fine = [self.new_atoms(size) for size in sizes]
        for product in (a, b):
            position = 0
            for part in product.parts:
                group: list[Atoms] = []
                while math.prod(map(len, group)) < len(part):
                    group.append(fine[position])
                    position += 1
                if len(group) == 1:
                    self.left.append(group[0])
                    self.right.append(part)
                else:
                    self.products.append(Product(part, tuple(group)))
        self.products = [p for p in self.products if p is not a and p is not b]
        self.products.append(Product(a.whole, tuple(fine)))
        self.left.append(a.whole)
        self.right.append(b.whole)
        self.news = True

    def new_atoms(self, count: int) -> Atoms:
        atoms = np.arange(self.atom_count, self.atom_count + count, dtype=np.int64)
        self.atom_count += count
        self.frozen_atoms = np.concatenate([self.frozen_atoms, np.zeros(count, dtype=bool)])
        return atoms

    def refuse_ambiguity(self) -> None:
        """A class that is two different products, or a product of itself, cannot be decided unit by unit. Its outermost parts are
        protected, and what is left may be decidable: norms of groups over x and over cat([x, y]) leave what has one place in all groups."""
        width = max((len(product.parts) for product in self.products), default=0)
        rows: list[Atoms] = []  # a coordinate of a product: the parts of it that may go, as atoms; -1 where there are fewer
        wholes: list[Atoms] = []
        owners: list[Atoms] = []
        for index, product in enumerate(self.products):
            parts = np.stack(self.written_out(product), axis=1)
            live = ~self.frozen[self.class_of[parts]]
            several = live.sum(axis=1) > 1
            if several.any():
                padded = np.full((int(several.sum()), width), -1, dtype=np.int64)
                padded[:, : parts.shape[1]] = np.where(live, parts, -1)[several]
                rows.append(padded)
                wholes.append(self.class_of[product.whole[several]])
                owners.append(np.full(len(padded), index))
        if rows:
            atoms, whole, owner = np.concatenate(rows), np.concatenate(wholes), np.concatenate(owners)
            classes = _as_sets(np.where(atoms < 0, -1, self.class_of[atoms]))
            _, first, which = np.unique(whole, return_index=True, return_inverse=True)
            wrong = (classes != classes[first[which]]).any(axis=1) | (classes == whole[:, None]).any(axis=1)
            twice = np.flatnonzero(wrong & (owner == owner[first[which]]))
            for index in np.unique(owner[twice]).tolist():
                here = twice[owner[twice] == index]
                self.join_places(self.products[index], atoms[here], atoms[first[which[here]]])
            if self.news:
                return
            involved = np.concatenate([atoms[wrong], atoms[first[which[wrong]]]])
            outermost = involved[np.arange(len(involved)), (involved >= 0).argmax(axis=1)]
            self.freeze(np.unique(outermost), AMBIGUOUS)

    def join_places(self, product: Product, places: Atoms, others: Atoms) -> None:
        """cat([x, f(x)]) in groups: where the same classes stand at two places of one product, the parts of the one are those of the other,
        unless nothing could go then."""
        pairs = []
        for part, one, other in zip(product.parts, places.T, others.T, strict=False):
            live = (one >= 0) & (other >= 0)
            pairs.append((one[live], other[live]))
            _, found = connected([self.class_of[one[live]]], [self.class_of[other[live]]], len(self.frozen))
            if len(np.unique(found[self.class_of[part]])) == 1:
                return
        for a, b in pairs:
            self.equal(a, b)

    def conclude(self) -> Solution:
        products: list[ClassProduct] = []
        derived = np.zeros(len(self.frozen), dtype=bool)
        for product in self.products:
            parts = [self.class_of[part] for part in self.written_out(product)]
            whole = self.class_of[product.whole]
            proper = np.stack([~self.frozen[part] for part in parts]).sum(axis=0) > 1
            proper &= ~self.frozen[whole] & ~derived[whole]
            if proper.any():
                _, once = np.unique(whole[proper], return_index=True)
                products.append(ClassProduct(whole[proper][once], tuple(part[proper][once] for part in parts)))
                derived[whole[proper]] = True
        why = np.full(len(self.frozen), -1, dtype=np.int64)  # class -> the first of the freezes that met it
        for index, (atoms, _) in enumerate(self.freezes):
            classes = self.class_of[atoms]
            why[classes[why[classes] < 0]] = index
        reasons = self.told(why)
        return Solution(self.class_of, self.frozen, reasons, why, _outermost_first(products, derived), derived)

    def told(self, why: Atoms) -> tuple[str, ...]:
        """The reasons of all freezes. `why` is led on to new ones where a class was protected for what it makes, or is made of."""
        reasons = [reason for _, reason in self.freezes]
        indirect = np.array([reason in (WHOLE, PARTS) for reason in reasons] + [True])  # the last one is for those without a reason
        numbers: dict[tuple[int, int], int] = {}
        blind, sees = (why >= 0) & indirect[why], ~indirect[why]
        for classes, others in self.made_together() if blind.any() else ():
            chosen = blind[classes] & sees[others]
            led = classes[chosen]
            first, of_first = _numbered(why[led])
            second, of_second = _numbered(why[others[chosen]])
            pairs, of_pair = _numbered(of_first * max(1, len(second)) + of_second)
            made = np.zeros(len(pairs), dtype=why.dtype)
            for at, pair in enumerate(pairs.tolist()):
                a, b = int(first[pair // len(second)]), int(second[pair % len(second)])
                if (a, b) not in numbers:
                    numbers[a, b] = len(reasons)
                    reasons.append(f"{reasons[a]}: {reasons[b]}")
                    indirect = np.insert(indirect, -1, False)
                made[at] = numbers[a, b]
            why[led[::-1]] = made[of_pair][::-1]  # the first of several is kept
            blind[led], sees[led] = False, True
        return tuple(reasons)

    def made_together(self) -> Iterator[tuple[Atoms, Atoms]]:
        """The classes of each product beside those of each of its parts, and the other way round."""
        for product in self.products:
            whole, *parts = (self.class_of[atoms] for atoms in (product.whole, *self.written_out(product)))
            for part in parts:
                yield from ((whole, part), (part, whole))


def _numbered(values: Atoms) -> tuple[Atoms, Atoms]:
    """The different values, which are small, and for each place the number of its own: `np.unique` without sorting."""
    found = np.flatnonzero(np.bincount(values))
    number = np.zeros(int(found[-1]) + 1 if len(found) else 0, dtype=np.int64)
    number[found] = np.arange(len(found))
    return found, number[values]


def _as_sets(rows: Atoms) -> Atoms:
    """Rows of classes, equal where they are equal as sets: sorted, and -1 for each that stands there again."""
    rows = np.sort(rows, axis=1)
    rows[:, 1:][rows[:, 1:] == rows[:, :-1]] = -1
    return np.sort(rows, axis=1)


def _boundaries(product: Product) -> list[int]:
    return [1, *itertools.accumulate((len(part) for part in reversed(product.parts)), lambda a, b: a * b)]


def _outermost_first(products: list[ClassProduct], derived: Bools) -> tuple[ClassProduct, ...]:
    """Order products so that whoever is a part of another comes after it."""
    made_by = np.full(len(derived), -1, dtype=np.int64)
    for index, product in enumerate(products):
        made_by[product.whole] = index
    depth = [0] * len(products)
    for _ in range(len(products)):
        changed = False
        for index, product in enumerate(products):
            for part in product.parts:
                for inner in np.unique(made_by[part]).tolist():
                    if inner >= 0 and depth[inner] <= depth[index]:
                        depth[inner] = depth[index] + 1
                        changed = True
        if not changed:
            break
    return tuple(product for _, product in sorted(zip(depth, products, strict=True), key=lambda pair: pair[0]))


def solve(algebra: Algebra) -> Solution:
    return _Solver(algebra).run()

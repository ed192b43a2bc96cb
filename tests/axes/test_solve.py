"""The solver against brute force: every assignment of alive and dead to a few atoms, filtered by the facts themselves."""

from __future__ import annotations

import functools
import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fxsparse.axes.factors import Algebra, Bools
from fxsparse.axes.solve import solve


@st.composite
def algebras(draw: st.DrawFn) -> Algebra:
    """A few factors of size 2 to 4, with random equalities, splits that bind, and freezes; at most 12 atoms before the solver adds some."""
    algebra = Algebra()
    axes = [algebra.fresh(draw(st.sampled_from([2, 2, 3, 4]))) for _ in range(draw(st.integers(1, 3)))]
    for _ in range(draw(st.integers(0, 3))):
        what = draw(st.sampled_from(["split", "unify", "freeze"]))
        axis = draw(st.sampled_from(axes))
        extent = axis[0].size
        if what == "split" and extent == 4 and algebra.atom_count <= 10:
            parts = algebra.split(axis[0], (2, 2))
            for part in parts:
                algebra.touch(part)
            axes.extend(parts)
        elif what == "unify":
            other = draw(st.sampled_from(axes))
            if other[0].size == extent:
                algebra.unify(axis, other)
        elif what == "freeze" and axis[0].atoms is not None:
            chosen = draw(st.integers(0, extent - 1))
            algebra.freezes.append((axis[0].atoms[chosen : chosen + 1], "chosen"))
            algebra.touch(axis)
    return algebra


def allowed(algebra: Algebra) -> list[Bools]:
    """All assignments that satisfy every fact."""
    products = algebra.products()
    found = []
    for bits in itertools.product([False, True], repeat=algebra.atom_count):
        alive = np.array(bits)
        equal = all((alive[a] == alive[b]).all() for a, b in algebra.equalities)
        frozen = all(alive[a].all() for a, _ in algebra.freezes)
        product = all(
            (alive[p.whole] == functools.reduce(np.logical_and.outer, [alive[x] for x in p.parts]).reshape(-1)).all() for p in products
        )
        if equal and frozen and product:
            found.append(alive)
    return found


@given(algebras())
def test_every_removal_that_the_solver_offers_satisfies_every_fact(algebra: Algebra) -> None:
    solution = solve(algebra)
    possible = {alive.tobytes() for alive in allowed(algebra)}
    units = np.flatnonzero(~solution.frozen & ~solution.derived)
    for count in range(min(len(units), 3) + 1):
        for removed in itertools.combinations(units.tolist(), count):
            alive = solution.living(np.array(removed, dtype=np.int64))[solution.class_of[: algebra.atom_count]]
            assert alive.tobytes() in possible


@given(algebras())
def test_what_can_go_alone_is_offered(algebra: Algebra) -> None:
    """Completeness where there is no product: an atom that some assignment lets go is in a class that is not frozen."""
    if algebra.products():
        return
    solution = solve(algebra)
    can_go = ~np.stack(allowed(algebra)).all(axis=0)
    assert (can_go == ~solution.frozen[solution.class_of[: algebra.atom_count]]).all()


def test_a_reason_leads_to_where_it_comes_from() -> None:
    algebra = Algebra()
    whole, other = algebra.fresh(4), algebra.fresh(6)
    for part in (*algebra.split(whole[0], (2, 2)), *(parts := algebra.split(other[0], (2, 3)))):
        algebra.touch(part)
    algebra.freeze(whole, "sorted")
    for part in parts:
        algebra.freeze(part, "flipped")
    solution = solve(algebra)
    told = {solution.reason(one) for one in range(solution.count)}
    assert told == {"sorted", "part of a protected product: sorted", "flipped", "all its parts are protected: flipped"}

"""The algebra of factors: what views, permutations, slices and concatenations do to coordinates."""

from __future__ import annotations

import numpy as np
import pytest

from fxsparse.axes.factors import Algebra, Axis, size
from fxsparse.axes.solve import solve


def atoms(algebra: Algebra, axis: Axis) -> list[int]:
    found = algebra.merge(axis).atoms
    assert found is not None
    return [int(atom) for atom in found]


def test_view_permute_view_comes_back_to_the_same_factor() -> None:
    algebra = Algebra()
    channels = algebra.fresh(12)
    three, four = algebra.reshape([channels], [3, 4])
    assert algebra.reshape([three, four], [12]) == [channels]
    (shuffled,) = algebra.reshape([four, three], [12])
    assert atoms(algebra, shuffled) == np.array(atoms(algebra, channels)).reshape(3, 4).T.reshape(-1).tolist()
    back_four, back_three = algebra.reshape([shuffled], [4, 3])
    assert atoms(algebra, algebra.reshape([back_three, back_four], [12])[0]) == atoms(algebra, channels)


def test_a_split_that_nothing_touches_does_not_bind() -> None:
    algebra = Algebra()
    channels = algebra.fresh(6)
    two, _ = algebra.reshape([channels], [2, 3])
    assert not algebra.products() and len(algebra.loose_splits()) == 1
    algebra.touch(two)
    assert len(algebra.products()) == 1 and not algebra.loose_splits()


def test_boundaries_that_do_not_divide_are_flattened_exactly() -> None:
    algebra = Algebra()
    six, four = algebra.fresh(6), algebra.fresh(4)
    rows, columns = algebra.reshape([six, four], [4, 6])
    assert (size(rows), size(columns)) == (4, 6)
    solution = solve(algebra)
    assert solution.living(np.zeros(0, dtype=np.int64)).all()


def test_cut_and_concatenate_are_inverse() -> None:
    algebra = Algebra()
    channels = algebra.fresh(10)
    left, right = algebra.cut(channels, 0, 4), algebra.cut(channels, 4, 10)
    assert algebra.concatenate([left, right]) == channels
    assert atoms(algebra, algebra.concatenate([right, left])) == atoms(algebra, right) + atoms(algebra, left)


def test_whole_rows_cut_the_outer_factor_alone() -> None:
    algebra = Algebra()
    outer, inner = algebra.fresh(3), algebra.fresh(4)
    part = algebra.cut((*outer, *inner), 4, 12)
    assert part[1:] == inner and size(part[:1]) == 2


def test_one_coordinate_alone_is_frozen() -> None:
    algebra = Algebra()
    channels = algebra.fresh(5)
    assert algebra.cut(channels, 2, 3) == ()
    solution = solve(algebra)
    assert solution.frozen[solution.class_of[atoms(algebra, channels)]].tolist() == [False, False, True, False, False]


def test_free_meets_atoms_with_its_reason() -> None:
    algebra = Algebra()
    channels = algebra.fresh(4)
    algebra.unify(algebra.free(4, "the batch"), channels)
    solution = solve(algebra)
    assert solution.frozen.all() and {solution.reason(one) for one in range(solution.count)} == {"the batch"}


def test_axes_of_different_size_are_never_one() -> None:
    algebra = Algebra()
    with pytest.raises(ValueError, match="4 and 5"):
        algebra.unify(algebra.fresh(4), algebra.fresh(5))

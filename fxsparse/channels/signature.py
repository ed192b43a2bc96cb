"""A number for each class that says in which factors it sits, and how: equal numbers mean interchangeable units."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fxsparse.axes.reader import Reading
from fxsparse.axes.solve import Solution

Hashes = npt.NDArray[np.uint64]


def _mix(x: Hashes, salt: int) -> Hashes:
    """SplitMix64's finaliser: sums of mixed numbers do not collide by accident."""
    x = x + np.uint64((0x9E3779B97F4A7C15 * (salt + 1)) & 0xFFFFFFFFFFFFFFFF)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def signatures(reading: Reading, solution: Solution, protection: Hashes) -> Hashes:
    """The protection of a class, mixed, and the sum over the factors that some tensor has, of a number for the factor and how often the
    class stands in it: a slice or a concatenation has factors of its own, so that position counts where it matters.

    A part of a product takes over the signatures of the wholes it decides over, mixed with its place in the product: in a vision
    transformer heads and head dimensions touch the same tensors, and only the place tells them apart.
    """
    sums: Hashes = np.zeros(solution.count, dtype=np.uint64)
    with np.errstate(over="ignore"):
        atoms = {uid: factor.atoms for uid, factor in reading.factors.items() if factor.atoms is not None}
        for mixed, each in zip(_mix(np.array(list(atoms), dtype=np.uint64), 0), atoms.values(), strict=True):
            np.add.at(sums, solution.class_of[each], mixed)
        for product in solution.products:
            passed = _mix(sums[product.whole], 1)
            for place, part in enumerate(product.parts):
                np.add.at(sums, part, _mix(passed, place + 2))
        return sums + _mix(protection, 0xFFFF)

"""Which unit each coordinate of each tensor belongs to: what criteria, masks and budgets read their numbers by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fxsparse.axes.factors import Atoms
from fxsparse.axes.solve import Solution
from fxsparse.channels.groups import Member, Structure


@dataclass(frozen=True, slots=True)
class Place:
    """A member of a group, and for each dense index along its axis the number of the unit, or -1 where it belongs to none."""

    member: Member
    units: Atoms


class Generators:
    """The generator classes behind each class, in arrays as long as what is asked: a product of two has two of them."""

    def __init__(self, solution: Solution) -> None:
        self.solution = solution
        self.product = np.full(solution.count, -1, dtype=np.int64)
        self.position = np.zeros(solution.count, dtype=np.int64)
        for index, product in enumerate(solution.products):
            self.product[product.whole] = index
            self.position[product.whole] = np.arange(len(product.whole))

    def of(self, classes: Atoms) -> list[Atoms]:
        """Arrays of generator classes, -1 where there is none."""
        derived = self.solution.derived[classes]
        if not derived.any():
            return [classes]
        found = [np.where(derived, -1, classes)] if not derived.all() else []
        for index in np.unique(self.product[classes[derived]]).tolist():
            mine = derived & (self.product[classes] == index)
            for part in self.solution.products[index].parts:
                for inner in self.of(part[self.position[classes[mine]]]):
                    whole = np.full(len(classes), -1, dtype=np.int64)
                    whole[mine] = inner
                    found.append(whole)
        return _packed(found)


def _packed(arrays: list[Atoms]) -> list[Atoms]:
    """The same, in as few arrays as possible: those that never both say something become one."""
    packed: list[Atoms] = []
    for array in arrays:
        for i, other in enumerate(packed):
            if not ((other >= 0) & (array >= 0)).any():
                packed[i] = np.maximum(other, array)
                break
        else:
            packed.append(array)
    return packed


class Coordinates:
    """All places of all groups of a network as it was first analysed."""

    def __init__(self, structure: Structure) -> None:
        self.structure = structure
        self.generators = Generators(structure.solution)
        self.names = list(structure.groups)
        self.group_of = np.full(structure.solution.count, -1, dtype=np.int64)
        self.unit_of = np.full(structure.solution.count, -1, dtype=np.int64)
        for number, name in enumerate(self.names):
            classes = structure.classes[name]
            self.group_of[classes] = number
            self.unit_of[classes] = np.arange(len(classes))
        self.places: dict[str, list[Place]] = {name: [] for name in self.names}
        for tensor, axes in structure.reading.tensors.items():
            for position, _ in enumerate(axes):
                self._read(tensor, position)

    def _read(self, tensor: str, position: int) -> None:
        axis = self.structure.reading.tensors[tensor][position]
        shape = [factor.size for factor in axis]
        units: dict[int, Atoms] = {}
        for i, factor in enumerate(axis):
            if factor.atoms is None:
                continue
            for classes in self.generators.of(self.structure.factor_classes(factor)):
                groups = np.where(classes >= 0, self.group_of[classes], -1)
                for number in np.unique(groups[groups >= 0]).tolist():
                    line = np.where(groups == number, self.unit_of[classes], -1)
                    spread = np.broadcast_to(line.reshape([-1 if j == i else 1 for j in range(len(shape))]), shape).reshape(-1)
                    units[number] = np.maximum(units[number], spread) if number in units else spread
        for number, found in units.items():
            group = self.structure.groups[self.names[number]]
            member = next(m for m in group.members if (m.tensor, m.axis) == (tensor, position))
            self.places[group.name].append(Place(member, found))


def unit_indices(structure: Structure, name: str) -> list[Place]:
    """The places of one group. For many groups, make `Coordinates` once."""
    return Coordinates(structure).places[name]

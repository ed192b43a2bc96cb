"""Groups as a graph, in each of its written forms, and what a unit costs, by hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import networkx
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxsparse
from fxsparse.channels.coordinates import Coordinates, unit_indices
from fxsparse.channels.costs import network_macs, network_parameters
from fxsparse.channels.view import dot, write


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.b = nn.Conv2d(8, 6, 1)
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.b(self.norm(self.a(x)).relu()).mean((2, 3)))
        return result


@pytest.fixture(scope="module")
def network() -> fxsparse.Network:
    return fxsparse.trace(Small().eval(), torch.randn(1, 3, 4, 5))


def test_producers_point_at_groups_and_groups_at_the_rest(network: fxsparse.Network) -> None:
    graph = network.to_networkx()
    assert graph.nodes["group:a"]["units"] == 8 and graph.nodes["group:a"]["prunable"]
    assert not graph.nodes["group:head"]["prunable"] and "output" in graph.nodes["group:head"]["reason"]
    assert set(graph.predecessors("group:a")) == {"a.weight"}
    assert set(graph.successors("group:a")) == {"norm.weight", "norm.bias", "norm.running_mean", "norm.running_var", "b.weight"}
    assert graph.nodes["a.weight"]["shape"] == "8x3x3x3"


def test_graphml_reads_back(network: fxsparse.Network, tmp_path: Path) -> None:
    graph = network.to_networkx()
    write(graph, tmp_path / "groups.graphml")
    again = networkx.read_graphml(tmp_path / "groups.graphml")
    assert set(again.nodes) == set(graph.nodes) and again.number_of_edges() == graph.number_of_edges()
    assert again.nodes["group:b"]["units"] == 6


def test_dot_has_each_node_and_edge_and_marks_the_protected(network: fxsparse.Network, tmp_path: Path) -> None:
    graph = network.to_networkx()
    text = dot(graph)
    assert text.startswith("digraph") and text.count("->") == graph.number_of_edges()
    for node, data in graph.nodes(data=True):
        (line,) = [line for line in text.splitlines() if line.startswith(f'  "{node}" [')]
        assert ("lightgrey" in line) == (data["what"] == "group" and not data["prunable"])
    write(graph, tmp_path / "groups.dot")
    assert (tmp_path / "groups.dot").read_text() == text


def test_names_with_quotes_are_escaped() -> None:
    graph: networkx.MultiDiGraph[str] = networkx.MultiDiGraph()
    graph.add_node('a"\\b', what="tensor", shape="2")
    assert '"a\\"\\\\b"' in dot(graph)


def test_an_ending_that_is_not_known_is_refused(network: fxsparse.Network, tmp_path: Path) -> None:
    with pytest.raises(fxsparse.Error, match=r"\.graphml, \.dot"):
        write(network.to_networkx(), tmp_path / "groups.txt")


def test_without_graphviz_the_text_is_offered(network: fxsparse.Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(fxsparse.Error, match=r"groups\.dot"):
        write(network.to_networkx(), tmp_path / "groups.svg")


def test_a_units_cost_by_hand(network: fxsparse.Network) -> None:
    a, b = network.group("a").cost, network.group("b").cost
    assert (a.parameters, a.macs) == (3 * 9 + 2 + 6, 20 * (3 * 9 + 6))  # its filter, the norm's two, a column of b; 4 x 5 places
    assert (b.parameters, b.macs) == (8 + 1 + 2, 20 * 8 + 2)


def test_costs_are_what_a_shrink_saves(network: fxsparse.Network) -> None:
    structure = network.origin.structure
    before = network_parameters(structure, network.prediction), network_macs(structure, network.prediction)
    assert before == (sum(p.numel() for p in network.module.parameters()), 20 * (27 * 8 + 8 * 6) + 12)
    for group in network.groups:
        if group.prunable:
            small = network.shrink({group.name: list(group.units[1:])})
            after = network_parameters(structure, small.prediction), network_macs(structure, small.prediction)
            assert (before[0] - after[0], before[1] - after[1]) == (group.cost.parameters, group.cost.macs)


class Heads(nn.Module):
    """An axis that is a product: heads and their dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(12, 12) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(-1, (3, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        result: Tensor = self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return result


def test_an_axis_of_two_groups_gives_each_index_a_unit_of_each() -> None:
    network = fxsparse.trace(Heads().eval(), torch.randn(2, 5, 12))
    coordinates = Coordinates(network.origin.structure)
    found: dict[int, np.ndarray[tuple[int], np.dtype[np.int64]]] = {}
    for name, places in coordinates.places.items():
        for place in places:
            if (place.member.tensor, place.member.axis) == ("q.weight", 0):
                found[len(network.group(name).units)] = place.units
    assert set(found) == {3, 4}
    assert found[3].tolist() == np.repeat(range(3), 4).tolist() and found[4].tolist() == np.tile(range(4), 3).tolist()


def test_units_agree_with_what_a_shrink_keeps(network: fxsparse.Network) -> None:
    kept = [0, 3, 7]
    small = network.shrink({"a": kept})
    for place in unit_indices(network.origin.structure, "a"):
        indices = np.flatnonzero(np.isin(place.units, kept)).tolist()
        assert list(small.kept[place.member.tensor][place.member.axis]) == indices

"""The group graph as a file that any browser shows."""

from __future__ import annotations

from xml.etree import ElementTree

import torch
from torch import nn

import fxsparse
from fxsparse.report.graph_file import svg

SVG = "{http://www.w3.org/2000/svg}"


def _lanes(text: str) -> dict[str, str]:
    """Group -> how its lane is drawn."""
    return {
        str(each.findtext(f"{SVG}title")): str(each.get("class"))
        for each in ElementTree.fromstring(text).iter(f"{SVG}g")
        if "lane" in str(each.get("class"))
    }


def test_each_group_has_a_lane_and_what_lost_units_is_seen() -> None:
    network = fxsparse.trace(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.Linear(6, 2)), torch.randn(3, 4))
    text = svg("a <model> & more", network.shrink({"0": [1, 2, 3]}))
    lanes = _lanes(text)
    assert {group.name for group in network.groups} == set(lanes)
    assert lanes["0"] == "lane changed" and lanes["2"] == "lane whole" and lanes["3"] == "lane protected"
    assert any(each.text == "a <model> & more" for each in ElementTree.fromstring(text).iter(f"{SVG}text"))

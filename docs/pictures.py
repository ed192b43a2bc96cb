"""The pictures of docs/concepts, drawn from real analyses: `python docs/pictures.py` writes them; `--check` says which are out of date.

A row is an axis of a tensor, a cell one of its coordinates. Colours are groups; a cell whose unit is gone is an empty outline. An axis of
two groups (heads and the channels inside them) has cells of two halves.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxsparse
from fxsparse.channels.coordinates import Coordinates

FOLDER = Path(__file__).resolve().parent / "concepts" / "pictures"
COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377")
PROTECTED = "#bbbbbb"
CELL, ROW, LEFT = 15, 26, 250


class Residual(nn.Module):
    """Two convolutions on a residual stream of eight channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1 = nn.Conv2d(8, 6, 3, padding=1)
        self.conv2 = nn.Conv2d(6, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.conv2(F.relu(self.conv1(x))))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


class Concatenation(nn.Module):
    """What two branches make lies side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 5, 1)
        self.right = nn.Conv2d(3, 4, 1)
        self.both = nn.Conv2d(9, 6, 1)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.both(F.relu(torch.cat([self.left(x), self.right(x)], 1))))
        scores: Tensor = self.head(x.mean((2, 3)))
        return scores


class Attention(nn.Module):
    """Two heads of three channels, packed as usual: queries, keys and values in one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 4)
        self.qkv = nn.Linear(4, 18, bias=False)
        self.project = nn.Linear(6, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        batch, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, 2, 3).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v)
        x = x + self.project(y.transpose(1, 2).reshape(batch, tokens, -1))
        scores: Tensor = self.head(x.mean(1))
        return scores


def rows(network: fxsparse.Network, plan: Mapping[str, Sequence[int]], tensors: Iterable[str]) -> list[str]:
    """One line of SVG elements for each axis of these tensors."""
    small = network.shrink(plan)
    coordinates = Coordinates(network.origin.structure)
    free = [group for group in network.groups if group.prunable]
    colour = {group.name: COLOURS[i] for i, group in enumerate(free)}
    drawn = []
    for key in tensors:
        shape = network.module.state_dict()[key].shape
        for axis, size in enumerate(shape[:2]):
            kept = set(small.kept[key][axis])
            cells = []
            for index in range(size):
                fills = [colour[name] for name in colour if unit_of(coordinates, name, key, axis, index) >= 0] or [PROTECTED]
                cells.append(cell(index, fills, index in kept))
            said = f"{key}, axis {axis}"
            drawn.append(f'<text x="{LEFT - 10}" y="12" text-anchor="end">{escape(said)}</text>{"".join(cells)}')
    names = "".join(
        f'<rect x="{20 + 200 * i}" y="0" width="11" height="11" rx="2" fill="{colour[g.name]}"/>'
        f'<text x="{36 + 200 * i}" y="10">{escape(f"{g.name} ({len(g.units)})")}</text>'
        for i, g in enumerate(free)
    )
    return [*drawn, names]


def unit_of(coordinates: Coordinates, group: str, key: str, axis: int, index: int) -> int:
    """The number of the unit that a coordinate belongs to, in this group; -1 for none."""
    found = [place.units[index] for place in coordinates.places[group] if (place.member.tensor, place.member.axis) == (key, axis)]
    return max((int(unit) for unit in found), default=-1)


def cell(index: int, fills: list[str], there: bool) -> str:
    x, size = LEFT + index * (CELL + 2), CELL
    if not there:
        return (
            f'<rect x="{x}" y="0.5" width="{size - 1}" height="{size - 1}" rx="2" fill="none" stroke="{fills[0]}" stroke-dasharray="2 2"/>'
        )
    height = size / len(fills)
    return "".join(f'<rect x="{x}" y="{i * height:g}" width="{size}" height="{height:g}" fill="{fill}"/>' for i, fill in enumerate(fills))


def picture(lines: list[str], title: str) -> str:
    """A self-contained SVG on a light ground, readable in light and dark pages."""
    placed = "".join(f'<g transform="translate(0 {14 + i * ROW})">{line}</g>\n' for i, line in enumerate(lines))
    height = 16 + ROW * len(lines)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 {height}" font-family="monospace" font-size="12" fill="#333333">\n'
        f'<title>{escape(title)}</title>\n<rect width="640" height="{height}" rx="8" fill="#fafafa"/>\n{placed}</svg>\n'
    )


def drawn() -> dict[str, str]:
    """File name -> what belongs in it."""
    residual = fxsparse.trace(Residual(), torch.randn(1, 3, 8, 8))
    weights = ("stem.weight", "conv1.weight", "conv2.weight", "head.weight")
    concat = fxsparse.trace(Concatenation(), torch.randn(1, 3, 8, 8))
    attention = fxsparse.trace(Attention(), torch.randn(1, 7, 5))
    heads = {g.name: g for g in attention.groups if g.prunable and g.name.startswith("qkv")}
    kinds = {g.kind: g.name for g in heads.values()}
    packed = ("qkv.weight", "project.weight")
    branches = ("left.weight", "right.weight", "both.weight")
    fewer = {"stem": [0, 1, 2, 4, 5, 7], "conv1": [0, 2, 3, 5]}
    return {
        "residual.svg": picture(rows(residual, {}, weights), "The groups of a residual network"),
        "residual-smaller.svg": picture(rows(residual, fewer, weights), "Two channels of the stream and two inside are gone"),
        "concatenation.svg": picture(rows(concat, {"left": [0, 1, 3, 4], "right": [0, 1, 2]}, branches), "Concatenation joins arrays"),
        "head.svg": picture(rows(attention, {kinds["heads"]: [1]}, packed), "Head 0 is gone"),
        "head-channel.svg": picture(rows(attention, {kinds["head_dim"]: [0, 2]}, packed), "Channel 1 of every head is gone"),
    }


def main() -> int:
    files = drawn()
    stale = [name for name, text in files.items() if not (FOLDER / name).exists() or (FOLDER / name).read_text() != text]
    if "--check" in sys.argv:
        print("\n".join(stale) or "all pictures are up to date")
        return bool(stale)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name in stale:
        (FOLDER / name).write_text(files[name])
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Runs for the tests of reports: a small network that was really pruned, and data with every kind of hostile name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

import fxsparse
from fxsparse.passes import Prune
from fxsparse.report import Run, run_of, write_run

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">&\'"`{{ 7*7 }}\u2028'


class Small(nn.Module):
    """Two convolutions that share a residual stream, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.inner = nn.Conv2d(16, 24, 3, padding=1)
        self.outer = nn.Conv2d(24, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.outer(torch.relu(self.inner(x)))
        out: torch.Tensor = self.head(x.mean((2, 3)))
        return out


def networks() -> tuple[fxsparse.Network, fxsparse.Network]:
    """Before and after half of the MACs went."""
    network = fxsparse.trace(Small().eval(), torch.zeros(1, 3, 8, 8))
    return network, Prune(macs=0.5)(network).network


def pruned() -> Run:
    before, after = networks()
    return run_of("small", after, before, model="tests:Small", measures={"accuracy": 0.9})


def saved(folder: Path) -> Path:
    """A folder as `fxsparse prune --out` leaves it."""
    before, after = networks()
    fxsparse.save(after, folder)
    write_run(
        replace(run_of(folder.name, after, before, model="tests:Small"), command="fxsparse prune tests:Small"), folder / "report.json"
    )
    return folder


def hostile() -> Run:
    """A run whose every text tries to leave its place in the page."""
    run = pruned()
    groups = tuple(
        replace(
            group,
            name=HOSTILE + group.name,
            reason=HOSTILE,
            kind=HOSTILE,
            members=tuple(replace(m, tensor=HOSTILE + m.tensor) for m in group.members),
        )
        for group in run.groups
    )
    layers = tuple(replace(layer, name=HOSTILE + layer.name, kind=HOSTILE, tensor=HOSTILE) for layer in run.layers)
    texts = (HOSTILE,)
    return replace(
        run, name=HOSTILE, model=HOSTILE, command=HOSTILE, groups=groups, layers=layers, proofs=texts, notes=texts, provenance=texts,
        commands=texts, environment={HOSTILE: HOSTILE}, epochs=({"epoch": 1, "accuracy": 0.5, "reported": HOSTILE, HOSTILE: HOSTILE},),
    )  # fmt: skip

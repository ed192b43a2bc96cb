"""Analysis needs no memory for weights; shrinking none beyond the result and the journal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import fxsparse

MARK = Path("/proc/self/clear_refs")  # writing 5 to it sets the high-water mark of this process back
MB = 1 << 20
needs_marks = pytest.mark.skipif(not MARK.exists(), reason="the high-water mark of a process is read as Linux keeps it")


def kilobytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1])


class Growth:
    """The most memory that this process held in a block, beyond what it held before."""

    def __enter__(self) -> Growth:
        MARK.write_text("5", encoding="ascii")
        self.held = kilobytes("VmRSS")
        return self

    def __exit__(self, *exc: object) -> None:
        self.bytes = (kilobytes("VmHWM") - self.held) * 1024


def layers(width: int, device: str = "cpu") -> nn.Module:
    with torch.device(device):
        return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 8))


def test_weights_that_fit_into_no_memory_are_analysed() -> None:
    network = fxsparse.trace(layers(1 << 18, device="meta"), torch.ones(1, 8, device="meta"))  # 256 GB
    assert [(group.name, len(group.units)) for group in network.groups if group.prunable] == [("0", 1 << 18), ("2", 1 << 18)]


@needs_marks
def test_analysis_holds_no_copy_of_the_weights() -> None:
    model = layers(5000)
    fxsparse.trace(layers(10), torch.ones(1, 8))
    with Growth() as growth:
        network = fxsparse.trace(model, torch.ones(1, 8))
        assert len(network.groups) > 1
    assert growth.bytes < 40 * MB  # the weights are 100 MB


@needs_marks
def test_shrinking_holds_the_result_and_the_journal() -> None:
    network = fxsparse.trace(layers(5000), torch.ones(1, 8))
    plan = {group.name: group.units[::2] for group in network.groups if group.prunable}
    fxsparse.trace(layers(10), torch.ones(1, 8)).shrink({"0": [1]})
    with Growth() as growth:
        small = network.shrink(plan)
    result = sum(tensor.nbytes for tensor in small.tensors().values())
    journal = sum(tensor.nbytes for tensor in small.journal.tensors.values())
    assert journal > 100_000_000 > 4 * result / 1.1
    assert growth.bytes < result + journal + 40 * MB  # a plain index_select along each axis takes 50 more

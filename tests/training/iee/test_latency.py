"""Latency as a budget, on a table that is made up, and once on a real engine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

import fxsparse
from fxsparse.budgets.latency_table import LatencyTable, _key, widths_of
from fxsparse.engines import engine
from fxsparse.engines.layers import Convolution, Layer, Product
from fxsparse.errors import BudgetError
from fxsparse.network import Network
from fxsparse.training.checkpoint import load_checkpoint, save_checkpoint
from fxsparse.training.iee.channels import ExploitExploreChannels
from fxsparse.training.iee.latency import Latency
from tests.training.iee.small import batch, same

ROOT = Path(__file__).resolve().parents[3]


class Staircase(LatencyTable):
    """Layers take time for every four channels that they have begun."""

    def time(self, layer: Layer) -> float:
        assert isinstance(layer, Convolution | Product)
        one, other = widths_of(layer)
        return self.times.setdefault(_key(layer), 1e-3 * (-(-one // 4)) * (-(-other // 4)))


def chain() -> Network:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU()]
    return fxsparse.trace(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 4)), torch.randn(1, 3, 6, 6))


def made(network: Network, table: LatencyTable) -> Latency:
    return Latency(network, table, measured=0.02, remeasure=False)


def table() -> Staircase:
    return Staircase(engine("onnxruntime", threads=1), {})


def run(stop: int, start: ExploitExploreChannels | None = None, done: int = 0, **options: Any) -> ExploitExploreChannels:
    sparsifier = start
    if sparsifier is None:
        network = chain()
        optimizer = torch.optim.SGD(network.module.parameters(), lr=0.05, momentum=0.9)
        given = {"steps": 24, "cycles": 2, "estimate": 2, "explore": 2, "growth": 0.5, "part": 0.6, **options}
        sparsifier = ExploitExploreChannels(network, optimizer, spending=made(network, table()), **given)
    sparsifier.model.train()
    for step in range(done, stop):
        images, labels = batch(step)
        sparsifier.optimizer.zero_grad()
        F.cross_entropy(sparsifier.model(images), labels).backward()
        sparsifier.step()
    return sparsifier


def test_the_whole_network_takes_what_was_measured() -> None:
    network = chain()
    latency = made(network, table())
    assert latency(network, network.living) == pytest.approx(0.02)
    small = network.shrink({"0": [0, 1, 2, 3]})
    assert latency(small, small.living) < 0.02


def test_the_budget_holds_and_comes_back_beside_what_lives() -> None:
    sparsifier = run(24)
    costs = [event.total("living") for event in sparsifier.timeline.events]
    assert sparsifier.density <= 0.6
    assert costs[0] == 20 and costs[1] < costs[0] and costs[2] > costs[1]
    whole = run(11)  # in the first growth
    assert whole.spending(whole.network, whole.network.living) <= 1.5 * 0.6 * whole.whole


def test_infinite_worth_stays_when_nothing_else_fits() -> None:
    network = chain()
    latency = made(network, table())
    worth = {"0": torch.tensor([torch.inf, 1, 2, 3, 4, torch.inf, 5, 6]), "3": torch.full((12,), torch.inf)}
    kept = latency.best_within(network, worth, 1e-9, 1)
    assert kept["0"] == (0, 5) and kept["3"] == tuple(range(12))
    with pytest.raises(BudgetError):
        latency.best_within(network, {name: torch.ones(len(line)) for name, line in worth.items()}, 1e-9, 1)


def test_the_best_of_each_group_are_kept() -> None:
    network = chain()
    latency = made(network, table())
    worth = {"0": torch.rand(8), "3": torch.rand(12)}
    kept = latency.best_within(network, worth, 0.5 * 0.02, 1)
    assert latency(network, kept) <= 0.5 * 0.02
    for name, scores in worth.items():
        assert set(scores.argsort(descending=True)[: len(kept[name])].tolist()) == set(kept[name])


def test_a_saved_run_goes_on_with_its_measurements() -> None:
    whole = run(24)
    first = run(9)
    assert isinstance(first.spending, Latency)
    first.spending.anchor = 0.01, 0.0125
    later = run(0)
    later.load_state_dict(first.state_dict(), first.optimizer.state_dict())
    assert isinstance(later.spending, Latency) and later.spending.correction == pytest.approx(1.25)
    later.spending.anchor = None
    run(24, later, 9)
    assert same(later.state_dict()["network"], whole.state_dict()["network"])


def test_predictions_are_right_for_the_whole_and_for_what_was_measured() -> None:
    """Were one factor laid on all, a small network that is faster than told would make the whole one fit any budget."""
    network = chain()
    latency = made(network, table())
    small = network.shrink({"0": [0, 1, 2, 3], "3": [0, 1, 2, 3]})
    told = latency(small, small.living)
    latency.remeasure = True
    latency._measured = lambda networks: {"first": 4.0, "small": 4.0 * 0.3 * told / 0.02}  # type: ignore[method-assign]
    off = latency.settle(small, 0.01)
    assert latency.reports[0][0] == told and latency.reports[0][1] == pytest.approx(0.3 * told)
    assert off == pytest.approx(0.3 * told / 0.01 - 1)
    assert latency(small, small.living) == pytest.approx(0.3 * told)
    assert latency(network, network.living) == pytest.approx(0.02)
    middle = network.shrink({"3": [0, 1, 2, 3]})
    assert 0.3 * told < latency(middle, middle.living) < 0.02
    smaller = network.shrink({"0": [0], "3": [0]})
    assert latency(smaller, smaller.living) <= 0.3 * told
    kept = latency.best_within(network, {"0": torch.rand(8), "3": torch.rand(12)}, 0.5 * 0.02, 1)
    assert len(kept["0"]) + len(kept["3"]) < 20


def test_the_last_prune_is_corrected_until_the_measurement_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    sparsifier = run(0, cycles=0, explore=0, growth=0.0)
    latency = sparsifier.spending
    assert isinstance(latency, Latency)
    latency.remeasure, plain = True, made(chain(), table())

    def slower(networks: dict[str, Network]) -> dict[str, float]:
        """Small networks take a quarter more than the table says."""
        return {name: plain(n, n.living) * (1.0 if name == "first" else 1.25) for name, n in networks.items()}

    monkeypatch.setattr(latency, "_measured", slower)
    run(24, sparsifier)
    small = sparsifier.network
    assert latency.correction == pytest.approx(1.25)
    assert 1.25 * plain(small, small.living) <= 0.6 * sparsifier.whole
    assert len(latency.reports) >= 2


def test_a_prune_that_came_out_too_fast_is_made_again_for_later_ones_may_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    sparsifier = run(0, cycles=2, explore=0, growth=0.0, ramp=0.0)
    latency = sparsifier.spending
    assert isinstance(latency, Latency)
    latency.remeasure, plain, widths = True, made(chain(), table()), []

    def faster(networks: dict[str, Network]) -> dict[str, float]:
        """Small networks take two thirds of what the table says."""
        widths.append(sum(map(len, networks["small"].living.values())))
        return {name: plain(n, n.living) * (1.0 if name == "first" else 2 / 3) for name, n in networks.items()}

    monkeypatch.setattr(latency, "_measured", faster)
    run(24, sparsifier)
    assert len(widths) > 1 and widths[1] > widths[0]  # the first prune, measured and made again
    small = sparsifier.network
    assert 0.8 * 0.6 * sparsifier.whole < 2 / 3 * plain(small, small.living) <= 1.03 * 0.6 * sparsifier.whole


def measuring(folder: Path, rank: int) -> None:
    """One of two processes; the second must not measure."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    LatencyTable.open = classmethod(lambda cls, on, folder=None: Staircase(on, {}))  # type: ignore[method-assign, assignment]
    calls: list[int] = []

    def timed(self: Latency, networks: Mapping[str, Network]) -> dict[str, float]:
        assert rank == 0
        calls.append(len(networks))
        return {"": 0.03} if "" in networks else {"first": 0.03, "small": 0.03 * (0.5 + 0.01 * len(calls))}

    Latency._timed = timed  # type: ignore[method-assign]
    build = "fxsparse.training.iee.latency.build_profiled"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, lambda on, network: (None, ()))
        if rank == 1:
            patch.setattr("fxsparse.budgets.latency_table.runnable", lambda *_: pytest.fail("the second process measures"))
        network = chain()
        optimizer = torch.optim.SGD(network.module.parameters(), lr=0.05)
        sparsifier = ExploitExploreChannels(network, optimizer, latency=0.6, steps=24, cycles=2, estimate=2, explore=2, growth=0.5)
        run(24, sparsifier)
    save_checkpoint(folder / f"{rank}.pt", sparsifier.state_dict())
    dist.destroy_process_group()


def test_of_several_processes_the_first_measures_for_all(tmp_path: Path) -> None:
    code = "import sys, torch; from pathlib import Path; from tests.training.iee.test_latency import measuring; torch.set_num_threads(1); "
    code += "measuring(Path(sys.argv[1]), int(sys.argv[2]))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    started = [subprocess.Popen([*command, str(rank)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for rank in range(2)]
    for process in started:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors.decode()
    one, other = (load_checkpoint(tmp_path / f"{rank}.pt") for rank in range(2))
    assert one["latency"]["reports"] and one["latency"]["reports"] == other["latency"]["reports"]
    assert one["active"] == other["active"] and same(one["network"], other["network"])


@pytest.mark.slow
def test_on_a_real_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FXSPARSE_CACHE", str(tmp_path))
    network = chain()
    latency = Latency.on(network, "onnxruntime", 1)
    small = network.shrink({"0": [0, 1], "3": [0, 1, 2]})
    latency.settle(small, 1.0)
    (predicted, measured), *rest = latency.reports
    assert not rest and predicted > 0
    assert latency(small, small.living) == pytest.approx(measured)
    assert np.isfinite(latency.correction) and network.module.training


def test_a_run_goes_on_by_what_its_first_process_measured() -> None:
    whole, first = run(24), run(9)
    network = chain()
    optimizer = torch.optim.SGD(network.module.parameters(), lr=0.05, momentum=0.9)
    busy = Latency(network, table(), measured=0.03, remeasure=False)  # than when the run began
    options: dict[str, Any] = {"steps": 24, "cycles": 2, "estimate": 2, "explore": 2, "growth": 0.5, "part": 0.6}
    later = ExploitExploreChannels(network, optimizer, spending=busy, **options)
    later.load_state_dict(first.state_dict(), first.optimizer.state_dict())
    run(24, later, 9)
    assert later.whole == whole.whole
    assert same(later.state_dict()["network"], whole.state_dict()["network"])

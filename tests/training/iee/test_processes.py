"""Killed at any stage and resumed, or split over processes, a run is the same run."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from fxsparse.training.checkpoint import load_checkpoint
from fxsparse.training.iee import ExploitExplore
from tests.training.iee import small
from tests.training.iee.small import OPTIONS, everything, network, same, sgd, train

ROOT = Path(__file__).resolve().parents[3]


def script(*arguments: str | Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.training.iee.small", *map(str, arguments)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def test_killed_in_every_stage_and_resumed(tmp_path: Path) -> None:
    model = network()
    optimizer = sgd(model)
    sparsifier = ExploitExplore(model, optimizer, criterion="taylor", **OPTIONS)
    train(model, sparsifier, optimizer)
    run = script("killed", tmp_path)
    output, errors = run.communicate(timeout=100)
    assert run.returncode == 0, errors.decode()
    stages = [line.split() for line in output.decode().splitlines()]
    killed = str(-signal.SIGKILL)
    expected = [("estimate", killed), ("prune", killed), ("exploit", killed), ("explore", killed), ("grow", killed), ("end", "0")]
    assert [(stage, status) for stage, status, _ in stages] == expected
    assert [int(step) for _, _, step in stages] == [16, 16, 19, 25, 28, 40]  # the second cycle is steps 16 to 30
    end = load_checkpoint(tmp_path / "checkpoint.pt")
    assert same({name: end[name] for name in ("model", "optimizer", "sparsifier")}, everything(model, optimizer, sparsifier))


def test_channels_killed_in_every_stage_and_resumed(tmp_path: Path) -> None:
    alone = small.channels(0, 1)
    run = script("killed-channels", tmp_path)
    output, errors = run.communicate(timeout=200)
    assert run.returncode == 0, errors.decode()
    stages = [line.split() for line in output.decode().splitlines()]
    killed = str(-signal.SIGKILL)
    assert [(stage, status) for stage, status, _ in stages] == [
        *((stage, killed) for stage in ("estimate", "prune", "exploit", "explore", "grow")),
        ("end", "0"),
    ]
    assert [int(step) for _, _, step in stages] == [8, 8, 10, 12, 12, 20]
    end = load_checkpoint(tmp_path / "checkpoint.pt")
    assert same(end["run"], alone.state_dict()) and same(end["optimizer"], alone.optimizer.state_dict())
    assert end["run"]["timeline"] == alone.timeline.to_dict() and end["run"]["active"] == alone.state_dict()["active"]


def runs(mode: str, folder: Path, world: int = 2) -> list[dict[str, Any]]:
    """What every process of a distributed run saved; all the same, to the bit."""
    processes = [script(mode, folder, str(rank), str(world)) for rank in range(world)]
    for process in processes:
        _, errors = process.communicate(timeout=100)
        assert process.returncode == 0, errors.decode()
    saved = [load_checkpoint(folder / f"{rank}.pt") for rank in range(world)]
    assert all(same(saved[0], other) for other in saved)
    return saved


def close(values: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> None:
    assert list(values) == list(others)
    for name, value in values.items():
        torch.testing.assert_close(value, others[name], rtol=1e-3, atol=1e-5)


def test_processes_equal_one(tmp_path: Path) -> None:
    saved = runs("distributed", tmp_path)[0]
    model = small.without_statistics()
    optimizer = sgd(model)
    sparsifier = ExploitExplore(model, optimizer, criterion="taylor", **OPTIONS)
    train(model, sparsifier, optimizer)
    assert same(saved["sparsifier"]["masks"], dict(sparsifier.masks))
    close(saved["model"], model.state_dict())


def test_processes_equal_one_in_the_channel_form(tmp_path: Path) -> None:
    saved = runs("channels", tmp_path)[0]["run"]
    alone = small.channels(0, 1)
    assert saved["active"] == {name: list(units) for name, units in alone.active.items()}
    assert saved["timeline"] == alone.timeline.to_dict()
    close(saved["network"]["values"], dict(alone.model.state_dict()))

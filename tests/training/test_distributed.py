"""Several processes are one process with the same global batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from fxsparse.training.checkpoint import load_checkpoint
from fxsparse.training.distributed import fingerprint
from tests.training.processes import STEPS, run, started, trained
from tests.training.small import same


def results(folder: Path, world: int, *tasks: str) -> list[dict[str, Any]]:
    """What each rank saved."""
    for process in started(folder, world, *tasks):
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors.decode()
    return [load_checkpoint(folder / f"{rank}.pt") for rank in range(world)]


def require_equal_to_one_process(name: str, ranks: list[dict[str, Any]]) -> None:
    alone = run(name, 0, 1)
    assert len(alone["masks"]) == STEPS and not same(alone["masks"][0], alone["masks"][-1])
    for saved in ranks:
        assert same(saved[name]["masks"], alone["masks"])  # at every step
        assert same(saved[name]["model"], ranks[0][name]["model"])
        assert saved[name]["names"] == alone["names"]
    for key, value in alone["model"].items():
        torch.testing.assert_close(ranks[0][name]["model"][key], value, rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return results(tmp_path_factory.mktemp("two"), 2, "rigl", "set", "sr-ste", "sharded", "other-seeds", "trainer")


@pytest.mark.parametrize("name", ["rigl", "set", "sr-ste"])
def test_two_processes(name: str, two: list[dict[str, Any]]) -> None:
    require_equal_to_one_process(name, two)


def test_four_processes(tmp_path: Path) -> None:
    require_equal_to_one_process("rigl", results(tmp_path, 4, "rigl"))


def test_the_trainer_is_one_run_on_two_processes(two: list[dict[str, Any]], tmp_path: Path) -> None:
    alone = trained(tmp_path)
    for saved in two:
        assert same(saved["trainer"], two[0]["trainer"])
    lines = two[0]["trainer"]["lines"]
    assert len(lines) == len(alone["lines"]) == 2
    for mine, theirs in zip(lines, alone["lines"], strict=True):
        assert mine.keys() == theirs.keys()
        for key, value in theirs.items():
            assert mine[key] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-3)), key
    for key, value in alone["model"].items():
        torch.testing.assert_close(two[0]["trainer"]["model"][key], value, rtol=1e-3, atol=1e-4)


def test_sharded_parameters_are_refused(two: list[dict[str, Any]]) -> None:
    for saved in two:
        said = saved["sharded"]["said"]
        assert "0.weight is sharded (DTensor), and a mask needs the whole tensor; use DistributedDataParallel" in said


def test_ranks_that_disagree_are_told(two: list[dict[str, Any]]) -> None:
    for saved in two:
        assert "the masks of rank 1 differ from those of rank 0; give every rank the same seed" in saved["other-seeds"]["said"]


def test_fingerprints_tell_masks_apart() -> None:
    seen = {int(fingerprint({"a": torch.zeros(8, dtype=torch.bool), "b": torch.zeros(8, dtype=torch.bool)}))}
    for name in "ab":
        for place in range(8):
            masks = {key: torch.zeros(8, dtype=torch.bool) for key in "ab"}
            masks[name][place] = True
            seen.add(int(fingerprint(masks)))
    assert len(seen) == 17

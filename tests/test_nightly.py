"""The long hunt itself: what it counts, what it survives, and how it goes on."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests import nightly


def pretend(network: Any, seed: int, trains: bool, say: Any) -> None:
    """A check in which seeds have a fate each."""
    faulthandler.disable()  # what happens to the child is meant
    if trains:
        say("original")
        if seed == 1:
            os.kill(os.getpid(), signal.SIGSEGV)
    say("shrink")
    if seed == 2:
        raise ValueError("two is wrong")
    if seed == 3:
        os.kill(os.getpid(), signal.SIGSEGV)
    while seed == 4:
        pass
    say("exchange")


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nightly, "check", pretend)
    monkeypatch.setattr(nightly, "random_network", lambda *_: None)


@pytest.mark.usefixtures("pretended")
def test_each_seed_has_its_outcome() -> None:
    found = {outcome.seed: (outcome.kind, outcome.why) for outcome in nightly.hunt(range(6), workers=2, seconds=1)}
    assert found == {
        0: (nightly.HELD, ""),
        1: (nightly.HELD_WITHOUT_TRAINING, ""),
        2: (nightly.FAILED, "shrink: ValueError: two is wrong"),
        3: (nightly.FAILED, "shrink: the process died of SIGSEGV"),
        4: (nightly.FAILED, "shrink: took too long"),
        5: (nightly.HELD, ""),
    }


@pytest.mark.usefixtures("pretended")
def test_a_hunt_goes_on_where_it_ended_and_tries_failures_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = tmp_path / "nightly.json"

    def call(*more: str) -> tuple[int, list[dict[str, Any]]]:
        status = nightly.main(["--count", "2", "--results", str(results), *more])
        return status, json.loads(results.read_text())["runs"]

    status, runs = call("--start", "1")
    assert status == 1 and runs[0]["seeds"] == [1, 3] and runs[0]["counts"] == {nightly.HELD_WITHOUT_TRAINING: 1, nightly.FAILED: 1}
    status, runs = call("--start", "5")
    assert status == 0 and runs[1]["seeds"] == [5, 7] and runs[1]["counts"] == {nightly.HELD: 2}
    _, runs = call()
    assert len(runs) == 2 and runs[1]["seeds"] == [5, 9]
    monkeypatch.setattr(nightly, "code", lambda: "other")
    monkeypatch.setattr(nightly, "check", lambda *_: None)
    _, runs = call()
    assert runs[2]["seeds"] == [9, 11] and runs[2]["mended"] == {"2": "shrink: ValueError: two is wrong"}
    assert nightly.Book.open(results).failed_before(runs[2]) == {}


def test_one_real_network() -> None:
    assert [outcome.kind for outcome in nightly.hunt([103], workers=1, seconds=120)] == [nightly.HELD]

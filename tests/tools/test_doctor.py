"""`fxsparse doctor`."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from fxsparse.tools import doctor as tool

app = typer.Typer()
app.command()(tool.doctor)


def test_the_core_works_and_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "ENGINES", ("onnxruntime",))  # the compiler of inductor takes its time
    done = CliRunner().invoke(app, ["--json"])
    said = json.loads(done.stdout)
    assert done.exit_code == 0
    assert said["core"] is None
    assert said["engines"] == {"onnxruntime": None}
    assert said["packages"]["torch"].startswith("2.")
    assert said["threads"]["cores"] >= 1


def test_only_a_broken_core_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool, "ENGINES", ("abacus",))
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 0
    assert "engine abacus: " in done.stdout
    assert "engine abacus: runs" not in done.stdout
    monkeypatch.setattr(tool, "core_problem", lambda: "torch is broken")
    done = CliRunner().invoke(app, [])
    assert done.exit_code == 1
    assert "core: torch is broken" in done.stdout


def test_more_threads_than_cores_is_advised_against() -> None:
    assert any("OMP_NUM_THREADS=2" in said for said in tool.advice({"cores": 2, "torch": 8, "OMP_NUM_THREADS": None}))
    assert not any("OMP_NUM_THREADS" in said for said in tool.advice({"cores": 8, "torch": 2, "OMP_NUM_THREADS": "2"}))

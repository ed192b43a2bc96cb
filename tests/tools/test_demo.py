"""The demo: what it shows is what it runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fxsparse
from fxsparse.errors import Error
from fxsparse.models.digits import digits_resnet
from fxsparse.report import read_sources
from fxsparse.tools import demo as module
from fxsparse.tools.cli import app
from fxsparse.tools.demo import RUNS, script_for, steps_of


def test_the_quick_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["demo", "--quick", "--out", "try", "--json"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    measures = {run["name"]: run["measures"] for run in said["runs"]}
    assert list(measures) == list(RUNS)
    assert measures["pruned"]["macs"] <= measures["dense"]["macs"] / 2 and measures["pruned"]["macs"] < measures["regrown"]["macs"]
    assert all(each["accuracy"] > 0.5 and each["latency_ms"] > 0 for each in measures.values())
    for name in RUNS:
        assert {"structure.json", "weights.safetensors", "model.onnx", "metrics.jsonl"} <= {
            file.name for file in Path("try", name).iterdir()
        }
    again = fxsparse.load("try/pruned", digits_resnet()[0])
    assert again.macs == measures["pruned"]["macs"]
    assert read_sources([Path("try/pruned")]).runs[0].proofs[0].startswith("equal to")
    assert "accuracy against latency" in Path("try/report.html").read_text(encoding="utf-8")
    script = Path("try/demo.py").read_text(encoding="utf-8")
    for step in steps_of(script):
        assert step.title in result.stderr
        assert all(f"    {line}".rstrip() in result.stderr for line in step.code.splitlines())


@pytest.mark.slow
def test_the_demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    monkeypatch.setenv("FXSPARSE_CACHE", str(tmp_path / "cache"))
    result = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "try")], catch_exceptions=False)
    assert result.exit_code == 0 and "latency" in result.stdout and "written: " in result.stdout


def test_every_step_says_what_it_does() -> None:
    for quick in (False, True):
        script = script_for(Path("a'b"), 2, quick)
        steps = steps_of(script)
        assert len(steps) == 10 and all(step.title and step.text and step.code for step in steps)
        compile(script, "demo.py", "exec")
        assert """Path("a'b")""" in script and ("latency=0.5" in script) != quick
    shown = "".join(step.code for step in steps)
    assert [line for line in script.splitlines() if line and not line.startswith(("#", '"""'))] == [
        line for line in shown.splitlines() if line
    ]


def test_a_folder_with_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "demo.py").write_text("print('mine')\n")
    (tmp_path / "dense").mkdir()
    with pytest.raises(Error, match="holds something else than a demo"):
        CliRunner().invoke(app, ["demo", "--out", str(tmp_path)], catch_exceptions=False)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["demo.py", "dense"]


def test_ctrl_c_leaves_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "try"

    def stopped(*_: object) -> None:
        (out / "dense").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "run_steps", stopped)
    for _ in range(2):
        assert CliRunner().invoke(app, ["demo", "--out", str(out)]).exit_code == 130
        assert not out.exists()


def test_an_earlier_demo_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "demo.py").write_text(script_for(tmp_path, 1))
    (tmp_path / "dense").mkdir()
    (tmp_path / "mine.txt").write_text("")
    monkeypatch.setattr(module, "run_steps", lambda *_: (_ for _ in ()).throw(Error("stop here")))
    with pytest.raises(Error, match="stop here"):
        CliRunner().invoke(app, ["demo", "--out", str(tmp_path)], catch_exceptions=False)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]

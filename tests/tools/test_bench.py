"""`fxsparse bench` and `fxsparse export`: what they print, write and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fxsparse.errors import LoweringError
from fxsparse.tools.cli import app

QUICK = ["--runs", "3", "--seconds", "0"]
MODEL = "fxsparse:resnet20"


def said(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None:
        raise result.exception
    return result.stdout


def test_a_model_its_pruned_self_and_a_file(tmp_path: Path) -> None:
    small, file = tmp_path / "small", tmp_path / "new" / "small.onnx"
    said("prune", MODEL, "--macs", "0.5", "--no-verify", "--out", str(small))
    written = json.loads(said("export", MODEL, "--saved", str(small), "--out", str(file), "--dynamic-batch", "--json"))
    assert file.exists() and written["max_error"] < 1e-4 and written["operators"]["Conv"] >= 19
    found = json.loads(said("bench", MODEL, str(small), str(file), "--model", MODEL, "--json", *QUICK))
    assert found["engine"]["engine"] == "onnxruntime" and found["engine"]["threads"] == 1
    first, second, third = found["contenders"]
    assert [each["name"] for each in (first, second, third)] == [MODEL, str(small), str(file)]
    assert first["ratio"] is None and second["ratio"]["low"] <= second["ratio"]["value"] <= second["ratio"]["high"]
    assert all(each["runs"] >= 3 and each["median_ms"] > 0 for each in (first, second, third))


def test_the_table(tmp_path: Path) -> None:
    file = tmp_path / "dense.onnx"
    assert f"written: {file}" in said("export", MODEL, "--out", str(file))
    printed = said("bench", str(file), *QUICK)
    assert "onnxruntime" in printed and "median ms" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "none.onnx"], "none.onnx is not there"),
        (["bench", "none.onnx", "--engine", "inductor"], "which onnxruntime runs, not inductor"),
        (["bench", MODEL, "--engine", "onnxruntim"], "there is no engine 'onnxruntim'.*onnxruntime"),
        (["export", MODEL, "--out", "x.onnx", "--precision", "fp12"], "precision is one of fp32, fp16, not 'fp12'"),
    ],
)
def test_refusals(arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LoweringError, match=message):
        said(*arguments)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_its_model_and_a_damaged_file(tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match="is a saved folder; say which model it was made from"):
        said("bench", str(tmp_path))
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(LoweringError, match="cannot be loaded by ONNX Runtime"):
        said("bench", str(tmp_path / "bad.onnx"))

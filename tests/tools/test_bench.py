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
    sizes = ["--batch", "3", "--input", "1,3,16,16"]
    found = json.loads(said("bench", MODEL, str(small), "--model", MODEL, "--json", *sizes, *QUICK))
    assert [each["inputs"] for each in found["contenders"]] == [[[3, 3, 16, 16]]] * 2
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
        (["bench", MODEL, "--precision", "fp7"], "precision is one of fp32, fp16, not 'fp7'"),
        (["bench", MODEL, "--engine", "inductor", "--precision", "fp7"], "precision is one of fp32, fp16, bf16, not 'fp7'"),
        (["export", MODEL, "--out", "x.onnx", "--precision", "fp12"], "precision is one of fp32, fp16, not 'fp12'"),
    ],
)
def test_refusals(arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LoweringError, match=message):
        said(*arguments)
    assert not list(tmp_path.iterdir())


def test_layers_and_reasons(tmp_path: Path) -> None:
    small, files = str(tmp_path / "small"), [str(tmp_path / "dense.onnx"), str(tmp_path / "small.onnx")]
    said("prune", MODEL, "--macs", "0.4", "--no-verify", "--out", small)
    said("export", MODEL, "--out", files[0])
    said("export", MODEL, "--saved", small, "--out", files[1])
    asked = ["bench", *files, *QUICK, "--profile", "--explain"]
    dense, pruned = json.loads(said(*asked, "--json"))["contenders"]
    assert sum(layer["macs"] for layer in dense["layers"]) > sum(layer["macs"] for layer in pruned["layers"]) > 0
    assert "explained" not in dense
    assert len(pruned["explained"]) == sum(layer["macs"] > 0 for layer in pruned["layers"]) == 20
    assert all(each["macs_ratio"] <= 1 for each in pruned["explained"])
    printed = said(*asked)
    assert "layers, " in printed and "MACs per ns" in printed and "others" in printed
    assert f"{files[1]} against {files[0]}, widths in steps of " in printed


def test_files_have_their_own_precision_and_sizes(tmp_path: Path) -> None:
    fixed, free = str(tmp_path / "fixed.onnx"), str(tmp_path / "free.onnx")
    said("export", MODEL, "--out", fixed)
    said("export", MODEL, "--out", free, "--precision", "fp16", "--dynamic-batch")
    found = json.loads(said("bench", free, free, "--batch", "5", "--json", *QUICK))
    assert [each["name"] for each in found["contenders"]] == [free, f"{free} #2"]
    assert all(each["inputs"] == [[5, 3, 32, 32]] and each["precision"] == "fp16" for each in found["contenders"])
    assert f"{free} runs on " in said("bench", fixed, free, *QUICK)
    with pytest.raises(LoweringError, match=r"takes '\w+' of shape \[2, 3, 32, 32\], and \[5, 3, 32, 32\] is asked for; export it with"):
        said("bench", fixed, "--batch", "5", *QUICK)
    with pytest.raises(LoweringError, match=r"fixed\.onnx is fp32, and fp16 is asked for; export it with --precision fp16"):
        said("bench", fixed, "--precision", "fp16", *QUICK)


def test_layers_are_not_told_by_every_engine() -> None:
    with pytest.raises(LoweringError, match="inductor does not tell the times of layers; --engine may be onnxruntime"):
        said("bench", MODEL, MODEL, "--engine", "inductor", "--explain")
    assert CliRunner().invoke(app, ["bench", MODEL, "--explain"]).exit_code == 2


def test_a_folder_without_its_model_and_a_damaged_file(tmp_path: Path) -> None:
    with pytest.raises(LoweringError, match="is a saved folder; say which model it was made from"):
        said("bench", str(tmp_path))
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    with pytest.raises(LoweringError, match="cannot be loaded by ONNX Runtime"):
        said("bench", str(tmp_path / "bad.onnx"))

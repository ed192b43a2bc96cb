"""`prune` to budgets and by pipelines, `export` and `bench`, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from typer.testing import CliRunner

from fxsparse.errors import Error
from fxsparse.tools.cli import app

MODEL = "fxsparse:resnet20"


def ran(*words: str | Path) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize("budget", ["--macs", "--parameters", "--memory", "--units"])
def test_prune_to_a_budget(tmp_path: Path, budget: str) -> None:
    said = json.loads(ran("prune", MODEL, budget, "0.7", "--align", "2", "--no-onnx", "--out", tmp_path / "o", "--json"))
    assert said["macs"][1] < said["macs"][0]
    assert said["max_error"] < 1e-9
    assert "70.0% asked for" in said["notes"][0]
    assert {"structure.json", "weights.safetensors"} <= {file.name for file in (tmp_path / "o").iterdir()}


def test_a_pipeline_then_export_then_bench(tmp_path: Path) -> None:
    out = ran("prune", MODEL, "--passes", "prune{macs=0.6},fold-batch-norm", "--out", tmp_path / "o", "--print-between")
    assert "fold-batch-norm: " in out and "proof: equal to" in out
    assert "written: " in ran("export", MODEL, "--saved", tmp_path / "o", "--out", tmp_path / "m.onnx")
    assert not any(node.op_type == "BatchNormalization" for node in onnx.load(tmp_path / "m.onnx").graph.node)
    text = ran("bench", MODEL, tmp_path / "o", tmp_path / "m.onnx", "--model", MODEL, "--runs", "3", "--seconds", "0", "--json")
    said = json.loads(text)
    assert said["engine"]["engine"] == "onnxruntime" and said["engine"]["threads"] == 1
    assert [line["ratio"] is None for line in said["contenders"]] == [True, False, False]
    assert all(line["median_ms"] > 0 and line["runs"] >= 3 for line in said["contenders"])
    assert "median ms" in ran("bench", tmp_path / "m.onnx", "--runs", "2", "--seconds", "0")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["prune", MODEL, "--macs", "0.001", "--out", "o"], "macs cannot go below"),
        (["prune", MODEL, "--passes", "prun", "--out", "o"], "there is no pass 'prun' (did you mean 'prune'"),
        (["prune", MODEL, "--macs", "0.5", "--align", "even", "--out", "o"], "align is a whole number or auto, not 'even'"),
        (["bench", "none.onnx"], "none.onnx is not there"),
        (["bench", MODEL, "--engine", "tensort"], "there is no engine 'tensort'"),
        (["bench", "."], "say which model it was made from"),
        (["export", MODEL, "--saved", "nothing", "--out", "m.onnx"], "structure.json is not there"),
        (["export", MODEL, "--out", "m.onnx", "--precision", "fp8"], "precision is one of fp32, fp16, not 'fp8'"),
    ],
)
def test_wrong_wishes(words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Error) as caught:
        ran(*words)
    assert said in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_more_than_one_budget_is_wrong_usage(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["prune", MODEL, "--macs", "0.5", "--units", "0.5", "--out", str(tmp_path / "o")])
    assert result.exit_code == 2

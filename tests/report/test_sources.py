"""Where runs come from: folders, training runs, measurements; and what is said of those that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import fxsparse
from fxsparse.errors import CheckpointError
from fxsparse.report import Run, read_folder, read_sources, write_run
from tests.report.examples import Small, networks, saved


def bench_file(path: Path, *names: str) -> Path:
    rows: list[dict[str, Any]] = [{"name": name, "median_ms": 1.0 + i, "p90_ms": 2.0, "variation": 0.01} for i, name in enumerate(names)]
    rows[-1]["ratio"] = {"value": 2.0, "low": 1.9, "high": 2.1, "told_apart": True}
    path.write_text(
        json.dumps({"engine": {"engine": "onnxruntime", "version": "1", "threads": 1, "precision": "fp32"}, "contenders": rows})
    )
    return path


def training_run(folder: Path) -> Path:
    folder.mkdir()
    lines = [{"epoch": i, "loss": 1 / i, "accuracy": 0.5 + i / 10, "reported": "test", "density": 0.5} for i in (1, 2, 3)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "result.json").write_text(json.dumps({"accuracy": 0.8, "parameters": 100, "nonzeros": 50, "loss": float("nan")}))
    save_file({"a.weight": torch.tensor([[1.0, 0.0], [0.0, 2.0]]), "a.bias": torch.zeros(2)}, str(folder / "weights.safetensors"))
    return folder


def test_a_saved_folder(tmp_path: Path) -> None:
    run = read_folder(saved(tmp_path / "small"))
    assert run.name == "small" and run.command == "fxsparse prune tests:Small" and any(group.changed for group in run.groups)
    assert run.measures["bytes"] == (tmp_path / "small" / "weights.safetensors").stat().st_size
    assert run.provenance[0].startswith("prune{macs=0.5}")


def test_a_folder_that_was_saved_from_python_needs_the_model(tmp_path: Path) -> None:
    before, after = networks()
    fxsparse.save(after, tmp_path / "small")
    bare = read_folder(tmp_path / "small")
    assert not bare.groups and "--model" in bare.notes[0] and f"inner: {len(after.living['inner'])} units are left" in bare.notes
    told = read_folder(tmp_path / "small", Small())
    assert {group.name: (group.before, group.after) for group in told.groups}["inner"] == (24, len(after.living["inner"]))
    assert told.measures["macs"] == after.macs < before.macs and not told.notes


def test_a_report_of_an_earlier_save_is_not_believed(tmp_path: Path) -> None:
    folder = saved(tmp_path / "small")
    before, _ = networks()
    fxsparse.save(before.shrink({"inner": [0]}), folder)
    stale = read_folder(folder)
    assert not stale.groups and "its report.json is of an earlier save" in stale.notes[0]
    assert {group.name: group.after for group in read_folder(folder, Small()).groups}["inner"] == 1


def test_a_training_run(tmp_path: Path) -> None:
    run = read_folder(training_run(tmp_path / "run"))
    assert [line["epoch"] for line in run.epochs] == [1, 2, 3]
    assert run.measures == {"accuracy": 0.8, "parameters": 100, "nonzeros": 50, "bytes": run.measures["bytes"]}
    assert [(line.tensor, line.nonzeros, line.weights) for line in run.densities] == [("a.weight", 2, 4)]


def test_a_run_that_was_killed_while_it_wrote(tmp_path: Path) -> None:
    folder = training_run(tmp_path / "run")
    (folder / "result.json").unlink()
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "lo')
    run = read_folder(folder)
    assert len(run.epochs) == 3 and run.measures["accuracy"] == pytest.approx(0.8)


def test_latencies_find_their_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "small")
    file = bench_file(tmp_path / "bench.json", "tests:Small", "small/model.onnx", "other:Model")
    found = read_sources([Path("small"), file])
    assert [run.name for run in found.runs] == ["small", "other:Model"]
    assert found.runs[0].measures["latency_ms"] == 2.0 and found.runs[0].before["latency_ms"] == 1.0
    assert found.runs[1].measures == {"latency_ms": 3.0}
    assert found.benches[0].engine == "onnxruntime 1, 1 threads, fp32" and found.benches[0].rows[2]["ratio"]["low"] == 1.9


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    for parent in ("a", "b"):
        (tmp_path / parent).mkdir()
        training_run(tmp_path / parent / "run")
    assert [run.name for run in read_sources([tmp_path / "a" / "run", tmp_path / "b" / "run"]).runs] == ["run", "run (2)"]


def test_files_alone(tmp_path: Path) -> None:
    folder, run = saved(tmp_path / "small"), training_run(tmp_path / "run")
    found = read_sources([folder / "report.json", run / "metrics.jsonl"])
    assert found.runs[0].groups and len(found.runs[1].epochs) == 3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.json", None, "is not there"),
        ("x.json", "{", "is no JSON"),
        ("x.json", "[]", "neither a report.json nor"),
        ("x.json", '{"contenders": []}', "'engine' or 'contenders' is missing"),
        ("x.json", '{"engine": {}, "contenders": [{"name": "a", "median_ms": NaN}]}', "lacks its name or median_ms"),
        ("x.jsonl", "{}\n{\n{}\n", "line 2 is damaged"),
        ("x.jsonl", "[]\n{}\n", "line 1 is damaged"),
        ("report.html", "<html>", "is no JSON"),
    ],
)
def test_files_that_are_none(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(CheckpointError) as caught:
        read_sources([tmp_path / name])
    assert message in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("structure.json", '{"living": {"a": 3}}', "'living' should be a table of lists"),
        ("result.json", "[]", "is no result of a run"),
        ("timeline.json", '{"events": [{}], "spans": []}', "is no timeline"),
        ("weights.safetensors", "no tensors", "is damaged"),
    ],
)
def test_folders_that_are_damaged(tmp_path: Path, file: str, content: str, message: str) -> None:
    folder = training_run(tmp_path / "run")
    (folder / file).write_text(content)
    with pytest.raises(CheckpointError) as caught:
        read_folder(folder)
    assert message in str(caught.value) and file in str(caught.value)


def test_a_report_whose_timeline_is_none(tmp_path: Path) -> None:
    write_run(Run("run", timeline={"a": "b"}), tmp_path / "report.json")
    with pytest.raises(CheckpointError, match=r"report.json is no timeline of a run"):
        read_folder(tmp_path)


def test_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds nothing to report"):
        read_folder(tmp_path)

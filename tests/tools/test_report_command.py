"""`fxsparse report`, and the reports that `prune` writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fxsparse.errors import Error
from fxsparse.tools.cli import app
from tests.report.examples import saved


def ran(*words: str | Path) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_prune_writes_everything_and_report_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = json.loads(ran("prune", "fxsparse:resnet20", "--macs", "0.5", "--out", "small", "--json").stdout)
    assert said["files"] == ["model.onnx", "report.html", "report.json", "structure.json", "weights.safetensors"]
    assert sorted(file.name for file in Path("small").iterdir()) == said["files"]
    assert "layer1.0.conv1" in Path("small/report.html").read_text(encoding="utf-8")
    told = json.loads(ran("report", "small", "--json", "--title", "A & B").stdout)
    (run,) = told["runs"]
    assert run["model"] == "fxsparse:resnet20" and run["measures"]["macs"] == said["macs"][1]
    assert run["proofs"][0].startswith("equal to") and all(after < before for before, after in run["widths"].values())
    assert "<h1>A &amp; B</h1>" in Path("report.html").read_text(encoding="utf-8")


def test_what_an_earlier_prune_left_does_not_stay_beside_another_network(tmp_path: Path) -> None:
    out = tmp_path / "small"
    out.mkdir()
    for name in ("model.onnx", "journal.safetensors", "notes.txt"):
        (out / name).write_text("old")
    text = ran("prune", "fxsparse:resnet20", "--units", "0.5", "--out", out, "--no-onnx").stdout
    assert sorted(file.name for file in out.iterdir()) == [
        "notes.txt",
        "report.html",
        "report.json",
        "structure.json",
        "weights.safetensors",
    ]
    assert "(report.html, report.json, structure.json, weights.safetensors)" in text


def test_onnx_that_a_pass_wrote_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = "prune{macs=0.5},lower-onnx{path=small/model.onnx,dynamic_batch=true}"
    said = json.loads(ran("prune", "fxsparse:resnet20", "--passes", text, "--out", "small", "--json").stdout)
    assert "model.onnx" not in said["files"] and Path("small/model.onnx").is_file()


def test_a_network_that_cannot_be_exported_is_saved_with_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd_model.py").write_text(
        "import torch\n"
        "class Odd(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a, self.b = torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)\n"
        "    def forward(self, x, *, scale):\n"
        "        return self.b(torch.relu(self.a(x)) * scale)\n"
        "def odd():\n"
        "    return Odd(), (torch.randn(2, 8),), {'scale': 2.0}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    said = json.loads(ran("prune", "odd_model:odd", "--units", "0.5", "--out", "small", "--json").stdout)
    assert said["files"] == ["report.html", "report.json", "structure.json", "weights.safetensors"]
    assert said["notes"][-1].startswith("no model.onnx: ")
    with pytest.raises(Error):
        ran("prune", "odd_model:odd", "--units", "0.5", "--out", "other", "--onnx")
    assert not Path("other").exists()


def test_for_people(tmp_path: Path) -> None:
    folder = saved(tmp_path / "small")
    text = ran("report", folder, "--out", tmp_path / "deep" / "page.html").stdout
    assert "small: " in text and "groups changed" in text and "page.html (" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [(["nothing"], "nothing is not there"), (["."], "holds nothing to report"), (["small", "--out", "small"], "small is a folder")],
)
def test_wrong_wishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str) -> None:
    saved(tmp_path / "small")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Error, match=message):
        ran("report", *words)
    assert [file.name for file in tmp_path.iterdir()] == ["small"]

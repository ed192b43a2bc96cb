"""What `fxsparse prune` shows and needs: data, times, proofs, networks that were saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from fxsparse.errors import Error
from fxsparse.tools.cli import app

MODEL = "fxsparse:resnet20"


def ran(*words: str | Path) -> Result:
    result = CliRunner().invoke(app, ["prune", MODEL, "--no-onnx", *map(str, words)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.mark.parametrize("criterion", ["taylor", "bn-taylor"])
def test_criteria_that_need_data(tmp_path: Path, criterion: str) -> None:
    pytest.importorskip("sklearn")
    words = ("--macs", "0.5", "--criterion", criterion, "--steps", "2", "--max-ratio", "0.6", "--data", "digits", "--images", "96")
    said = json.loads(ran(*words, "--out", tmp_path / "o", "--json").stdout)
    assert 0.49 < said["macs"][1] / said["macs"][0] <= 0.5 and said["max_error"] < 1e-9
    assert f"criterion={criterion}" in said["provenance"][0] and "steps=2" in said["provenance"][0]


def test_a_pipeline_that_needs_data_shown_timed_and_proved(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    text = "prune{macs=0.6},recalibrate-batch-norm,mask{sparsity=0.5,score=taylor,exclude=[layer1*]}"
    words = ("--passes", text, "--data", "digits", "--images", "130", "--batch", "64")
    shown = ran(*words, "--time", "--print-between", "--verify-each", "--out", tmp_path / "o").stdout
    lines = shown.splitlines()
    assert "  19 batch norms have seen 3 batches" in lines
    assert any(line.startswith("prune{macs=0.6}: equal to ") for line in lines)
    assert "recalibrate-batch-norm: no width has changed, nothing to prove" in lines
    timed = [line.rpartition(": ")[0] for line in lines if line.endswith(" s")]
    assert timed == ["prune{macs=0.6}", "recalibrate-batch-norm", text.partition("norm,")[2]], "patterns in brackets are no markup"
    said = json.loads(ran(*words, "--time", "--verify-each", "--out", tmp_path / "o", "--json").stdout)
    assert [each["pass"] for each in said["seconds"]] == timed and all(each["seconds"] > 0 for each in said["seconds"])
    assert [each["pass"] for each in said["proofs"]] == ["prune{macs=0.6}"]


def test_a_saved_network_grows_back(tmp_path: Path) -> None:
    ran("--units", "0.7", "--out", tmp_path / "small", "--journal")
    said = json.loads(ran("--saved", tmp_path / "small", "--passes", "regrow{init=journal}", "--out", tmp_path / "o", "--json").stdout)
    assert said["parameters"][0] < said["parameters"][1] == 269722
    assert said["max_error"] < 1e-9


def test_the_proof_of_a_pipeline_that_edits(tmp_path: Path) -> None:
    assert "proof: equal to" in ran("--passes", "fold-batch-norm,prune{macs=0.5},simplify", "--out", tmp_path / "o").stdout
    assert "proof: no unit is missing" in ran("--passes", "fold-batch-norm", "--out", tmp_path / "o").stdout
    assert "proof: not asked for" in ran("--passes", "fold-batch-norm", "--no-verify", "--out", tmp_path / "o").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--macs", "0.5", "--criterion", "taylor"], "taylor needs gradients; give batches of inputs and targets: data=loader, or --data"),
        (["--passes", "recalibrate-batch-norm"], "or --data on the command line"),
        (["--macs", "0.5", "--data", "nowhere"], "there is no folder nowhere; give an image folder"),
    ],
)
def test_data_that_are_not_there(words: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(Error) as caught:
        ran(*words, "--out", tmp_path / "o")
    assert said in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words", [["--passes", "simplify", "--align", "8"], ["--plan", "plan.json", "--time"], ["--plan", "plan.json", "--scope", "local"]]
)
def test_options_that_would_be_passed_over_are_wrong_usage(words: list[str], tmp_path: Path) -> None:
    result = ran(*words, "--out", tmp_path / "o")
    assert result.exit_code == 2
    assert "has no use beside" in " ".join(result.output.split())


def test_images_of_class_folders_are_scaled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = pytest.importorskip("PIL.Image")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for part, count in (("train", 3), ("test", 1)):
        for label, side in (("cat", 40), ("dog", 30)):
            (tmp_path / "data" / part / label).mkdir(parents=True)
            for index in range(count):
                image.new("RGB", (side, side + index), (index, 2 * index, 99)).save(tmp_path / "data" / part / label / f"{index}.png")
    words = ("--macs", "0.6", "--criterion", "taylor", "--data", tmp_path / "data", "--out", tmp_path / "o")
    with pytest.raises(Error, match="give one size for all"):
        ran(*words)
    assert "written" in ran(*words, "--size", "32").stdout

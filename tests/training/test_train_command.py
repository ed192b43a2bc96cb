"""`fxsparse train`: from flags and from a recipe, resumed, and refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
from typer.testing import CliRunner

from fxsparse.errors import Error
from fxsparse.tools.cli import app

PIL = pytest.importorskip("PIL.Image")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two classes, dark and bright, of 8 x 8 pixels."""
    for part, count in (("train", 24), ("test", 8)):
        for number, name in enumerate(("dark", "bright")):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for index in range(count):
                PIL.fromarray(numpy.full((8, 8, 3), 150 * number + index, dtype=numpy.uint8)).save(folder / f"{index}.png")
    return tmp_path / "data"


def flags(data: Path, *more: str) -> list[str]:
    cache = str(data.parent / "cache")
    fixed = ["train", "--model", "fxsparse:resnet20", "--data", str(data), "--batch", "16", "--set", f"cache={cache}", "--set", "crop=1"]
    return [*fixed, *more]


def test_train_resume_and_report(data: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    out = tmp_path / "run"
    sparse = ["--method", "rigl", "--density", "0.1", "--option", "interval=2", "--epochs", "2", "--lr", "0.02", "--seed", "1"]
    done = runner.invoke(app, flags(data, *sparse, "--out", str(out), "--json"))
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["steps"] == 6 and len(result["epochs"]) == 2 and result["epochs"][0]["nonzeros"] == 26_782  # two outputs, not ten
    assert {path.name for path in out.iterdir()} >= {"metrics.jsonl", "checkpoint.pt", "result.json", "weights.safetensors"}
    again = runner.invoke(app, flags(data, *sparse, "--out", str(out), "--json", "--resume"))
    assert json.loads(again.stdout) == result
    with pytest.raises(Error, match="holds a run already"):
        runner.invoke(app, flags(data, *sparse, "--out", str(out)), catch_exceptions=False)


def test_a_recipe_and_flags_that_win(data: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    cache = data.parent / "cache"
    recipe.write_text(
        f'model = "fxsparse:resnet20"\ndata = "{data}"\ncache = "{cache}"\nepochs = 9\nbatch = 16\n[method]\nname = "set"\ndensity = 0.2\n'
    )
    done = CliRunner().invoke(app, ["train", str(recipe), "--epochs", "1", "--density", "0.05", "--json"])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert len(result["epochs"]) == 1
    assert result["epochs"][0]["density"] == pytest.approx(0.05, abs=1e-4)


def test_without_json_it_speaks(data: Path) -> None:
    done = CliRunner().invoke(app, flags(data, "--method", "dense", "--epochs", "1"))
    assert done.exit_code == 0, done.output
    assert "test accuracy after the last epoch:" in done.output


def test_options_that_are_no_table(data: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(f'model = "fxsparse:resnet20"\ndata = "{data}"\noptions = 3\n')
    done = CliRunner().invoke(app, ["train", str(tmp_path / "recipe.toml")])
    assert isinstance(done.exception, Error) and "the recipe's options are 3, which is no table" in str(done.exception)


def test_weights_of_so_many_classes_are_taken_by_other_commands(data: Path, tmp_path: Path) -> None:
    trained = CliRunner().invoke(app, flags(data, "--method", "dense", "--epochs", "1", "--out", str(tmp_path / "run")))
    assert trained.exit_code == 0, trained.output
    classes = len(list((data / "train").iterdir()))
    weights = ["--weights", str(tmp_path / "run" / "weights.safetensors")]
    done = CliRunner().invoke(app, ["inspect", f"fxsparse:resnet20{{num_classes={classes}}}", *weights, "--json"])
    assert done.exit_code == 0, done.exception
    other = CliRunner().invoke(app, ["inspect", "fxsparse:resnet20", *weights])
    assert "as in fxsparse:resnet20{num_classes=100}" in str(other.exception)


def test_wrong_usage(data: Path) -> None:
    done = CliRunner().invoke(app, flags(data, "--option", "density"))
    assert done.exit_code == 2 and "is no NAME=VALUE" in done.output
    for wrong, words in (
        (["--method", "best"], "no method 'best'"),
        (["--set", "speed=3"], "no entry 'speed'"),
        (["--optimizer", "x"], "choose"),
    ):
        with pytest.raises(Error, match=words):
            CliRunner().invoke(app, flags(data, *wrong), catch_exceptions=False)
    with pytest.raises(Error, match="does not say the model"):
        CliRunner().invoke(app, ["train", "--data", "digits"], catch_exceptions=False)

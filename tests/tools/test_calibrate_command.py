"""`fxsparse calibrate`: what it writes can be loaded and applied again; wrong usage ends with one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from fxsparse.errors import Error
from fxsparse.models import build, build_alone
from fxsparse.tools.cli import app
from fxsparse.training.augment import Normalise
from fxsparse.training.data import load_data

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-20 that knows the digits a little."""
    torch.manual_seed(0)
    model, data = build("fxsparse:resnet20").model.train(), load_data("digits").train
    optimizer = torch.optim.SGD(model.parameters(), 0.05, 0.9)
    for step in range(60):
        pixels, labels = data[torch.arange(64 * step, 64 * step + 64) % len(data)]
        optimizer.zero_grad()
        F.cross_entropy(model(Normalise()(pixels)), labels).backward()
        optimizer.step()
    path = tmp_path_factory.mktemp("weights") / "resnet20.safetensors"
    save_file(model.state_dict(), path)
    return path


def run(weights: Path, *args: str) -> Result:
    return CliRunner().invoke(app, ["calibrate", "fxsparse:resnet20", "--weights", str(weights), "--data", "digits", *args])


def said(done: Result) -> dict[str, Any]:
    assert done.exit_code == 0, done.exception
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_search_in_processes_then_its_distribution_again(weights: Path, tmp_path: Path) -> None:
    small = ["--images", "200", "--epochs", "1", "--sparsity", "0.8", "--json"]
    search = [f"--option={name}={value}" for name, value in {"population": 2, "generations": 1, "parents": 2, "warmup": 0}.items()]
    found = said(run(weights, "--method", "unipts", "--workers", "2", "--out", str(tmp_path / "sparse"), *search, *small))
    assert found["sparsity"] == pytest.approx(0.8, abs=1e-5) and 0 <= found["accuracy"] <= 1
    assert json.loads((tmp_path / "sparse" / "distribution.json").read_text())["counts"] == found["counts"]
    assert len(json.loads((tmp_path / "sparse" / "search.json").read_text())["history"]) == 4
    state = load_file(tmp_path / "sparse" / "weights.safetensors")
    assert sum(int(torch.count_nonzero(state[name])) for name in found["counts"]) == sum(found["counts"].values())
    again = run(weights, "--method", "magnitude-bn", "--allocation", str(tmp_path / "sparse" / "distribution.json"), *small[:2], "--json")
    assert said(again)["counts"] == found["counts"]
    other = run(weights, "--allocation", str(tmp_path / "sparse" / "distribution.json"), "--sparsity", "0.5")
    assert isinstance(other.exception, Error) and "the saved distribution keeps" in str(other.exception)


def test_layer_wise_without_labels_leaves_weights_of_the_model_s_own_names(weights: Path, tmp_path: Path) -> None:
    args = [
        "--method",
        "pot",
        "--images",
        "100",
        "--no-labels",
        "--option",
        "layer_steps=2",
        "--option",
        'inputs="dense"',
        "--out",
        str(tmp_path / "pot"),
    ]
    done = run(weights, *args)
    assert done.exit_code == 0, done.exception
    assert "pot: 90.00% of the weights are zero" in done.stdout and "test images" in done.stdout
    build("fxsparse:resnet20", tmp_path / "pot" / "weights.safetensors")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--images", "20"], "20 calibration images are too few"),
        (["--images", "2000"], "1,437 training images, and 2,000 were asked for"),
        (["--sparsity", "1.5"], "at least 0 and below 1"),
        (["--sparsity", "0.99999"], "layers, which need"),
        (["--sparsity", "0.9", "--pattern", "2:4", "--option", 'exclude=["conv1"]'], "the pattern 2:4 keeps"),
        (["--method", "uni"], "there is no method 'uni'"),
        (["--option", "epoch=3"], "no option 'epoch' (did you mean 'epochs'"),
        (["--allocation", "none.json"], "none.json cannot be used: No such file or directory"),
        (["--option", "sparsity=0.3"], "calibrate has no option 'sparsity'"),
        (["--out", __file__], "is a file; give a folder"),
    ],
)
def test_what_cannot_work_is_said_before_any_work(weights: Path, args: list[str], message: str) -> None:
    done = run(weights, *args)
    assert isinstance(done.exception, Error)
    assert message in str(done.exception)


def test_an_option_without_a_value_is_wrong_usage(weights: Path) -> None:
    done = run(weights, "--option", "epoch")
    assert done.exit_code == 2 and "NAME=VALUE" in done.stderr


def test_a_model_without_its_weights_is_at_chance(tmp_path: Path) -> None:
    path = tmp_path / "untrained.safetensors"
    save_file(build("fxsparse:resnet20").model.state_dict(), path)
    done = run(path, "--images", "500")
    assert isinstance(done.exception, Error) and "which is chance for 10 classes; load its weights" in str(done.exception)


def test_a_factory_need_not_say_what_its_model_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "calibrate_mine.py").write_text(
        "from torch import nn\n\ndef tiger(width=8):\n"
        "    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(36 * width, 10))\n"
    )
    monkeypatch.chdir(tmp_path)
    model = build_alone("calibrate_mine:tiger{width=4}")
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    args = ["--weights", "weights.safetensors", "--data", "digits", "--method", "magnitude", "--no-labels", "--images", "100"]
    done = CliRunner().invoke(app, ["calibrate", "calibrate_mine:tiger{width=4}", *args, "--json"])
    assert said(done)["model"] == "calibrate_mine:tiger{width=4}"

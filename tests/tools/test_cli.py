"""The command line, as a process: what it prints, what it writes, how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import fxsparse
from fxsparse.models import build


def run(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "fxsparse", *args], cwd=cwd, text=True, capture_output=True, check=False)


def test_inspect_as_json_and_graph(tmp_path: Path) -> None:
    done = run("inspect", "fxsparse:resnet20", "--json", "--graph", "graph.graphml", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert {g["name"] for g in said["groups"] if g["prunable"]} >= {"conv1", "layer1.0.conv1"}
    assert (tmp_path / "graph.graphml").read_text().startswith("<?xml")


def test_inspect_draws_without_other_programs(tmp_path: Path) -> None:
    done = run("inspect", "fxsparse:resnet20", "--graph", "groups.svg", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "<title>layer1.0.conv1</title>" in (tmp_path / "groups.svg").read_text()


def test_eval_mode_alone(tmp_path: Path) -> None:
    (tmp_path / "dropping.py").write_text(
        "import torch\n"
        "class Dropping(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.stem, self.mix, self.head = (torch.nn.Linear(*sizes) for sizes in ((5, 8), (8, 8), (8, 3)))\n"
        "    def forward(self, x):\n"
        "        y = self.stem(x)\n"
        "        if not self.training or torch.rand([]) > 0.1:\n"
        "            y = y + self.mix(y)\n"
        "        return self.head(y)\n"
    )
    shown = ("inspect", "dropping:Dropping", "--input", "2,5", "--json")
    groups = [json.loads(run(*shown, *more, cwd=tmp_path).stdout)["groups"] for more in ((), ("--eval-only",))]
    assert [each["prunable"] for some in groups for each in some if each["name"] == "stem"] == [False, True]
    words = ("dropping:Dropping", "--input", "2,5", "--eval-only", "--units", "0.5", "--no-onnx", "--out", "small")
    done = run("prune", *words, cwd=tmp_path)
    assert done.returncode == 0 and "proof: equal" in done.stdout, done.stderr
    again = run("inspect", "dropping:Dropping", "--saved", "small", "--eval-only", cwd=tmp_path)
    assert again.returncode == 2 and "knows its modes" in again.stderr


def test_inspect_for_people(tmp_path: Path) -> None:
    done = run("inspect", "fxsparse:resnet20", cwd=tmp_path)
    assert done.returncode == 0 and "layer1.0.conv1" in done.stdout and "the network's output" in done.stdout and "\x1b[" not in done.stdout


def test_prune_with_a_plan(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({"layer1.0.conv1": [0, 3, 4]}))
    done = run("prune", "fxsparse:resnet20", "--plan", "plan.json", "--out", "small", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["max_error"] < 1e-9 and said["parameters"][1] < said["parameters"][0]
    again = fxsparse.load(tmp_path / "small", build("fxsparse:resnet20").model)
    assert again.group("layer1.0.conv1").units == (0, 3, 4)


@pytest.mark.parametrize(
    ("args", "status", "message"),
    [
        (["inspect", "fxsparse:resnet21"], 1, "did you mean"),
        (["inspect", "fxsparse:resnet20", "--weights", "none.pt"], 1, "none.pt"),
        (["inspect", "fxsparse:resnet20", "--graph", "x.doc"], 1, ".graphml"),
        (["inspect", "fxsparse:resnet20", "--input", "2,x"], 2, "shape"),
        (["inspect"], 2, "MODEL"),
        (["prune", "fxsparse:resnet20", "--plan", "none.json", "--out", "small"], 1, "none.json"),
        (["polish"], 2, "polish"),
    ],
)
def test_errors_are_one_sentence(tmp_path: Path, args: list[str], status: int, message: str) -> None:
    done = run(*args, cwd=tmp_path)
    assert done.returncode == status and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "small").exists()

"""Every script in examples/ runs, faster than it is by itself, and prints its table and a proof."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documentation import ROOT

# The options that make each of them quick, and what its output must have.
EXAMPLES: dict[str, tuple[list[str], str]] = {
    "custom_operator": (["--width", "8"], "no rule for the operator example::gated"),
    "detection": (["--size", "64"], "a training step's losses"),
    "lstm": (["--steps", "4"], "pruned, fine-tuned"),
    "segmentation": (["--steps", "2", "--size", "32"], "fine-tuned"),
    "timm_vit": (["--steps", "2"], "blocks.1.mlp.fc1"),
    "torchvision_classification": (["--images", "60", "--epochs", "1"], "pruned, fine-tuned"),
}
NEEDS: dict[str, tuple[str, ...]] = {
    "torchvision_classification": ("torchvision", "sklearn"),
    "timm_vit": ("timm", "sklearn"),
    "detection": ("torchvision",),
    "segmentation": ("torchvision",),
}


def test_all_examples_are_run() -> None:
    assert sorted(path.stem for path in (ROOT / "examples").glob("*.py")) == sorted(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(name: str, tmp_path: Path) -> None:
    missing = [package for package in NEEDS.get(name, ()) if importlib.util.find_spec(package) is None]
    if missing:
        pytest.skip(f"{missing[0]} is not installed: pip install 'fxsparse[zoo,train]'")
    options, expected = EXAMPLES[name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / f"{name}.py"), *options]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
    assert "proof: equal to" in done.stdout
    assert not done.stderr

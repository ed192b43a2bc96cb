"""The commands are complete, and alike: help with examples, one spelling for one thing, --json, exit codes, no colours in a pipe."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from fxsparse.tools.cli import app

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def options(name: str) -> dict[str, Any]:
    """Flag -> option of a command."""
    return {flag: each for each in COMMANDS[name].params for flag in each.opts if flag.startswith("--")}


def test_the_commands_that_there_are() -> None:
    assert list(COMMANDS) == ["inspect", "prune", "train", "calibrate", "export", "bench", "report", "demo", "doctor"]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_examples_and_explains_every_option(name: str) -> None:
    text = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200"}).stdout
    examples = [
        line.strip() for line in text.splitlines() if line.strip().removeprefix("Example: ").startswith((f"fxsparse {name}", "torchrun"))
    ]
    assert examples and "Example" in text
    assert "--json" in text
    assert not [flag for flag, each in options(name).items() if not each.help]


@pytest.mark.parametrize(
    "flag", ["--json", "--weights", "--input", "--saved", "--out", "--model", "--data", "--seed", "--threads", "--epochs"]
)
def test_one_thing_has_one_type_in_all_commands(flag: str) -> None:
    kinds = {name: (each[flag].nargs, each[flag].multiple, each[flag].is_flag) for name in COMMANDS if flag in (each := options(name))}
    assert len(kinds) > 0 and len(set(kinds.values())) == 1, kinds


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_typed_as_the_options_are_spelled(name: str) -> None:
    said = " ".join(str(COMMANDS[name].help).split())
    for word in said.split("fxsparse ")[1:]:
        command = word.split()[0]
        if command in COMMANDS:
            flags = [each for each in word.split() if each.startswith("--") and each != "--nproc-per-node"]
            assert not [flag for flag in flags if flag.rstrip(".") not in options(command)], word


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_can_be_shown(shell: str) -> None:
    environment = {**os.environ, "_FXSPARSE_COMPLETE": f"source_{shell}"}
    program = "import sys; sys.argv[0] = 'fxsparse'; from fxsparse.tools.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "_FXSPARSE_COMPLETE" in done.stdout and done.stderr == ""


def test_completion_knows_commands_and_options() -> None:
    words = {"_FXSPARSE_COMPLETE": "complete_bash", "COMP_WORDS": "fxsparse re", "COMP_CWORD": "1"}
    program = "import sys; sys.argv[0] = 'fxsparse'; from fxsparse.tools.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, **words}, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["report"]


@pytest.mark.skipif(os.name != "posix", reason="needs a folder that nobody may write to")
def test_what_the_system_refuses_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "fxsparse.tools.cli", "report", "run", "--out", "file/deep/report.html"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.jsonl").write_text('{"epoch": 1, "accuracy": 0.5}\n')
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.startswith("fxsparse: ") and done.stderr.count("\n") == 1 and "Traceback" not in done.stderr

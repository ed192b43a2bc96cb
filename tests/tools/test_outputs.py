"""All or nothing: what is written to a folder, and what Ctrl-C leaves."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fxsparse.errors import Error
from fxsparse.tools import outputs
from fxsparse.tools.cli import app, main
from fxsparse.tools.console import plain
from fxsparse.tools.outputs import whole, whole_file


def test_files_arrive_together(tmp_path: Path) -> None:
    with whole(tmp_path / "a" / "b") as draft:
        (draft / "x").write_text("x")
        assert [file.name for file in (tmp_path / "a" / "b").iterdir() if not file.name.startswith(".")] == []
    assert [file.name for file in (tmp_path / "a" / "b").iterdir()] == ["x"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_nothing_is_left_when_the_work_stops(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "x").write_text("old")
    for folder in (tmp_path / "new" / "deep", tmp_path / "old"):
        with pytest.raises(error), whole(folder) as draft:
            (draft / "x").write_text("half")
            raise error
    assert [file.name for file in tmp_path.iterdir()] == ["old"]
    assert (tmp_path / "old" / "x").read_text() == "old" and len(list((tmp_path / "old").iterdir())) == 1


def test_a_file_is_no_folder_and_a_folder_no_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(Error, match="x is a file; give a folder"), whole(tmp_path / "x"):
        pass
    with pytest.raises(Error, match="folder is a folder; give a file"), whole_file(tmp_path / "folder"):
        pass


def test_ctrl_c_while_prune_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(outputs, "write_report", stopped)
    words = ["prune", "fxsparse:resnet20", "--units", "0.5", "--no-onnx", "--no-verify", "--out", str(tmp_path / "new")]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 130 and "fxsparse: stopped" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_as_a_process(tmp_path: Path) -> None:
    # A process that a script starts in the background ignores Ctrl-C: there, Python's own handler is put back first.
    lines = [
        "import signal",
        "def net():",
        "    signal.signal(signal.SIGINT, signal.default_int_handler)",
        "    signal.raise_signal(signal.SIGINT)",
    ]
    (tmp_path / "slow_model.py").write_text("\n".join(lines))
    command = [sys.executable, "-m", "fxsparse.tools.cli", "prune", "slow_model:net", "--units", "0.5", "--out", "new"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 130 and done.stderr == "fxsparse: stopped; nothing half-written is left\n" and done.stdout == ""
    assert not (tmp_path / "new").exists()


def test_an_export_that_fails_makes_no_folder(tmp_path: Path) -> None:
    out = tmp_path / "new" / "small.onnx"
    done = CliRunner().invoke(app, ["export", "fxsparse:resnet20", "--precision", "fp8", "--out", str(out)])
    assert "precision is one of fp32, fp16" in str(done.exception) and not out.parent.exists()


def test_a_folder_that_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = CliRunner().invoke(app, ["prune", "fxsparse:nothing", "--macs", "0.5", "--out", str(tmp_path / "file")])
    assert "is a file; give a folder" in str(done.exception)


def test_what_is_printed_stands_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    plain().print("zoo:tiger: a[0] and [red] of :boom:")
    assert capsys.readouterr().out == "zoo:tiger: a[0] and [red] of :boom:\n"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "fxsparse: no space left on device\n"),
        (OSError(errno.EACCES, "Permission denied", "there"), "fxsparse: there: permission denied\n"),
    ],
)
def test_what_the_system_refuses_is_one_sentence(
    error: OSError, words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused() -> None:
        raise error

    monkeypatch.setattr("fxsparse.tools.cli.app", refused)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1 and capsys.readouterr().err == words

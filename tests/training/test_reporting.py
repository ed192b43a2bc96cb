"""What a run says and writes."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from fxsparse.training.reporting import Reporter, told

LINE = {"epoch": 2, "step": 20, "loss": 0.5, "train_accuracy": 0.75, "accuracy": 0.7, "reported": "test"}


def test_an_epoch_in_words() -> None:
    assert told(LINE) == "epoch 2: loss 0.500, training accuracy 75.00%, test accuracy 70.00%"
    assert told({**LINE, "nonzeros": 1234, "density": 0.1}).endswith(", 1,234 weights (10.00%)")


def test_lines_are_appended_and_a_resumed_run_has_those_of_its_checkpoint(tmp_path: Path) -> None:
    file, third = tmp_path / "metrics.jsonl", {**LINE, "epoch": 3, "loss": 0.1 + 0.2}
    with Reporter(tmp_path, 40, tensorboard=False) as reporter:
        reporter.begin([])
        assert not file.exists()
        reporter.epoch(LINE)
        reporter.epoch(third)
    both = file.read_text()
    assert [json.loads(line) for line in both.splitlines()] == [LINE, third]
    again = Reporter(tmp_path, 40, tensorboard=False)
    again.begin([LINE])
    assert json.loads(file.read_text()) == LINE
    file.unlink()
    again.begin([LINE, third])
    assert file.read_text() == both
    again.begin([])
    assert file.read_text() == ""
    nowhere = Reporter(None, 40)
    nowhere.begin([LINE])
    nowhere.epoch(LINE)


def test_the_bar_shows_how_far_it_is_and_what_is_left() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    with Reporter(None, 40, console=console) as reporter:
        reporter.progress(10, "epoch 1/4")
        reporter.bar.refresh()  # type: ignore[union-attr]
        reporter.epoch(LINE)
    assert "epoch 1/4" in out.getvalue() and "10/40" in out.getvalue()
    assert "epoch 2: loss 0.500" in out.getvalue()

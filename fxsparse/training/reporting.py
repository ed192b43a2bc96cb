"""Where the numbers of a run go: a progress bar, metrics.jsonl, and TensorBoard where it is installed."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


class Reporter:
    """One line a finished epoch; between them a bar with the time that is left. The line of an epoch has nothing in it that depends on the
    machine's speed, so that equal runs write equal files. A run that goes on after `done` steps forgets what it had said of later ones.
    """

    def __init__(self, folder: Path | None, steps: int, *, console: Console | None = None, tensorboard: bool = True, done: int = 0) -> None:
        self.file = None if folder is None else folder / "metrics.jsonl"
        self.board: Any = None
        if folder is not None and tensorboard and importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"), purge_step=done + 1 if done else None)
        self.console = console
        self.bar: Progress | None = None
        if console is not None:
            left = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
            self.bar = Progress(*left, TimeElapsedColumn(), TimeRemainingColumn(), console=console, transient=True)
            self.task = self.bar.add_task("", total=steps)

    def __enter__(self) -> Reporter:
        if self.bar is not None:
            self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
        if self.board is not None:
            self.board.close()

    def begin(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """The file holds what the checkpoint knows, whatever was written after that, or deleted."""
        if self.file is not None and (lines or self.file.exists()):
            self.file.write_text("".join(map(_as_line, lines)), encoding="utf-8")

    def progress(self, step: int, text: str) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=step, description=text)

    def epoch(self, line: Mapping[str, Any]) -> None:
        """The numbers of a finished epoch."""
        if self.file is not None:
            with self.file.open("a", encoding="utf-8") as file:
                file.write(_as_line(line))
        if self.board is not None:
            for name, value in line.items():
                if isinstance(value, int | float) and name not in ("epoch", "step"):
                    self.board.add_scalar(name, value, line["step"])
        if self.console is not None:
            self.console.print(told(line), highlight=False)


def _as_line(line: Mapping[str, Any]) -> str:
    return json.dumps(dict(line)) + "\n"


def told(line: Mapping[str, Any]) -> str:
    """An epoch in words."""
    text = f"epoch {line['epoch']}: loss {line['loss']:.3f}, training accuracy {line['train_accuracy']:.2%}, "
    text += f"{line['reported']} accuracy {line['accuracy']:.2%}"
    return text + (f", {line['nonzeros']:,} weights ({line['density']:.2%})" if "density" in line else "")

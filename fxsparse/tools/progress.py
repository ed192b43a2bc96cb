"""A bar for long work, on the terminal alone."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fxsparse.tools.console import plain


@contextlib.contextmanager
def progress_bar(text: str, console: Console | None = None) -> Iterator[Callable[[int, int], object]]:
    """A function of (done, of) that moves a bar on standard error; where that is no terminal, nothing is shown. The bar appears with the
    first call, and is gone when the work is done."""
    console = plain(stderr=True) if console is None else console
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: list[TaskID] = []

        def told(done: int, of: int) -> None:
            if not tasks:
                tasks.append(bar.add_task(text, total=of))
            bar.update(tasks[0], completed=done, total=of)

        yield told

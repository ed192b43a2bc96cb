"""`fxsparse demo`: the whole way on scikit-learn's digits, with the Python lines of every step."""

from __future__ import annotations

import contextlib
import importlib.resources
import json
import re
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from fxsparse.errors import Error
from fxsparse.report import read_sources
from fxsparse.report.compare import compared
from fxsparse.tools.console import plain
from fxsparse.tools.options import Json, Threads
from fxsparse.tools.report import summary

SCRIPT, PAGE = "demo.py", "report.html"
FIRST_LINE = '"""The demo of fxsparse'
RUNS = ("dense", "pruned", "regrown")
QUICK = {
    "6, 1, Console()": "1, 1, Console()",
    "latency=0.5": "macs=0.5, align=16",
    "# %% Prune to half the measured latency": "# %% Prune to half the MACs",
    "# Layers are measured on ONNX Runtime at several widths, a knapsack chooses, and the whole network is measured until it fits.": (
        "# The least important channels go, for what each saves, until half the multiply-accumulates are left."
    ),
}


@dataclass(frozen=True)
class Step:
    """A part of the script: what it is called, what it does, and the lines that do it."""

    title: str
    text: str
    code: str


def demo(
    out: Annotated[Path, typer.Option("--out", help="The folder that everything goes to.")] = Path("fxsparse-demo"),
    quick: Annotated[bool, typer.Option("--quick", help="One epoch of training, and half the MACs instead of half the latency.")] = False,
    as_json: Json = False,
    threads: Threads = None,
) -> None:
    """Train, prune, prove, fine-tune, regrow, export and compare a small network on scikit-learn's digits, in about a minute.

    Each step says what it does and shows the Python lines that it runs; together they are demo.py in the folder. Nothing is downloaded.

    Examples:

      fxsparse demo

      fxsparse demo --out try/ --quick
    """
    script = script_for(out, threads or 1, quick)
    console = plain(stderr=as_json)
    began = time.perf_counter()
    _make_room(out)
    try:
        (out / SCRIPT).write_text(script, encoding="utf-8")
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            run_steps(steps_of(script), console)
    except BaseException:  # Ctrl-C as well: half a demo is of no use
        _clear(out)
        raise
    found = read_sources([out / name for name in RUNS])
    seconds = time.perf_counter() - began
    if as_json:
        typer.echo(json.dumps({**summary(out / PAGE, found), "script": str(out / SCRIPT), "seconds": seconds}, indent=1, allow_nan=False))
        return
    comparison = compared(found.runs)
    table = Table(title=f"in {seconds:.0f} s", title_justify="left")
    table.add_column("")
    for heading in comparison.columns:
        table.add_column(heading, justify="right")
    for row in comparison.rows:
        table.add_row(row.name, *(f"{cell.text} {cell.part}".strip() for cell in row.cells))
    console.print(table)
    console.print(f"written: {out}")
    console.print(f"look at {out / PAGE} in a browser; {out / SCRIPT} is the same as a script. Next: fxsparse inspect torchvision:resnet50")


def script_for(out: Path, threads: int, quick: bool = False) -> str:
    """The text of the script, with the settings of the command line in it."""
    text = (importlib.resources.files("fxsparse.tools") / "demo_script.py").read_text(encoding="utf-8")
    changes = QUICK if quick else {}
    for old, new in {
        **changes,
        'Path("fxsparse-demo")': f"Path({json.dumps(str(out), ensure_ascii=False)})",
        ", 1, Console()": f", {threads}, Console()",
    }.items():
        assert old in text, old
        text = text.replace(old, new)
    return text


def steps_of(script: str) -> list[Step]:
    """The parts of a script: `# %% title`, comments that say what it does, lines."""
    steps = []
    for part in re.split(r"^# %% ", script, flags=re.MULTILINE)[1:]:
        title, _, rest = part.partition("\n")
        said = re.match(r"(?:# .*\n)*", rest)
        assert said is not None
        text = " ".join(line.removeprefix("# ") for line in said.group().splitlines())
        steps.append(Step(title, text, rest[said.end() :].strip() + "\n"))
    return steps


def run_steps(steps: list[Step], console: Console) -> None:
    """Show each step, and run exactly what is shown."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, step in enumerate(steps, 1):
        console.print(f"\n{number}/{len(steps)}  {step.title}", style="bold")
        console.print(step.text)
        if console.is_terminal:
            coloured = Syntax(step.code.rstrip(), "python", theme="ansi_dark", background_color="default", word_wrap=True)
            console.print(coloured, soft_wrap=False)  # what does not fit goes to the next line, and is not cut off
        else:
            console.print("\n".join(f"    {line}".rstrip() for line in step.code.splitlines()))
        exec(compile(step.code, f"<demo: {step.title}>", "exec"), names)


def _make_room(out: Path) -> None:
    """A folder with place for a demo: what an earlier one wrote is replaced, and anything else is left alone."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        script = out / SCRIPT
        if not script.is_file() or not script.read_text(encoding="utf-8", errors="replace").startswith(FIRST_LINE):
            raise Error(f"{out} is there and holds something else than a demo; give another folder, as in --out try/")
        _clear(out)
    out.mkdir(parents=True, exist_ok=True)


def _clear(out: Path) -> None:
    """Take away what a demo writes, and the folder when nothing else is in it."""
    for name in RUNS:
        shutil.rmtree(out / name, ignore_errors=True)
    for name in (SCRIPT, PAGE):
        (out / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        out.rmdir()

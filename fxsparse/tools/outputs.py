"""What a command writes to a folder: all of it or nothing, and for a network also the ONNX file and the report."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fxsparse.engines import export_onnx
from fxsparse.errors import Error, LoweringError
from fxsparse.network import Network
from fxsparse.report import Run, Sources, environment, run_of, write_page, write_run
from fxsparse.saving import save
from fxsparse.surgery.verify import Proof
from fxsparse.tools.progress import progress_bar

ONNX, PAGE, DATA = "model.onnx", "report.html", "report.json"
OURS = (ONNX, ONNX + ".data", PAGE, DATA, "masks.safetensors", "journal.safetensors")  # of an earlier save, wrong beside another network


@dataclass(frozen=True)
class Written:
    """The names of the files, and what there is to say of those that are missing."""

    files: tuple[str, ...]
    notes: tuple[str, ...]


def write_network(
    out: Path,
    before: Network,
    after: Network,
    *,
    model: str,
    proofs: Sequence[Proof] = (),
    notes: Sequence[str] = (),
    journal: bool = False,
    onnx: bool | None = None,
    lowered: bool = False,
) -> Written:
    """Save a network with its ONNX file and its report. With `onnx=None` a network that cannot be exported is saved without the file, and a
    note says why; with True that is an error. `lowered` says that a pass may have written ONNX files there, which are left alone."""
    missing: list[str] = []
    with whole(out) as draft:
        save(after, draft, journal=journal)
        if onnx or (onnx is None and not lowered):
            try:
                with progress_bar("exporting") as told:
                    told(0, 1)
                    export_onnx(after, draft / ONNX)
            except LoweringError as error:
                if onnx:
                    raise
                missing.append(f"no {ONNX}: {error}")
        run = run_of(out.name or str(out.resolve().name), after, before, model=model)
        size = (draft / "weights.safetensors").stat().st_size
        run = replace(
            run,
            command=command_line(),
            measures={**run.measures, "bytes": float(size)},
            proofs=tuple(map(str, proofs)),
            notes=(*notes, *missing),
            commands=_next(out, model, before, runs=not missing, exported=(draft / ONNX).exists()),
        )
        write_report(run, draft)
        files = tuple(sorted(file.name for file in draft.iterdir()))
        for name in set(OURS) - set(files):
            if not (lowered and name.startswith(ONNX)):
                (out / name).unlink(missing_ok=True)
    return Written(files, tuple(missing))


def write_origin(folder: Path, name: str, **known: Any) -> None:
    """report.json of a run that leaves no network behind, or one that its other files tell of: what was typed, where, and what came out."""
    write_run(Run(name=name, command=command_line(), environment=environment(), **known), folder / DATA)


def write_report(run: Run, folder: Path) -> None:
    """report.json, which `fxsparse report` reads again, and report.html."""
    write_run(run, folder / DATA)
    write_page(Sources((run,)), folder / PAGE, title=f"fxsparse: {run.name}")


def _next(out: Path, model: str, before: Network, *, runs: bool, exported: bool) -> tuple[str, ...]:
    """What one may want to type after `prune`. What cannot be exported does not run on the usual engine, either."""
    if before.living != {name: group.units for name, group in before.origin.structure.groups.items()}:
        return ()  # `before` came from a folder, which the commands would have to name
    folder = f"{out}/"
    lines = [["fxsparse", "bench", model, folder, "--model", model]] if runs else []
    if runs and not exported:
        lines.append(["fxsparse", "export", model, "--saved", folder, "--out", f"{out / ONNX}"])
    lines.append(["fxsparse", "report", folder, "--out", PAGE])
    return tuple(map(shlex.join, lines))


def command_line() -> str | None:
    """What was typed; None where fxsparse is called from Python."""
    name = Path(sys.argv[0]).name if sys.argv else ""
    return shlex.join(["fxsparse", *sys.argv[1:]]) if name.partition(".")[0] in ("fxsparse", "cli") else None


@contextlib.contextmanager
def whole(folder: Path) -> Iterator[Path]:
    """A draft of a folder. Its files move into the folder when the block has ended well; otherwise, Ctrl-C included, nothing is left of
    them, and a folder that was not there is not there."""
    if folder.exists() and not folder.is_dir():
        raise Error(f"{folder} is a file; give a folder")
    made = _missing_parents(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=folder, prefix=".writing-") as name:
            draft = Path(name)
            yield draft
            for file in sorted(draft.iterdir()):
                os.chmod(file, 0o644)  # some writers leave files that nobody else may read
                os.replace(file, folder / file.name)
    finally:
        for each in made:
            with contextlib.suppress(OSError):  # something is in it: the work was done, or others wrote there
                each.rmdir()


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A draft of one file, likewise."""
    if path.is_dir():
        raise Error(f"{path} is a folder; give a file")
    with whole(path.parent) as draft:
        yield draft / path.name


def require_room(folder: Path) -> None:
    """Whether a folder can be written is said before minutes of work."""
    with whole(folder):
        pass


def _missing_parents(folder: Path) -> list[Path]:
    """The folders that have to be made, innermost first."""
    missing = []
    while not folder.exists() and folder != folder.parent:
        missing.append(folder)
        folder = folder.parent
    return missing

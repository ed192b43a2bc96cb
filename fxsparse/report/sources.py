"""Where a report's runs come from: saved folders, folders of training runs, and measurements that `fxsparse bench --json` printed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from fxsparse.errors import CheckpointError
from fxsparse.report.describe import densities_of, run_of
from fxsparse.report.metrics import checked_timeline, epochs_of, finished, timeline_of
from fxsparse.report.run import FILE, FORMAT, Run, read_json, read_run
from fxsparse.saving import load

WEIGHTS, STRUCTURE, METRICS, RESULT, TIMELINE, NETWORK = (
    "weights.safetensors", "structure.json", "metrics.jsonl", "result.json", "timeline.json", "network",
)  # fmt: skip
NUMBERS = ("median_ms", "p90_ms", "p99_ms", "variation")


@dataclass(frozen=True)
class Bench:
    """What one call of `fxsparse bench` measured."""

    where: str
    engine: str
    rows: tuple[dict[str, Any], ...]  # name, median_ms, p90_ms, p99_ms, variation, ratio


@dataclass(frozen=True)
class Sources:
    """Everything that was read, runs in the order of the command."""

    runs: tuple[Run, ...]
    benches: tuple[Bench, ...] = ()


def read_sources(paths: Sequence[Path], model: nn.Module | None = None) -> Sources:
    """Read folders and files. `model` is what folders without a report.json were saved from: with it, their widths can be told."""
    runs: dict[Path, Run] = {}
    benches = []
    for path in paths:
        if path.is_dir():
            runs[path] = read_folder(path, model)
        elif path.suffix == ".jsonl":
            runs[path] = replace(Run(str(path)), epochs=epochs_of(path))
        else:
            said = read_json(path)
            if isinstance(said, Mapping) and said.get("format") == FORMAT:
                runs[path] = Run.from_dict(said, str(path))
            elif isinstance(said, Mapping) and "contenders" in said:
                benches.append(_bench(path, said))
            else:
                raise CheckpointError(f"{path} is neither a report.json nor what `fxsparse bench --json` prints")
    return _joined(runs, benches)


def read_folder(folder: Path, model: nn.Module | None = None) -> Run:
    """A saved network or a training run; both, where a run saved one."""
    files = {name: folder / name for name in (FILE, STRUCTURE, METRICS, RESULT, TIMELINE, WEIGHTS) if (folder / name).is_file()}
    inner = folder / NETWORK
    if not files.keys() & {FILE, STRUCTURE, METRICS, RESULT}:
        raise CheckpointError(f"{folder} holds nothing to report: no {FILE}, {STRUCTURE}, {METRICS} or {RESULT}")
    run = read_run(files[FILE]) if FILE in files else Run(folder.name or str(folder))
    saved = folder if STRUCTURE in files else inner if (inner / STRUCTURE).is_file() else None
    if saved is not None:
        run = _with_structure(run, saved, model)
    if METRICS in files:
        run = replace(run, epochs=epochs_of(files[METRICS]))
    if TIMELINE in files:
        run = replace(run, timeline=timeline_of(files[TIMELINE]))
    elif run.timeline is not None:
        run = replace(run, timeline=checked_timeline(run.timeline, files[FILE]))
    if RESULT in files:
        run = replace(run, measures={**run.measures, **finished(files[RESULT])})
    elif run.epochs and "accuracy" in run.epochs[-1]:
        run = replace(run, measures={**run.measures, "accuracy": float(run.epochs[-1]["accuracy"])})
    return _with_weights(run, files[WEIGHTS]) if WEIGHTS in files else run


def _with_structure(run: Run, folder: Path, model: nn.Module | None) -> Run:
    said = read_json(folder / STRUCTURE)
    living = said.get("living") if isinstance(said, Mapping) else None
    if not isinstance(living, Mapping) or not all(isinstance(units, list) for units in living.values()):
        raise CheckpointError(f"{folder / STRUCTURE} is damaged: 'living' should be a table of lists")
    provenance = said.get("provenance", [])
    run = replace(run, provenance=tuple(map(str, provenance)) if isinstance(provenance, list) else ())
    known = {group.name: group.after for group in run.groups}
    if known and all(known.get(name) == len(units) for name, units in living.items()):
        return run
    if model is not None:
        found = run_of(run.name, load(folder, model))
        return replace(found, command=run.command, model=run.model, measures={**run.measures, **found.measures}, notes=run.notes)
    stale = "its report.json is of an earlier save" if known else f"it has no {FILE}"
    note = f"{stale}, so that widths before and the group graph are not known; give the model that it was saved from, with --model"
    counts = tuple(f"{name}: {len(units)} units are left" for name, units in living.items())
    return replace(run, groups=(), layers=(), notes=(*run.notes, note, *counts))


def _with_weights(run: Run, path: Path) -> Run:
    """Size of the file; and which weights are zero, in a network that is not dense."""
    try:
        with safe_open(path, framework="pt") as file:
            densities = densities_of((key, file.get_tensor(key)) for key in file.keys())  # noqa: SIM118 (it is no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged: {error}") from error
    return replace(run, densities=densities, measures={**run.measures, "bytes": float(path.stat().st_size)})


def _bench(path: Path, said: Mapping[str, Any]) -> Bench:
    about = said.get("engine")
    if not isinstance(about, Mapping) or not isinstance(said["contenders"], list):
        raise CheckpointError(f"{path} is not what `fxsparse bench --json` prints: 'engine' or 'contenders' is missing")
    words = [f"{about.get('engine')} {about.get('version')}"]
    words += [f"{about.get('threads')} threads"] * ("threads" in about) + [str(about.get("precision"))] * ("precision" in about)
    rows = []
    for line in said["contenders"]:
        if not isinstance(line, Mapping) or not isinstance(line.get("name"), str) or not _number(line.get("median_ms")):
            raise CheckpointError(f"{path}: a contender lacks its name or median_ms")
        found = line.get("ratio")
        good = isinstance(found, Mapping) and all(_number(found.get(key)) for key in ("value", "low", "high"))
        row = {key: float(line[key]) for key in NUMBERS if _number(line.get(key))}
        rows.append({"name": line["name"], **row, "ratio": dict(found) if good and isinstance(found, Mapping) else None})
    return Bench(str(path), ", ".join(words), tuple(rows))


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _joined(runs: Mapping[Path, Run], benches: Sequence[Bench]) -> Sources:
    """Latencies go to the runs that were measured, or to what they were made from; other contenders become runs of their own."""
    made = list(_named_apart(runs.values()))
    for bench in benches:
        for row in bench.rows:
            index = next((i for i, (path, run) in enumerate(runs.items()) if _is(row["name"], path, run)), None)
            origins = [i for i, run in enumerate(made) if run.before and run.model == row["name"]]
            if index is None and origins:  # what those runs were made from
                for i in origins:
                    made[i] = replace(made[i], before={**made[i].before, "latency_ms": row["median_ms"]})
                continue
            if index is None:
                index = next((i for i, run in enumerate(made) if i >= len(runs) and run.name == row["name"]), None)
            if index is None:
                made.append(Run(row["name"]))
                index = -1
            made[index] = replace(made[index], measures={**made[index].measures, "latency_ms": row["median_ms"]})
    return Sources(tuple(made), tuple(benches))


def _is(name: str, path: Path, run: Run) -> bool:
    """Whether a contender's name means this run: its folder, a file in it, or what the run is called."""
    given = Path(name)
    return (
        name == run.name or given.absolute() == path.absolute() or (given.suffix == ".onnx" and given.parent.absolute() == path.absolute())
    )


def _named_apart(runs: Iterable[Run]) -> Iterable[Run]:
    seen: dict[str, int] = {}
    for run in runs:
        seen[run.name] = seen.get(run.name, 0) + 1
        yield run if seen[run.name] == 1 else replace(run, name=f"{run.name} ({seen[run.name]})")

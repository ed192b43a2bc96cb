"""The long hunt: every promise, on thousands of random networks, each in a process of its own.

    python -m tests.nightly --count 10000 --workers 4 --results benchmarks/results/nightly.json

A seed is a network of 5 to 40 operators, its values, its inputs and a plan. Each call goes on where the last one ended; seeds that failed
are tried again once the code has changed. Some networks crash torch's own backward pass, without any part of fxsparse: a child process
finds that out first, and what is left to check is checked. The results hold counts, and the seeds that failed.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import resource
import select
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fxsparse.tracing.shapes import remembered
from tests.networks.checks import check_shrink
from tests.networks.exchange import check_exchange
from tests.networks.random_networks import RandomNetwork, random_network

LEAST, MOST = 5, 40  # operators
TESTED = (*(f"fxsparse/{part}" for part in ("axes", "channels", "surgery", "tracing", "network.py", "saving.py")), "tests/networks")
ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 20  # how much longer than its limit of processor time a child may take on a busy machine
HELD, HELD_WITHOUT_TRAINING, FAILED = "held", "held, but for torch's own backward", "failed"


@dataclass(slots=True)
class Outcome:
    """What became of one seed."""

    seed: int
    kind: str
    why: str = ""


# ---- in the child -----------------------------------------------------------------------------------------------------------


def run_original(module: nn.Module, args: tuple[Any, ...], kwargs: Any) -> None:
    """One step of the model as it is: what fails here is no matter of fxsparse."""
    twin = copy.deepcopy(module).train()
    outputs = [leaf for leaf in tree_leaves(twin(*args, **kwargs)) if isinstance(leaf, Tensor) and leaf.requires_grad]
    sum((leaf.square().mean() for leaf in outputs), torch.zeros(())).backward()


def check(network: RandomNetwork, seed: int, trains: bool, say: Any) -> None:
    """All promises; `say` hears which part comes next."""
    call = network.example_inputs(2, seed)
    module = network.build(seed)
    if trains:
        say("original")
        run_original(module, call.args, call.kwargs)
    with remembered():  # meta kernels on shapes that were seen: a third of the time
        say("shrink")
        check_shrink(module, call.args, seed, call.kwargs, trains=trains)
        say("exchange")
        check_exchange(module, call.args, seed, call.kwargs, most=3)


def child(seed: int, trains: bool, seconds: int, pipe: int) -> None:
    """Never returns; the last line that it writes is its outcome."""

    def say(line: str) -> None:
        os.write(pipe, (line.replace("\n", " ")[:400] + "\n").encode())

    try:
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        check(random_network(seed, LEAST, MOST), seed, trains, say)
        say("done")
    except BaseException as error:  # whatever it is, it is this seed's outcome
        say(f"{type(error).__name__}: {error}")
    finally:
        os._exit(0)


# ---- in the parent ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Running:
    """One child at work."""

    seed: int
    trains: bool
    pid: int
    pipe: int
    deadline: float
    heard: str = ""

    def outcome(self) -> Outcome | None:
        """Once it has ended: what it is; None where the original alone failed, and the rest is still to be checked."""
        os.close(self.pipe)
        _, status = os.waitpid(self.pid, 0)
        lines = self.heard.split("\n")[:-1]
        last = lines[-1] if lines else ""
        if last == "done":
            return Outcome(self.seed, HELD if self.trains else HELD_WITHOUT_TRAINING)
        stage = next((line for line in reversed(lines) if line in ("original", "shrink", "exchange")), "start")
        if self.trains and stage == "original":
            return None
        if last != stage:
            return Outcome(self.seed, FAILED, f"{stage}: {last}")
        killer = os.WTERMSIG(status)
        late = killer == signal.SIGXCPU or time.monotonic() >= self.deadline
        return Outcome(
            self.seed, FAILED, f"{stage}: " + ("took too long" if late else f"the process died of {signal.Signals(killer).name}")
        )


def start(seed: int, trains: bool, seconds: int) -> Running:
    reader, writer = os.pipe()
    sys.stdout.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a parent with threads may fork: the child starts none of them
        pid = os.fork()
    if not pid:
        os.close(reader)
        child(seed, trains, seconds, writer)
    os.close(writer)
    return Running(seed, trains, pid, reader, time.monotonic() + PATIENCE * seconds)


def hunt(seeds: Sequence[int], workers: int, seconds: int) -> Iterator[Outcome]:
    """The outcome of each seed, in the order in which they come."""
    waiting = [(seed, True) for seed in reversed(seeds)]
    running: list[Running] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(start(*waiting.pop(), seconds))
            ready, _, _ = select.select([each.pipe for each in running], [], [], 1.0)
            for each in list(running):
                heard = os.read(each.pipe, 65536) if each.pipe in ready else None
                if heard:
                    each.heard += heard.decode()
                elif heard is None and time.monotonic() < each.deadline:
                    continue
                if heard is None:
                    os.kill(each.pid, signal.SIGKILL)
                if not heard:
                    running.remove(each)
                    outcome = each.outcome()
                    if outcome is None:
                        waiting.append((each.seed, False))
                    else:
                        yield outcome
    finally:
        for each in running:
            os.kill(each.pid, signal.SIGKILL)
            os.waitpid(each.pid, 0)


# ---- the book ---------------------------------------------------------------------------------------------------------------


def code() -> str:
    """Changes with the code that is tested and with the networks that test it."""
    digest = hashlib.sha256()
    for part in TESTED:
        for path in sorted((ROOT / part).rglob("*.py")) if (ROOT / part).is_dir() else [ROOT / part]:
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


@dataclass(slots=True)
class Book:
    """What is known from all calls so far: one entry for each state of the code."""

    path: Path | None
    runs: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path | None) -> Book:
        return cls(path, json.loads(path.read_text())["runs"] if path and path.exists() else [])

    def entry(self, first: int | None) -> dict[str, Any]:
        """The entry to go on with; a new one where the code or the first seed is new."""
        last = self.runs[-1] if self.runs else None
        begin = first if first is not None else last["seeds"][1] if last else 0
        now = code()
        if last is None or last["code"] != now or last["torch"] != torch.__version__ or last["seeds"][1] != begin:
            self.runs.append({"code": now, "torch": torch.__version__, "seeds": [begin, begin], "counts": {}, "failed": {}, "mended": {}})
        return self.runs[-1]

    def failed_before(self, entry: dict[str, Any]) -> dict[int, str]:
        """Seeds that failed under other code and have not held since."""
        open_: dict[int, str] = {}
        for run in self.runs:
            if run is not entry and run["code"] != entry["code"]:
                open_.update({int(seed): why for seed, why in run["failed"].items()})
            for seed in run["mended"]:
                open_.pop(int(seed), None)
        return open_

    def write(self) -> None:
        if self.path:
            text = json.dumps({"operators": [LEAST, MOST], "runs": self.runs}, indent=1)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(text + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.nightly", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--start", type=int, help="the first seed; by default, where the last call ended")
    parser.add_argument("--count", type=int, default=10_000, help="how many seeds (default: 10000)")
    parser.add_argument("--workers", type=int, default=1, help="processes at a time, of one thread each (default: 1)")
    parser.add_argument("--seconds", type=int, default=120, help="limit of processor time for each network (default: 120)")
    parser.add_argument("--results", type=Path, help="JSON file that is gone on with")
    options = parser.parse_args(arguments)
    book = Book.open(options.results)
    entry = book.entry(options.start)
    again = book.failed_before(entry)
    for outcome in hunt(sorted(again), options.workers, options.seconds):
        where = "failed" if outcome.kind == FAILED else "mended"
        entry[where][str(outcome.seed)] = outcome.why or again[outcome.seed]
        print(f"seed {outcome.seed}, which had failed: {outcome.kind} {outcome.why}", flush=True)
    book.write()
    last = entry["seeds"][1] + options.count
    for begin in range(entry["seeds"][1], last, 20 * options.workers):  # an interrupted call loses less than this
        seeds = range(begin, min(begin + 20 * options.workers, last))
        outcomes = list(hunt(seeds, options.workers, options.seconds))
        entry["counts"] = dict(Counter(entry["counts"]) + Counter(outcome.kind for outcome in outcomes))
        entry["seeds"][1] = seeds.stop
        for outcome in outcomes:
            if outcome.kind == FAILED:
                entry["failed"][str(outcome.seed)] = outcome.why
                print(f"seed {outcome.seed}: {outcome.why}", flush=True)
        book.write()
    print(f"seeds {entry['seeds'][0]} to {entry['seeds'][1] - 1}: {entry['counts']}")
    return 1 if entry["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())

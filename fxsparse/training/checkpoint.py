"""Checkpoints that survive a kill at any moment, and that cannot run code when they are read."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy
import torch
from filelock import FileLock, Timeout

from fxsparse.errors import CheckpointError, Error


@contextmanager
def alone_in(folder: Path | None) -> Iterator[None]:
    """As long as this lasts, no other process trains in the folder: two would write into each other's files. A process that is killed
    leaves it free."""
    if folder is None:
        yield
        return
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise Error(f"another process trains in {folder}; wait for it, or give another folder") from error
    except (OSError, NotImplementedError):  # a file system without locks
        yield
        return
    try:
        yield
    finally:
        lock.release()


def save_checkpoint(path: Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values. Whoever reads `path` finds the old file or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + ".tmp")
    try:
        with half.open("wb") as file:
            torch.save(dict(content), file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch's writer says nothing of a full disk but that its count is wrong
        half.unlink(missing_ok=True)
        raise CheckpointError(f"{path} cannot be written: {_reason(error)}; make room, and resume") from error
    os.replace(half, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the new name itself must be on the disk
    finally:
        os.close(folder)


def _reason(error: BaseException) -> str:
    """What the system said, where torch hides it."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__cause__ or found.__context__
    return (found.strerror if isinstance(found, OSError) else None) or str(error).splitlines()[0]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint, without executing anything from it."""
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can fail in any way
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} cannot be read as a checkpoint ({reason})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, which is no checkpoint")
    return content


def seed_everything(seed: int) -> None:
    """Every global random number generator begins anew. Done before each step, nothing of them needs to be saved."""
    torch.manual_seed(seed)
    random.seed(seed)
    numpy.random.seed(seed % 2**32)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within, every global random number generator begins at the seed; afterwards they are as they were."""
    before = random_state()
    seed_everything(seed)
    try:
        yield
    finally:
        set_random_state(before)


def random_state() -> dict[str, Any]:
    """The state of every global random number generator, as tensors and plain values."""
    version, numbers, spare = random.getstate()
    name, keys, *rest = numpy.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(numbers), spare],
        "numpy": [str(name), torch.from_numpy(numpy.asarray(keys, dtype=numpy.int64)), *(float(x) for x in rest)],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Take `random_state` back. A machine with other GPUs keeps the states of its own."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, numbers, spare = state["python"]
    random.setstate((version, tuple(numbers), spare))
    name, keys, position, has_spare, spare_normal = state["numpy"]
    numpy.random.set_state((name, keys.numpy().astype(numpy.uint32), int(position), int(has_spare), spare_normal))

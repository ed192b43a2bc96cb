"""`fxsparse doctor`: what is installed, which engines really run, how threads are set, and what to do about what is wrong."""

from __future__ import annotations

import importlib.metadata
import json
import os
from typing import Any

import torch
import typer
from torch import nn

from fxsparse.engines import engine
from fxsparse.models.torchvision_shim import torchvision_state
from fxsparse.network import trace
from fxsparse.surgery.verify import verify
from fxsparse.tools.console import plain
from fxsparse.tools.options import Json

PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxruntime", "tensorrt", "torch-pruning", "matplotlib", "scikit-learn")
ENGINES = ("onnxruntime", "inductor", "tensorrt")


def doctor(as_json: Json = False) -> None:
    """Tell what is installed, which engines run a tiny network here, how threads are set, and what would mend the rest.

    The exit status is 1 only when the core does not work: tracing, shrinking and proving.

    Example: fxsparse doctor --json
    """
    core = core_problem()
    found: dict[str, Any] = {
        "core": core,
        "packages": {name: version_of(name) for name in PACKAGES},
        "engines": {name: engine_problem(name) for name in ENGINES},
        "threads": threads(),
    }
    found["advice"] = advice(found["threads"])
    if as_json:
        typer.echo(json.dumps(found, indent=1))
    else:
        _show(found)
    if core is not None:
        raise typer.Exit(1)


def version_of(package: str) -> str | None:
    """The installed version; None: not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _tiny() -> tuple[nn.Module, torch.Tensor]:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval(), torch.zeros(1, 3, 8, 8)


def core_problem() -> str | None:
    """Why a tiny network cannot be traced, shrunk and proved; None: it can."""
    try:
        model, example = _tiny()
        network = trace(model, (example,))
        group = max(network.groups, key=lambda each: len(each.units))
        verify(network, network.shrink({group.name: list(group.units)[::2]}))
    except Exception as error:  # whatever is wrong with the installation is what is asked for
        return _sentence(error)
    return None


def engine_problem(name: str) -> str | None:
    """Why an engine does not run a tiny network; None: it does."""
    try:
        model, example = _tiny()
        engine(name).build(model, (example,)).run(example)
    except Exception as error:  # likewise
        return _sentence(error)
    return None


def _sentence(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def threads() -> dict[str, Any]:
    """The settings that decide how many threads run. `cores` are those this process may use."""
    return {"cores": len(os.sched_getaffinity(0)), "torch": torch.get_num_threads(), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")}


def advice(setting: dict[str, Any]) -> list[str]:
    """What to do, one sentence each."""
    said = []
    if setting["torch"] > setting["cores"]:
        said.append(
            f"torch uses {setting['torch']} threads and this process may use {setting['cores']} cores: export "
            f"OMP_NUM_THREADS={setting['cores']}, or 1 where several processes run side by side"
        )
    state = torchvision_state()
    if state.problem is not None:
        said.append(
            f"torchvision {state.version} was built for another torch ({state.problem}); plain-torch operators stand in for it; to mend "
            "it, install both from the same index, as in pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu"
        )
    return said


def _show(found: dict[str, Any]) -> None:
    console = plain()
    console.print(f"core: {found['core'] or 'traces, shrinks and proves'}")
    for name, version in found["packages"].items():
        console.print(f"{name}: {version or 'not installed'}")
    for name, problem in found["engines"].items():
        console.print(f"engine {name}: {problem or 'runs'}")
    console.print("threads: " + ", ".join(f"{name} {value or 'not set'}" for name, value in found["threads"].items()))
    for sentence in found["advice"]:
        console.print(f"advice: {sentence}")

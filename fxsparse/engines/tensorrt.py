"""TensorRT, versions 10.12 and newer: strongly typed engines, whose precision is that of the ONNX file they are built from."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from fxsparse.engines.base import module_and_inputs, require_like
from fxsparse.engines.measure import Milliseconds
from fxsparse.engines.onnx_export import Precision, export_onnx
from fxsparse.engines.tensorrt_device import Cuda, Device
from fxsparse.engines.tensorrt_inspector import built_layers, require_precision
from fxsparse.engines.tensorrt_plan import Choices, bindings, build_plan, write_whole
from fxsparse.engines.tensorrt_run import Loaded
from fxsparse.errors import LoweringError
from fxsparse.network import Network


@dataclass(frozen=True)
class TensorRT:
    """Engines for one GPU. `timing_cache` is a folder: share it over the variants of a network, which then are built alike."""

    precision: Precision = "fp32"
    sparse: bool = False
    tf32: bool = False
    level: int = 3
    batches: tuple[int, int, int] | None = None
    timing_cache: str | None = None
    cuda_graph: bool = True
    gpu: int = 0
    threads: int = 1  # of the host, which waits; kept so that all engines take it

    @property
    def name(self) -> str:
        return "tensorrt"

    def build(self, model: Network | nn.Module, inputs: Sequence[Any] | None = None) -> Running:
        """Export to ONNX, build, load, and check that the precision built is the one asked for."""
        trt, device = bindings(), self._device()
        _, example = module_and_inputs(model, inputs)
        with tempfile.TemporaryDirectory(prefix="fxsparse-") as folder:
            path = Path(folder) / "model.onnx"
            export_onnx(model, path, inputs=example, precision=self.precision, dynamic_batch=self.batches is not None)
            plan = build_plan(trt, path, self._choices(trt, device))
        return self._running(trt, device, plan, tuple(leaf for leaf in tree_leaves(example) if isinstance(leaf, Tensor)))

    def load(self, path: str | Path) -> Running:
        """An engine that `Running.save` wrote, on the same kind of GPU and the same version of TensorRT."""
        trt, device = bindings(), self._device()
        plan, about = read_engine(Path(path), identity(trt, device))
        wanted = replace(self, precision=about["precision"], sparse=about["sparse"])
        return wanted._running(trt, device, plan, None)

    def _running(self, trt: Any, device: Device, plan: bytes, example: tuple[Tensor, ...] | None) -> Running:
        loaded = Loaded.load(trt, device, plan)
        layers = built_layers(trt, loaded.engine)
        require_precision(layers, self.precision)
        counts = {"layers": len(layers), "sparse_layers": sum(layer.sparse for layer in layers)}
        return Running(self, loaded, plan, example if example is not None else loaded.example(), {**identity(trt, device), **counts})

    def _choices(self, trt: Any, device: Device) -> Choices:
        cache = None
        if self.timing_cache is not None:
            folder = Path(self.timing_cache)
            if not folder.is_dir():
                raise LoweringError(f"the folder {folder} for the timing cache is not there; make it first")
            cache = folder / (re.sub(r"\W+", "-", "-".join(identity(trt, device).values())) + ".cache")
        return Choices(self.sparse, self.tf32, self.level, batches=self.batches, cache=cache)

    def _device(self) -> Device:
        return Cuda(self.gpu)


@dataclass(frozen=True)
class Running:
    """An engine that is loaded on the GPU."""

    engine: TensorRT
    loaded: Loaded
    plan: bytes = field(repr=False)
    inputs: tuple[Any, ...]
    about: dict[str, Any]

    def run(self, *inputs: Any) -> list[Tensor]:
        ready = self.loaded.ready(self._leaves(inputs or self.inputs))
        ready.enqueue()
        self.loaded.device.wait()
        return [each.cpu() for each in ready.outputs]

    def prepare(self, *inputs: Any) -> Callable[[], object]:
        """One run, timed by events on the GPU; inputs are there already, and outputs stay."""
        device = self.loaded.device
        ready = self.loaded.ready(self._leaves(inputs or self.inputs))
        once = device.captured(ready.enqueue) if self.engine.cuda_graph else ready.enqueue
        return lambda: Milliseconds(device.timed(once))

    def layer_times(self, runs: int = 20) -> dict[str, float]:
        """Milliseconds of each layer, by TensorRT's profiler: for comparing layers, as it slows the whole."""
        return self.loaded.layer_times(self._leaves(self.inputs), runs)

    def describe(self) -> dict[str, Any]:
        return {
            "engine": "tensorrt",
            "version": self.about["tensorrt"],
            **{key: value for key, value in self.about.items() if key != "tensorrt"},
            "threads": self.engine.threads,
            "precision": self.engine.precision,
            "method": "GPU time by events around " + ("a CUDA graph" if self.engine.cuda_graph else "the enqueue") + ", no copies",
            "inputs": [list(leaf.shape) for leaf in self._leaves(self.inputs)],
        }

    def save(self, path: str | Path) -> None:
        """Write the engine, and beside it a file that says where it runs."""
        write_engine(Path(path), self.plan, self.about, self.engine.precision, self.engine.sparse)

    def _leaves(self, inputs: tuple[Any, ...]) -> list[Tensor]:
        leaves, wanted = ([leaf for leaf in tree_leaves(each) if isinstance(leaf, Tensor)] for each in (inputs, self.inputs))
        require_like(leaves, wanted, batch_is_free=self.loaded.dynamic)
        return leaves


def identity(trt: Any, device: Device) -> dict[str, str]:
    """What engines and timing caches are bound to."""
    return {"tensorrt": str(trt.__version__), "gpu": device.name, "cuda": device.cuda}


def side_file(path: Path) -> Path:
    return path.with_name(path.name + ".json")


def write_engine(path: Path, plan: bytes, about: dict[str, Any], precision: str, sparse: bool) -> None:
    said = {**about, "precision": precision, "sparse": sparse, "sha256": hashlib.sha256(plan).hexdigest()}
    write_whole(path, plan)
    write_whole(side_file(path), (json.dumps(said, indent=1) + "\n").encode())


def read_engine(path: Path, here: dict[str, str]) -> tuple[bytes, dict[str, Any]]:
    """An engine and what is known of it; refused where it was not built here, or is not whole."""
    try:
        plan, about = path.read_bytes(), json.loads(side_file(path).read_text(encoding="utf-8"))
        known = {**{key: about[key] for key in here}, "precision": about["precision"], "sparse": bool(about["sparse"])}
        whole = about["sha256"] == hashlib.sha256(plan).hexdigest()
    except OSError as error:
        raise LoweringError(f"the engine {path} cannot be read: {error.filename}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise LoweringError(f"{side_file(path)} is damaged; build the engine again") from error
    for key, value in here.items():
        if known[key] != value:
            raise LoweringError(f"the engine {path} was built for {key} {known[key]}, and here is {value}; build it again here")
    if not whole:
        raise LoweringError(f"the engine {path} is damaged, or does not belong to its side file; build it again")
    return plan, known

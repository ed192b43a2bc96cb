"""What `fxsparse bench` measures: models, saved folders and ONNX files, built for one engine with inputs alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from fxsparse.budgets.latency_table import LatencyTable, staircase
from fxsparse.engines import engine, engine_names, profile
from fxsparse.engines.base import Built, Engine, materialised
from fxsparse.engines.layers import Convolution
from fxsparse.engines.onnxruntime import OnnxRuntime
from fxsparse.engines.profile import LayerTime, profile_file
from fxsparse.engines.tensorrt import Running
from fxsparse.errors import LoweringError
from fxsparse.network import Network
from fxsparse.tools.options import sizes_of, traced

USUAL = Convolution(1, 128, 128, 128, (28, 28), (3, 3), (1, 1), (1, 1), (1, 1))  # shows an engine's steps where any layer does


@dataclass(frozen=True)
class Wish:
    """How contenders are built."""

    engine: str = "onnxruntime"
    threads: int = 1
    precision: str = "fp32"
    model: str | None = None  # what saved folders were made from
    weights: Path | None = None
    shape: str | None = None
    batch: int | None = None


@dataclass(frozen=True)
class Contender:
    """One of them, built."""

    name: str
    engine: Engine
    built: Built
    source: Network | Path

    @property
    def masked(self) -> bool:
        return isinstance(self.source, Network) and bool(self.source.masks)

    def profile(self) -> tuple[LayerTime, ...]:
        """The time of each layer, in a pass of its own."""
        if isinstance(self.built, Running):
            return tuple(LayerTime(name, "", time, (), (), 0) for name, time in self.built.layer_times().items())
        assert isinstance(self.engine, OnnxRuntime)
        if isinstance(self.source, Path):
            return profile_file(self.source, self.engine, self.built.inputs)
        return profile(self.source, self.engine, self.built.inputs)


def require_profile(name: str, macs: bool) -> None:
    """Whether an engine tells the times of layers, and their MACs, is said before minutes of building and measuring."""
    known = ("onnxruntime",) if macs else ("onnxruntime", "tensorrt")
    if name in engine_names() and name not in known:
        raise LoweringError(f"{name} does not tell the times of layers; --engine may be {' or '.join(known)} for this")


def contenders_of(names: Sequence[str], wish: Wish) -> list[Contender]:
    """All of them, in this order. One that is named again is a contender again: what noise makes of one and the same."""
    runtime = engine(wish.engine, threads=wish.threads, precision=wish.precision)
    found: list[Contender] = []
    for name in names:
        again = sum(each.name.partition(" #")[0] == name for each in found)
        source = _source(name, wish)
        built = _built(runtime, source, wish)
        found.append(Contender(f"{name} #{again + 1}" if again else name, runtime, built, source))
    return found


def engine_step(runtime: Engine) -> int:
    """In which steps the engine likes widths on this machine."""
    table = LatencyTable.open(runtime)
    step = staircase(table, [USUAL])
    table.save()
    return step


def _source(name: str, wish: Wish) -> Network | Path:
    if name.endswith(".onnx"):
        return Path(name)
    if not Path(name).is_dir():
        return traced(name, wish.weights, wish.shape, None)
    if wish.model is None:
        raise LoweringError(f"{name} is a saved folder; say which model it was made from, as in --model torchvision:resnet50")
    return traced(wish.model, wish.weights, wish.shape, None, Path(name))


def _built(runtime: Engine, source: Network | Path, wish: Wish) -> Built:
    if isinstance(source, Path):
        return _opened(runtime, source, wish)
    if wish.shape is None and wish.batch is None:
        return runtime.build(source)
    args, kwargs = source.origin.inputs
    if kwargs:
        raise LoweringError(f"--batch and --input are for positional inputs, and this network takes {', '.join(kwargs)} by name")
    if wish.shape is not None:
        args = (torch.empty(sizes_of(wish.shape) or (), device="meta"),)
    return runtime.build(source, _batched(args, wish.batch))


def _opened(runtime: Engine, path: Path, wish: Wish) -> Built:
    """An ONNX file: its precision is its own, and so are its sizes, unless it leaves them free."""
    if not isinstance(runtime, OnnxRuntime):
        raise LoweringError(f"{path} is an ONNX file, which onnxruntime runs, not {wish.engine}; use --engine onnxruntime")
    built = runtime.open(path)
    if built.precision != wish.precision and wish.precision != "fp32":
        raise LoweringError(f"{path} is {built.precision}, and {wish.precision} is asked for; export it with --precision {wish.precision}")
    if wish.shape is None and wish.batch is None:
        return built
    asked = (torch.empty(sizes_of(wish.shape) or (), device="meta"),) if wish.shape is not None else built.inputs
    inputs = _batched(asked, wish.batch)
    for tensor, declared in zip(inputs, built.session.get_inputs(), strict=False):
        fixed = [(a, b) for a, b in zip(tensor.shape, declared.shape, strict=False) if isinstance(b, int) and a != b]
        if fixed or tensor.dim() != len(declared.shape):
            raise LoweringError(
                f"{path} takes {declared.name!r} of shape {declared.shape}, and {list(tensor.shape)} is asked for; "
                "export it with --dynamic-batch, or for this shape"
            )
    return runtime.open(path, inputs)


def _batched(inputs: tuple[Any, ...], batch: int | None) -> tuple[Any, ...]:
    """The inputs, so many at once: the first axis of each tensor is the batch."""
    if batch is None:
        return materialised(inputs)
    made: tuple[Any, ...] = tree_map_only(Tensor, lambda t: t[:1].expand(batch, *t.shape[1:]) if t.dim() else t, inputs)
    return materialised(tree_map_only(Tensor, lambda t: t if t.is_meta else t.contiguous(), made))

"""torch.compile, on CPU or on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from fxsparse.engines.base import module_and_inputs, require_like
from fxsparse.errors import LoweringError
from fxsparse.network import Network
from fxsparse.tracing.copies import duplicate

PRECISIONS = ("fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Inductor:
    """Compiled by TorchInductor. On CPU `threads` is set for the whole process, as torch knows no other way."""

    threads: int = 1
    device: str = "cpu"
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    mode: str = "default"

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise LoweringError(f"precision is one of {', '.join(PRECISIONS)}, not {self.precision!r}")
        if self.threads < 1:
            raise LoweringError(f"torch needs at least 1 thread, not {self.threads}")

    @property
    def name(self) -> str:
        return "inductor"

    def build(self, model: Network | nn.Module, inputs: Sequence[Any] | None = None) -> Compiled:
        if self.device.startswith("cuda") and not torch.cuda.is_available():
            raise LoweringError(f"the device {self.device!r} is not there; use device='cpu'")
        module, example = module_and_inputs(model, inputs)
        own = duplicate(module, {}).eval().to(self.device)
        example = tree_map_only(Tensor, lambda t: t.to(self.device), example)
        return Compiled(self, torch.compile(own, mode=self.mode), example)


@dataclass(frozen=True)
class Compiled:
    """A compiled module; it is compiled at its first run."""

    engine: Inductor
    function: Callable[..., Any]
    inputs: tuple[Any, ...]

    def run(self, *inputs: Any) -> list[Tensor]:
        given = inputs or self.inputs
        require_like(given, self.inputs)
        return [
            leaf.float().cpu() for leaf in tree_leaves(self._call(tree_map_only(Tensor, self._there, given))) if isinstance(leaf, Tensor)
        ]

    def prepare(self, *inputs: Any) -> Callable[[], object]:
        given = tree_map_only(Tensor, self._there, inputs or self.inputs)
        require_like(given, self.inputs)

        def once() -> object:
            result = self._call(given)
            if self.engine.device.startswith("cuda"):
                torch.cuda.synchronize()
            return result

        return once

    def describe(self) -> dict[str, Any]:
        return {
            "engine": "inductor",
            "version": torch.__version__,
            "device": torch.cuda.get_device_name() if self.engine.device.startswith("cuda") else "cpu",
            "threads": self.engine.threads,
            "precision": self.engine.precision,
            "mode": self.engine.mode,
            "inputs": [list(leaf.shape) for leaf in tree_leaves(self.inputs) if isinstance(leaf, Tensor)],
        }

    def _there(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.engine.device)

    def _call(self, inputs: tuple[Any, ...]) -> Any:
        kind = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.engine.precision)
        if not self.engine.device.startswith("cuda") and torch.get_num_threads() != self.engine.threads:
            torch.set_num_threads(self.engine.threads)
        with torch.no_grad(), torch.autocast(self.engine.device.partition(":")[0], dtype=kind, enabled=kind is not None):
            try:
                return self.function(*inputs)
            except torch._dynamo.exc.TorchDynamoException as error:
                raise LoweringError(f"torch.compile does not compile it: {str(error).strip().splitlines()[0]}") from error

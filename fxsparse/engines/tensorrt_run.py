"""Running a TensorRT engine: torch tensors as buffers, on a stream that is not the default one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxsparse.engines.tensorrt_device import Device
from fxsparse.engines.tensorrt_plan import listening
from fxsparse.errors import LoweringError

TYPES = {"FLOAT": torch.float32, "HALF": torch.float16, "BF16": torch.bfloat16, "INT8": torch.int8, "INT32": torch.int32}
TYPES |= {"INT64": torch.int64, "BOOL": torch.bool, "UINT8": torch.uint8}


@dataclass(frozen=True)
class Port:
    """An input or output of an engine; a free size is -1."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True, eq=False)
class Loaded:
    """A deserialised engine, its ports, and what must live as long as it."""

    trt: Any
    device: Device
    engine: Any
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    owners: tuple[Any, ...]  # runtime and logger: TensorRT keeps no reference to them

    @staticmethod
    def load(trt: Any, device: Device, plan: bytes) -> Loaded:
        logger = listening(trt)
        runtime = trt.Runtime(logger)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            said = logger.errors[0].splitlines()[0] if logger.errors else "it gives no reason"
            raise LoweringError(f"TensorRT cannot load the engine: {said}; build it again")
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        ports = {name: Port(name, tuple(engine.get_tensor_shape(name)), _dtype(engine, name)) for name in names}
        taken = {name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT}
        inputs, outputs = ([ports[name] for name in names if (name in taken) is wanted] for wanted in (True, False))
        return Loaded(trt, device, engine, tuple(inputs), tuple(outputs), (runtime, logger))

    @property
    def dynamic(self) -> bool:
        return any(-1 in port.shape for port in self.inputs)

    def example(self) -> tuple[Tensor, ...]:
        """Random inputs, of the profile's usual shapes where sizes are free."""
        generator = torch.Generator().manual_seed(0)
        made = []
        for port in self.inputs:
            shape = tuple(self.engine.get_tensor_profile_shape(port.name, 0)[1]) if -1 in port.shape else port.shape
            floating = port.dtype.is_floating_point
            made.append(torch.randn(shape, generator=generator).to(port.dtype) if floating else torch.ones(shape, dtype=port.dtype))
        return tuple(made)

    def ready(self, inputs: Sequence[Tensor]) -> Ready:
        """An execution context of its own, with these inputs on the device."""
        if len(inputs) != len(self.inputs):
            raise LoweringError(f"the engine takes {len(self.inputs)} tensors, and got {len(inputs)}")
        context = self.engine.create_execution_context()
        if context is None:
            raise LoweringError("TensorRT makes no execution context; the GPU is out of memory, or busy")
        kept = []
        for port, tensor in zip(self.inputs, inputs, strict=True):
            buffer = self.device.put(tensor.to(port.dtype))
            if not context.set_input_shape(port.name, tuple(buffer.shape)):
                raise LoweringError(f"input {port.name!r} of shape {tuple(buffer.shape)} lies outside the engine's profile {port.shape}")
            context.set_tensor_address(port.name, buffer.data_ptr())
            kept.append(buffer)
        outputs = []
        for port in self.outputs:
            shape = tuple(context.get_tensor_shape(port.name))
            if -1 in shape:
                raise LoweringError(f"the size of output {port.name!r} depends on the data, {shape}; such networks are not run here")
            outputs.append(self.device.empty(shape, port.dtype))
            context.set_tensor_address(port.name, outputs[-1].data_ptr())
        return Ready(context, self.device, tuple(kept), tuple(outputs))

    def layer_times(self, inputs: Sequence[Tensor], runs: int) -> dict[str, float]:
        """Mean milliseconds of each layer by TensorRT's profiler, in a context that is not the one that is timed."""
        times: dict[str, float] = {}

        base: Any = self.trt.IProfiler

        class Collector(base):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()

            def report_layer_time(self, layer_name: str, ms: float) -> None:
                times[layer_name] = times.get(layer_name, 0.0) + ms

        ready = self.ready(inputs)
        for _ in range(3):  # warm, and not counted
            ready.enqueue()
            self.device.wait()
        collector = Collector()
        ready.context.profiler = collector
        for _ in range(runs):
            ready.enqueue()
            self.device.wait()
        return {name: total / runs for name, total in times.items()}


@dataclass(frozen=True, eq=False)
class Ready:
    """A context with its buffers, ready to run."""

    context: Any
    device: Device
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def enqueue(self) -> None:
        if not self.context.execute_async_v3(self.device.stream):
            raise LoweringError("TensorRT could not start the run; the GPU reports an error")


def _dtype(engine: Any, name: str) -> torch.dtype:
    said = str(engine.get_tensor_dtype(name).name)
    if said not in TYPES:
        raise LoweringError(f"{name!r} is of type {said}, for which torch has no tensors here")
    return TYPES[said]

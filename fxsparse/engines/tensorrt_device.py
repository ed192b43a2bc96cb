"""The GPU's side of a TensorRT run: memory, a stream of its own, CUDA graphs and clocks. All of it is torch's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from fxsparse.errors import LoweringError


class Device(Protocol):
    """What a run needs of a device."""

    @property
    def name(self) -> str: ...

    @property
    def cuda(self) -> str: ...

    @property
    def stream(self) -> int:
        """The handle of a stream that is not the default one."""
        ...

    def put(self, tensor: Tensor) -> Tensor: ...

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor: ...

    def wait(self) -> None: ...

    def captured(self, once: Callable[[], None]) -> Callable[[], None]:
        """The same work as a CUDA graph."""
        ...

    def timed(self, once: Callable[[], None]) -> float:
        """Milliseconds on the device between two events around the work."""
        ...


class Cuda:
    """A GPU of torch's."""

    def __init__(self, index: int = 0) -> None:
        if not torch.cuda.is_available():
            raise LoweringError("the engine 'tensorrt' needs a GPU, and torch sees none; use --engine onnxruntime")
        self.index = index
        self._stream = torch.cuda.Stream(index)
        self._begin, self._end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)

    @property
    def name(self) -> str:
        major, minor = torch.cuda.get_device_capability(self.index)
        return f"{torch.cuda.get_device_name(self.index)} (sm_{major}{minor})"

    @property
    def cuda(self) -> str:
        return str(torch.version.cuda)

    @property
    def stream(self) -> int:
        return int(self._stream.cuda_stream)

    def put(self, tensor: Tensor) -> Tensor:
        made = tensor.detach().to(f"cuda:{self.index}").contiguous()
        torch.cuda.synchronize(self.index)  # our stream does not wait for the one that copied
        return made

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=f"cuda:{self.index}")

    def wait(self) -> None:
        self._stream.synchronize()

    def captured(self, once: Callable[[], None]) -> Callable[[], None]:
        once()  # TensorRT allocates in the first run, which a capture forbids
        self.wait()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            once()

        def replay() -> None:
            with torch.cuda.stream(self._stream):
                graph.replay()

        return replay

    def timed(self, once: Callable[[], None]) -> float:
        self._begin.record(self._stream)
        once()
        self._end.record(self._stream)
        while not self._end.query():  # a spin wait: sleeping would let the clocks fall
            pass
        return float(self._begin.elapsed_time(self._end))

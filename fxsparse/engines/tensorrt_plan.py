"""Building a TensorRT engine from an ONNX file: strongly typed, the same way on TensorRT 10.12 and on 11."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fxsparse.errors import LoweringError

OLDEST = (10, 12)  # the first release where a strongly typed network builds what TensorRT 11 builds
MARK = b"fxsparse timing cache\n"


@dataclass(frozen=True)
class Choices:
    """What an engine's speed depends on, beside the network."""

    sparse: bool = False  # let 2:4 kernels compete
    tf32: bool = False
    level: int = 3
    batches: tuple[int, int, int] | None = None  # least, usual, most; only for files with a free batch
    cache: Path | None = None  # the timing cache's file


def bindings() -> Any:
    """The official Python bindings, of a version that builds strongly typed networks."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        raise LoweringError("the engine 'tensorrt' needs tensorrt, which cannot be imported; pip install 'fxsparse[tensorrt]'") from error
    version = tuple(int(part) for part in str(tensorrt.__version__).split(".")[:2])
    if version < OLDEST:
        raise LoweringError(f"TensorRT {tensorrt.__version__} is too old; install 10.12 or newer: pip install 'fxsparse[tensorrt]'")
    return tensorrt


def listening(trt: Any) -> Any:
    """A logger that keeps TensorRT's errors, so that they can be told in one sentence."""
    serious = (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)

    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in serious:
                self.errors.append(msg)

    return Listener()


def build_plan(trt: Any, model: Path, choices: Choices) -> bytes:
    """The serialised engine of an ONNX file. Precision is the file's: nothing is asked of the builder that TensorRT 11 lacks."""
    logger = listening(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED.value)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(model)):
        raise LoweringError(f"TensorRT cannot read {model.name}: {_complaint(parser)}")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the inspector tells no types
    config.builder_optimization_level = choices.level
    if choices.sparse:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if not choices.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    _profile(builder, config, network, choices.batches)
    if choices.cache is not None:
        cache = config.create_timing_cache(read_cache(choices.cache))
        if cache is None or not config.set_timing_cache(cache, False):
            raise LoweringError(f"TensorRT refuses the timing cache {choices.cache}; delete it")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise LoweringError(f"TensorRT builds no engine: {_first(logger.errors)}")
    if choices.cache is not None:
        write_cache(choices.cache, bytes(config.get_timing_cache().serialize()))
    return bytes(plan)


def _profile(builder: Any, config: Any, network: Any, batches: tuple[int, int, int] | None) -> None:
    """Which shapes the free sizes may take. Only the first axis of an input may be free, as our exporter leaves them."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    free = [each for each in inputs if -1 in tuple(each.shape)]
    if not free:
        return
    if batches is None or not 1 <= batches[0] <= batches[1] <= batches[2]:
        raise LoweringError(f"input {free[0].name!r} has a free batch; give batches=(least, usual, most) in rising order")
    profile = builder.create_optimization_profile()
    for each in free:
        shape = tuple(each.shape)
        if -1 in shape[1:]:
            raise LoweringError(f"input {each.name!r} has shape {shape}, and only its first size may be free")
        least, usual, most = ((batch, *shape[1:]) for batch in batches)
        profile.set_shape(each.name, least, usual, most)
    config.add_optimization_profile(profile)


def _complaint(parser: Any) -> str:
    """The parser's first error, with the node that it is about."""
    if parser.num_errors == 0:
        return "it gives no reason"
    error = parser.get_error(0)
    return f"node {error.node_name()!r} ({error.node_operator()}): {_first([error.desc()])}"


def _first(messages: Sequence[str]) -> str:
    lines = [line for message in messages for line in message.splitlines() if line.strip()]
    return lines[0][:300] if lines else "it gives no reason"


def read_cache(path: Path) -> bytes:
    """A timing cache's contents; of a file that is not there, none. A damaged one is an error: ignoring it would cost a slower engine."""
    if not path.exists():
        return b""
    data = path.read_bytes()
    head, data = data[: len(MARK)], data[len(MARK) :]
    digest, data = data[:32], data[32:]
    if head != MARK or hashlib.sha256(data).digest() != digest:
        raise LoweringError(f"the timing cache {path} is damaged; delete it, and it is made anew")
    return data


def write_cache(path: Path, data: bytes) -> None:
    write_whole(path, MARK + hashlib.sha256(data).digest() + data)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file that is there whole, or as it was."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
            file.write(data)
        os.replace(file.name, path)
    except OSError as error:
        raise LoweringError(f"{path} cannot be written: {error.strerror}") from error

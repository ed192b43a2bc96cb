"""From a module to a tape and a graph."""

from fxsparse.tracing.copies import meta_copy, shared_copy
from fxsparse.tracing.leaves import leaf_modules
from fxsparse.tracing.recorder import Recorder
from fxsparse.tracing.recording import record
from fxsparse.tracing.tape import Call, Mode, Owner, Ref, Tape, Value
from fxsparse.tracing.trace import Traced, trace
from fxsparse.tracing.traced_module import TracedModule

__all__ = [
    "Call",
    "Mode",
    "Owner",
    "Recorder",
    "Ref",
    "Tape",
    "Traced",
    "TracedModule",
    "Value",
    "leaf_modules",
    "meta_copy",
    "record",
    "shared_copy",
    "trace",
]

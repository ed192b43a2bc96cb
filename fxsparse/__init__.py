"""fxsparse: a compiler for sparsity on torch.fx."""

from fxsparse import passes, training
from fxsparse.axes.rules import register_rule, unregister_rule
from fxsparse.errors import (
    BudgetError,
    CheckpointError,
    Error,
    LoweringError,
    PassError,
    PlanError,
    RuleError,
    TraceError,
    VerificationError,
)
from fxsparse.network import Network, trace
from fxsparse.passes.pipeline import Pipeline
from fxsparse.saving import load, save
from fxsparse.surgery.carry import carry
from fxsparse.surgery.verify import Proof, verify
from fxsparse.version import __version__

__all__ = [
    "BudgetError",
    "CheckpointError",
    "Error",
    "LoweringError",
    "Network",
    "PassError",
    "Pipeline",
    "PlanError",
    "Proof",
    "RuleError",
    "TraceError",
    "VerificationError",
    "__version__",
    "carry",
    "load",
    "passes",
    "register_rule",
    "save",
    "trace",
    "training",
    "unregister_rule",
    "verify",
]

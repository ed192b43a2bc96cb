"""Passes over a network, one file each, and pipelines of them."""

from fxsparse.passes.base import Context, Pass, PassResult
from fxsparse.passes.instrumentation import PrintBetween, Timing, VerifyEach
from fxsparse.passes.pipeline import Pipeline
from fxsparse.passes.registry import pass_class, pass_names

__all__ = ["Context", "Pass", "PassResult", "Pipeline", "PrintBetween", "Timing", "VerifyEach", "pass_class", "pass_names"]

"""Passes over a network, one file each, and pipelines of them."""

from fxsparse.passes.add_bias import AddBias
from fxsparse.passes.apply_masks import ApplyMasks
from fxsparse.passes.base import Context, Pass, PassResult
from fxsparse.passes.eliminate_dead_channels import EliminateDeadChannels
from fxsparse.passes.fold_batch_norm import FoldBatchNorm
from fxsparse.passes.insert_dyrelu import InsertDyrelu
from fxsparse.passes.instrumentation import PrintBetween, Timing, VerifyEach
from fxsparse.passes.lower_onnx import LowerOnnx
from fxsparse.passes.mask import Mask
from fxsparse.passes.phase_dyrelu import PhaseDyrelu
from fxsparse.passes.pipeline import Pipeline
from fxsparse.passes.prune import Prune
from fxsparse.passes.recalibrate_batch_norm import RecalibrateBatchNorm
from fxsparse.passes.registry import pass_class, pass_names
from fxsparse.passes.regrow import Regrow
from fxsparse.passes.remove_dyrelu import RemoveDyrelu
from fxsparse.passes.share_weights import ShareWeights
from fxsparse.passes.simplify import Simplify
from fxsparse.passes.unshare_weights import UnshareWeights

__all__ = [
    "AddBias",
    "ApplyMasks",
    "Context",
    "EliminateDeadChannels",
    "FoldBatchNorm",
    "InsertDyrelu",
    "LowerOnnx",
    "Mask",
    "Pass",
    "PassResult",
    "PhaseDyrelu",
    "Pipeline",
    "PrintBetween",
    "Prune",
    "RecalibrateBatchNorm",
    "Regrow",
    "RemoveDyrelu",
    "ShareWeights",
    "Simplify",
    "Timing",
    "UnshareWeights",
    "VerifyEach",
    "pass_class",
    "pass_names",
]

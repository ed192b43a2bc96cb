"""Weight-level sparsity: scores, patterns, allocations and schedules that combine freely, and what a sparse network costs."""

from fxsparse.sparsity.allocation import ERK, Allocation, Counts, Explicit, Global, Layer, Uniform, as_allocation, fill
from fxsparse.sparsity.masks import choose, exchange
from fxsparse.sparsity.patterns import NM, Block, Channel, Pattern, Unstructured, as_pattern, top
from fxsparse.sparsity.schedules import Constant, Cosine, Cubic, Cyclic, Linear, Schedule, as_schedule
from fxsparse.sparsity.scores import Mean, Score, Weight, as_score, gradient, magnitude, random, squared_taylor, taylor
from fxsparse.sparsity.targets import Target, find_targets

__all__ = [
    "ERK",
    "NM",
    "Allocation",
    "Block",
    "Channel",
    "Constant",
    "Cosine",
    "Counts",
    "Cubic",
    "Cyclic",
    "Explicit",
    "Global",
    "Layer",
    "Linear",
    "Mean",
    "Pattern",
    "Schedule",
    "Score",
    "Target",
    "Uniform",
    "Unstructured",
    "Weight",
    "as_allocation",
    "as_pattern",
    "as_schedule",
    "as_score",
    "choose",
    "exchange",
    "fill",
    "find_targets",
    "gradient",
    "magnitude",
    "random",
    "squared_taylor",
    "taylor",
    "top",
]

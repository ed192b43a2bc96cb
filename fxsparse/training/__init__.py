"""Training sparse networks: methods that stand in place of `optimizer.step()`, and a trainer."""

from fxsparse.training.frozen import Frozen
from fxsparse.training.masked import MaskedOptimizer
from fxsparse.training.methods import SET, Gradual, OneShot, RigL, Static
from fxsparse.training.sparsifier import Options, Sparsifier
from fxsparse.training.straight_through import SRSTE, StraightThrough

__all__ = [
    "SET",
    "SRSTE",
    "Frozen",
    "Gradual",
    "MaskedOptimizer",
    "OneShot",
    "Options",
    "RigL",
    "Sparsifier",
    "Static",
    "StraightThrough",
]

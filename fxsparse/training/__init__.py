"""Training sparse networks: methods that stand in place of `optimizer.step()`, and a trainer."""

from fxsparse.training.calibration import Calibrated, Distribution, calibrate
from fxsparse.training.callbacks import Callback
from fxsparse.training.east import Extreme
from fxsparse.training.frozen import Frozen
from fxsparse.training.iee import ExploitExplore, ExploitExploreChannels
from fxsparse.training.masked import MaskedOptimizer
from fxsparse.training.methods import SET, Gradual, OneShot, RigL, Static
from fxsparse.training.recipe import Recipe
from fxsparse.training.results import Result
from fxsparse.training.sparsifier import Options, Sparsifier
from fxsparse.training.straight_through import SRSTE, StraightThrough
from fxsparse.training.trainer import Trainer

__all__ = [
    "SET",
    "SRSTE",
    "Calibrated",
    "Callback",
    "Distribution",
    "ExploitExplore",
    "ExploitExploreChannels",
    "Extreme",
    "Frozen",
    "Gradual",
    "MaskedOptimizer",
    "OneShot",
    "Options",
    "Recipe",
    "Result",
    "RigL",
    "Sparsifier",
    "Static",
    "StraightThrough",
    "Trainer",
    "calibrate",
]

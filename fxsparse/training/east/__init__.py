"""EAST: training at 99 % to 99.99 % sparsity without collapse."""

from fxsparse.training.east.collapse import Connections, Health
from fxsparse.training.east.extreme import Extreme
from fxsparse.training.east.parts import Parts, adjusted_density, finished, parts_of, prepared

__all__ = ["Connections", "Extreme", "Health", "Parts", "adjusted_density", "finished", "parts_of", "prepared"]

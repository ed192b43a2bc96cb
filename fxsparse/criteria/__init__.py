"""What is worth keeping: a score for each living unit of each group."""

from fxsparse.criteria.base import Criterion, Data, as_criterion, criterion_names
from fxsparse.criteria.distance import FPGM
from fxsparse.criteria.gradients import BatchNormTaylor, Taylor
from fxsparse.criteria.simple import LAMP, BatchNormScale, Given, Magnitude, Random

__all__ = [
    "FPGM",
    "LAMP",
    "BatchNormScale",
    "BatchNormTaylor",
    "Criterion",
    "Data",
    "Given",
    "Magnitude",
    "Random",
    "Taylor",
    "as_criterion",
    "criterion_names",
]

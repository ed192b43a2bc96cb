"""Sparsity after training, from a small calibration set: UniPTS, its parts, and what it is measured against."""

from fxsparse.training.calibration.calibrate import Calibrated, calibrate
from fxsparse.training.calibration.distribution import Distribution
from fxsparse.training.calibration.settings import METHODS, Settings

__all__ = ["METHODS", "Calibrated", "Distribution", "Settings", "calibrate"]

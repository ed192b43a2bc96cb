"""IEE: exploitation and exploration, one criterion (Sun et al., WACV 2025)."""

from fxsparse.training.iee.calendar import Calendar
from fxsparse.training.iee.channels import ExploitExploreChannels
from fxsparse.training.iee.latency import Latency
from fxsparse.training.iee.plot import plot
from fxsparse.training.iee.settings import PRESETS, Settings
from fxsparse.training.iee.timeline import Change, Event, Timeline
from fxsparse.training.iee.units import UnitCriterion
from fxsparse.training.iee.weights import ExploitExplore

__all__ = [
    "PRESETS",
    "Calendar",
    "Change",
    "Event",
    "ExploitExplore",
    "ExploitExploreChannels",
    "Latency",
    "Settings",
    "Timeline",
    "UnitCriterion",
    "plot",
]

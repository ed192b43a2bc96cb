"""The table of all rules, and the public way to add to it."""

from __future__ import annotations

from fxsparse.axes.rules.contractions import contractions
from fxsparse.axes.rules.creation import creation
from fxsparse.axes.rules.indexing import indexing
from fxsparse.axes.rules.movement import movement
from fxsparse.axes.rules.normalisation import normalisation
from fxsparse.axes.rules.pointwise import pointwise
from fxsparse.axes.rules.reductions import reductions
from fxsparse.axes.rules.slicing import slicing
from fxsparse.axes.rules.windows import windows
from fxsparse.axes.table import Rules

RULES = Rules(pointwise, movement, slicing, creation, contractions, normalisation, reductions, windows, indexing)
register_rule = RULES.register
unregister_rule = RULES.unregister

"""What may be spent: parameters, MACs, memory, units. How wide each group may be for it."""

from fxsparse.budgets.amounts import Amount
from fxsparse.budgets.meter import MEASURES, Meter
from fxsparse.budgets.search import Limits, Search, widths_for

__all__ = ["MEASURES", "Amount", "Limits", "Meter", "Search", "widths_for"]

"""What cannot go together, said before a run begins."""

from __future__ import annotations

from fxsparse.errors import BudgetError, Error
from fxsparse.sparsity.scores import Mean
from fxsparse.training.budget import Budget
from fxsparse.training.iee.calendar import Calendar
from fxsparse.training.iee.criterion import by_value
from fxsparse.training.iee.settings import Settings


def require_possible(settings: Settings, calendar: Calendar, budget: Budget, growth: Mean) -> None:
    """An error when nothing could grow, when resting weights cannot be told apart, or when the budget does not come down in time."""
    if budget.pattern.density is not None and settings.growth:
        raise BudgetError(f"the pattern {budget.pattern} fixes the density, so that nothing can grow; give growth=0, ranking='joint'")
    if settings.growth and not calendar.explore and settings.value == "zero" and by_value(growth):
        raise Error("resting weights that are zero and do not explore are all alike; give grow='gradient', or explore > 0")
    prunes = [cycle * calendar.length + calendar.estimate for cycle in range(calendar.cycles + 1)]
    totals = [budget.total(step) for step in prunes]
    if sorted(totals, reverse=True) != totals or budget.schedule.end > prunes[-1]:
        raise BudgetError(
            f"the budget must fall, or stay, from prune to prune, and be final at the last one (after step {prunes[-1]}); "
            f"it is {totals}; give another schedule of density"
        )

"""What a run of the channel form is asked for: by what it ranks, and what it may spend."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch.optim import Optimizer

from fxsparse.errors import BudgetError, Error
from fxsparse.network import Network
from fxsparse.surgery.silence import may_be_silent
from fxsparse.training.iee.latency import Latency
from fxsparse.training.iee.settings import Settings
from fxsparse.training.iee.spending import Counted, Living, Spending
from fxsparse.training.iee.units import UnitCriterion


def require_reachable(part: float, least: float) -> None:
    """An error where the narrowest network costs more than is asked for; both are parts of the whole's cost."""
    if least > part:
        raise BudgetError(
            f"the budget of {part:g} cannot be reached: at its narrowest the network still costs {least:.3g} of the whole; "
            "give a larger one, or exclude fewer groups"
        )


def require_owned(network: Network, optimizer: Optimizer) -> None:
    own = {id(parameter) for parameter in network.module.parameters()}
    if not any(id(parameter) in own for group in optimizer.param_groups for parameter in group["params"]):
        raise Error(f"the {type(optimizer).__name__} holds no parameter of the network; make it over network.module.parameters()")


def require_silent(network: Network, groups: Iterable[str]) -> None:
    """An error where units cannot wake without a change of what the network computes."""
    for name in groups:
        if not may_be_silent(network, name):
            why = network.origin.silences.choices[name]
            raise Error(f"group {name!r} {why}, so that its units cannot wake with value='zero'; give value='last', or exclude=[{name!r}]")


def require_askable(network: Network, settings: Settings, growth: UnitCriterion, exclude: Sequence[str], least: Any) -> None:
    """An error for options that the channel form has not, or that cannot go together."""
    if settings.scale != 1.0 or settings.ranking != "inside":
        raise Error("units wake with their values as they are, and grow beside what lives; leave scale and ranking alone")
    if not settings.explore and settings.growth and growth.reads_gradient:
        raise Error("what rests has no gradients unless it explores; give explore > 0, growth=0, or criterion='magnitude'")
    if not isinstance(least, int) or least < 1:
        raise Error(f"every group keeps at least one unit, not least={least!r}")
    missing = [name for name in exclude if name not in network.origin.structure.groups]
    if missing:
        raise Error(f"exclude: there is no group {missing[0]!r}; `fxsparse inspect` lists them")


def cost_of(spending: Spending) -> str:
    """What is spent, in a word."""
    return spending.what if isinstance(spending, Counted) else type(spending).__name__


def criterion_of(given: Any) -> UnitCriterion:
    return given if isinstance(given, UnitCriterion) else UnitCriterion(given)


def everything(network: Network) -> Living:
    return {name: tuple(range(len(classes))) for name, classes in network.origin.structure.classes.items()}


def spending_of(
    counted: Mapping[str, float | None], spending: Spending | None, part: float | None, latency: Callable[[], Latency]
) -> tuple[Spending, float]:
    """The one cost that is asked for, and the part of it that is to be left."""
    asked: list[tuple[Any, float]] = [(what, value) for what, value in counted.items() if value is not None]
    if spending is not None and part is not None:
        asked.append((spending, part))
    if len(asked) != 1 or (spending is None) != (part is None):
        raise Error("give one budget: units, macs, parameters or latency, as a part of the whole network's; or spending together with part")
    what, value = asked[0]
    if not isinstance(value, int | float) or not 0 < value <= 1:
        raise Error(f"a budget is a part of the whole network's cost, above 0 and at most 1, not {value!r}")
    if what == "latency":
        return latency(), value
    return (Counted(what) if isinstance(what, str) else what), value  # type: ignore[arg-type]

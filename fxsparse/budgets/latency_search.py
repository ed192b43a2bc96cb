"""Widths for a latency: the knapsack along an exponential schedule of targets, its costs being looked at again at each; then exchanges."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from fxsparse.budgets.knapsack import choose_levels
from fxsparse.budgets.meter import Widths
from fxsparse.budgets.search import Limits, Search, Walk, widths_for
from fxsparse.errors import BudgetError

STAGES = 10
EXTRA = 10  # when the target is missed, because savings in one layer were counted for both of its sides
BINS = 2000
LEVELS = 16  # of each group at each stage
PRICES = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0)  # of all MACs, in all importance
EXCHANGES = 200


def widths_for_latency(search: Search, macs: Callable[[Widths], float] | None = None, whole: Limits | None = None) -> Widths:
    """Widths whose predicted time is at most the target, with the most importance that the search finds.

    With `macs`, of those that keep at least the MACs that uniform pruning keeps in this time: where an engine is as fast in all layers,
    importance alone would pick layers that are a little slower than others. `whole` are limits in whole steps of the engine, where those of
    the search are finer for narrow groups: two widths of one layer may have to meet on a step before it becomes faster.
    """
    walk = Walk(search)
    now, least = search.measure(search.start), search.measure(walk.floor())
    if search.target >= now:
        return search.start
    if least > search.target:
        raise BudgetError(f"at its narrowest the network still takes {least:.3g} ms, and {search.target:.3g} ms is asked for")
    for stage in range(1, STAGES + EXTRA + 1):
        target = now * (search.target / now) ** min(1.0, stage / STAGES)
        if search.measure(walk.widths) > target:
            walk.widths = _stage(walk, target)
        if stage >= STAGES and search.measure(walk.widths) <= search.target:
            break
    walk.trim()
    return walk.widths if macs is None else _with_macs(walk, macs, [search.limits] if whole is None else [search.limits, whole])


def _stage(walk: Walk, target: float) -> Widths:
    """One knapsack at the present widths: for each group, what each narrower level would save, next layers included, all else as it is."""
    measure, widths = walk.search.measure, walk.widths
    now = measure(widths)
    levels: list[npt.NDArray[np.int64]] = []
    savings, values = [], []
    for p in walk.positions:
        allowed = walk.levels[p][walk.levels[p] <= widths[p]]
        chosen = allowed[np.unique(np.linspace(len(allowed) - 1, 0, min(LEVELS, len(allowed))).round().astype(int))]
        saved = []
        for level in chosen.tolist():
            fewer = widths.copy()
            fewer[p] = level
            saved.append(max(0.0, now - measure(fewer)))
        levels.append(chosen)
        savings.append(np.array(saved))
        worth = np.concatenate([[0.0], np.cumsum(walk.ranked[p])])
        values.append(worth[chosen])
    spare = sum(float(each.max()) for each in savings) - (now - target)
    if spare <= 0:
        return walk.floor()
    bin_size = spare / BINS
    costs = [np.ceil((each.max() - each) / bin_size - 1e-9).astype(np.int64) for each in savings]
    picked = choose_levels(values, costs, BINS)
    found = widths.copy()
    for p, line, level in zip(walk.positions, levels, picked, strict=True):
        found[p] = line[level]
    return found


# ---- MACs beside importance -------------------------------------------------------------------------------------------------------


class _Worth:
    """Importance kept, and MACs kept at a price, each as a share."""

    def __init__(self, walk: Walk, macs: Callable[[Widths], float], price: float) -> None:
        self.sums = {p: np.concatenate([[0.0], np.cumsum(walk.ranked[p])]) for p in walk.positions}
        self.whole = max(sum(float(each[-1]) for each in self.sums.values()), 1e-300)
        self.macs, self.price = macs, price / macs(walk.search.start)

    def __call__(self, widths: Widths) -> float:
        kept = sum(float(each[int(widths[p])]) for p, each in self.sums.items()) / self.whole
        return kept + self.price * self.macs(widths) if self.price else kept


def _with_macs(walk: Walk, macs: Callable[[Widths], float], limits: Sequence[Limits]) -> Widths:
    """The lowest price of MACs at which exchanges, from these widths, from uniform ones or from those of a budget of MACs,
    lead to as many as uniform pruning keeps."""
    uniform = max((_uniform(walk.search, each) for each in limits), key=macs)
    importance = _Worth(walk, macs, 0.0)
    starts = [walk.widths, uniform, _by_macs(walk.search, macs)]
    for price in PRICES:
        worth = _Worth(walk, macs, price)
        starts = [_exchanged(walk, worth, widths) for widths in starts]
        better = [widths for widths in starts if macs(widths) >= macs(uniform) and importance(widths) >= importance(uniform)]
        if better:
            return max(better, key=importance)
    return uniform


def _uniform(search: Search, limits: Limits) -> Widths:
    """All groups at the same share, or at their narrowest where that is not fast enough in these limits."""
    alike = replace(search, scope="local", limits=limits)
    try:
        return widths_for(alike)
    except BudgetError:
        return Walk(search).floor()


def _by_macs(search: Search, macs: Callable[[Widths], float]) -> Widths:
    """The largest budget of MACs that is fast enough, nearly."""
    found, low, high = Walk(search).floor(), 0.0, 1.0
    for _ in range(6):
        share = (low + high) / 2
        try:
            tried = widths_for(replace(search, measure=macs, target=share * macs(search.start)))
        except BudgetError:
            low = share
            continue
        if search.measure(tried) <= search.target:
            found, low = tried, share
        else:
            high = share
    return found


def _exchanged(walk: Walk, worth: _Worth, widths: Widths) -> Widths:
    """One group a step or two narrower and another wider, as long as that is worth more and fast enough."""
    measure, target = walk.search.measure, walk.search.target
    best = worth(widths)
    for _ in range(EXCHANGES):
        time = measure(widths)
        moves = [(p, level) for p in walk.positions for level in _near(walk, p, widths[p])]
        effects = []
        for p, level in moves:
            tried = widths.copy()
            tried[p] = level
            effects.append((measure(tried) - time, worth(tried) - best))
        pair = _best_pair(moves, np.array(effects), widths, target - time)
        if pair is None:
            break
        tried = widths.copy()
        for p, level in pair:
            tried[p] = level
        if measure(tried) > target or worth(tried) <= best:
            break  # the two touch the same layer, and are not what they are one by one
        widths, best = tried, worth(tried)
    return widths


def _near(walk: Walk, p: int, width: float) -> list[float]:
    narrower, wider = walk.levels[p][walk.levels[p] < width], walk.levels[p][walk.levels[p] > width]
    return [*narrower[-2:].tolist(), *wider[:2].tolist()]


def _best_pair(
    moves: list[tuple[int, float]], effects: npt.NDArray[np.float64], widths: Widths, room: float
) -> list[tuple[int, float]] | None:
    """The one move or two that are worth most and fit into the time."""
    if not moves:
        return None
    groups = np.array([p for p, _ in moves])
    wider = np.array([level > widths[p] for p, level in moves])
    times, gains = effects[:, 0], effects[:, 1]
    alone = np.where(times <= room, gains, -np.inf)
    sums = gains[:, None] + gains[None, :]
    allowed = (times[:, None] + times[None, :] <= room) & (groups[:, None] != groups[None, :]) & (wider[:, None] != wider[None, :])
    both = np.where(allowed, sums, -np.inf)
    if max(alone.max(), both.max()) <= 1e-9:
        return None
    if alone.max() >= both.max():
        return [moves[int(alone.argmax())]]
    first, second = np.unravel_index(int(both.argmax()), both.shape)
    return [moves[int(first)], moves[int(second)]]

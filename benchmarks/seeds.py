"""What several seeds say together: shared by the benchmarks of training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from scipy.stats import t as student

NOTE = "Differences in points over common seeds, with the 95 % interval of a paired t-test:"


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """The deviation of a single value is nan."""
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else math.nan


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± deviation, the latter where there is one."""
    mean, deviation = mean_and_deviation(values)
    return f"{mean:.{digits}f}" + ("" if math.isnan(deviation) else f" ± {deviation:.{digits}f}")


def difference(ours: Mapping[int, float], theirs: Mapping[int, float], unit: str = "") -> str:
    """The mean difference over the seeds that both have, and whether it is told apart from chance (paired t-test at 5 %)."""
    seeds = sorted(set(ours) & set(theirs))
    differences = [ours[seed] - theirs[seed] for seed in seeds]
    if not differences:
        return "no common seed"
    if len(seeds) == 1:
        return f"{differences[0]:+.2f}{unit} (one seed: no statement)"
    mean, deviation = mean_and_deviation(differences)
    half = float(student.ppf(0.975, len(seeds) - 1)) * deviation / math.sqrt(len(seeds))
    verdict = "inside the noise" if abs(mean) <= half else "outside the noise"
    return f"{mean:+.2f}{unit} ± {half:.2f} ({verdict}, {len(seeds)} seeds)"


def compared(name: str, ours: Mapping[int, float], other: str, theirs: Mapping[int, float]) -> str:
    """`difference`, with names."""
    return f"{name} - {other}: {difference(ours, theirs)}"

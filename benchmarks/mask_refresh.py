"""What a renewal of a mask takes, by the kth value as in fxsparse and by a sort: `python benchmarks/mask_refresh.py` on one quiet core.

Writes benchmarks/results/mask-refresh.json; `python benchmarks/unipts.py --table` puts it into docs/unipts.md.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from fxsparse.sparsity.patterns import top
from fxsparse.training.results import write_json

RESULT = Path(__file__).resolve().parent / "results" / "mask-refresh.json"
SIZES, DENSITY, SECONDS = (2_304, 36_864, 268_336, 2_359_296), 0.1, 1.5


def by_sort(scores: Tensor, count: int) -> Tensor:
    order = scores.reshape(-1).argsort(descending=True, stable=True)
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[order[:count]] = True
    return mask.view(scores.shape)


def by_topk(scores: Tensor, count: int) -> Tensor:
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[scores.reshape(-1).topk(count, sorted=False).indices] = True
    return mask.view(scores.shape)


def milliseconds(work: Callable[[], Tensor]) -> float:
    """The median of as many as fit into a second or so."""
    work()
    taken: list[float] = []
    while (sum(taken) < SECONDS and len(taken) < 2000) or len(taken) < 5:
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return 1000 * statistics.median(taken)


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for size in SIZES:
        scores = torch.randn(size, generator=torch.Generator().manual_seed(0)).abs()
        count = round(DENSITY * size)
        assert torch.equal(top(scores, count), by_sort(scores, count))
        row = {"weights": size}
        for name, way in (("kth value", top), ("topk", by_topk), ("sort", by_sort)):
            row[name] = round(milliseconds(lambda way=way, scores=scores, count=count: way(scores, count)), 4)  # type: ignore[misc]
        rows.append(row)
        print(row, flush=True)
    write_json(RESULT, {"density": DENSITY, "unit": "ms", "torch": torch.__version__, "rows": rows})


if __name__ == "__main__":
    main()

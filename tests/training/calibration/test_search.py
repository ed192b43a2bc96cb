"""The search: exact counts, the same answer everywhere, and going on where it stopped."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fxsparse.errors import BudgetError, CheckpointError, Error
from fxsparse.training.calibration import calibrate
from fxsparse.training.calibration.distribution import Distribution, express
from fxsparse.training.calibration.search import Search
from fxsparse.training.calibration.settings import Settings
from tests.training.calibration.trained import calibration, trained

NAMES, SIZES, TOTAL = ("a", "b", "c"), (400, 1000, 60), 146
SMALL = Settings(population=6, generations=4, parents=3)


def fitness(counts: Sequence[int], seed: int) -> float:
    """Best where the second layer keeps 60 weights."""
    return -abs(counts[1] - 60) / 1000


def make(settings: Settings = SMALL, **options: object) -> Search:
    return Search(fitness, NAMES, SIZES, TOTAL, settings, **options)  # type: ignore[arg-type]


@given(
    st.lists(st.tuples(st.integers(1, 5000), st.floats(-30, 30)), min_size=1, max_size=12),
    st.floats(0.001, 1),
    st.sampled_from([0.0, 0.05, 0.5]),
)
def test_every_genome_gives_the_asked_count_to_the_weight(layers: list[tuple[int, float]], density: float, regrow: float) -> None:
    sizes = [size for size, _ in layers]
    total = max(len(sizes), round(density * sum(sizes)))
    counts = express(np.array([gene for _, gene in layers]), sizes, total, regrow)
    assert sum(counts) == total
    assert all(1 <= count <= size for count, size in zip(counts, sizes, strict=True))


def test_units_of_a_pattern_are_never_cut() -> None:
    counts = express(np.array([0.3, -1.0, 2.0]), [400, 1000, 64], 146, 0.05, [4, 4, 4])
    assert all(count % 4 == 0 and count > 0 for count in counts)
    assert 0 <= 146 - sum(counts) < 4


def test_the_even_genome_gives_back_evenly() -> None:
    sizes = [1000, 3000]
    assert express(np.log(np.array(sizes, dtype=np.float64)), sizes, 400, 0.05) == [100, 300]


def test_fewer_weights_than_layers_is_refused() -> None:
    with pytest.raises(BudgetError, match="fewer than the 3 layers"):
        express(np.zeros(3), SIZES, 2, 0.05)


def test_the_best_ever_seen_is_the_answer() -> None:
    search = make()
    found = search.run()
    assert len(search.history) == 6 * 5
    assert found.fitness == max(value for _, value in search.history)
    assert found.fitness == fitness([found.counts[name] for name in NAMES], 0)
    assert sum(found.counts.values()) == TOTAL


@pytest.mark.parametrize("workers", [1, 4])
def test_workers_do_not_change_the_answer(workers: int) -> None:
    alone = make()
    alone.run()
    with ThreadPoolExecutor(workers) as pool:
        together = make(executor=pool)
        together.run()
    assert together.history == alone.history


class Backwards(Executor):
    """Does nothing until the first result is asked for; then everything, from the last task to the first: only submit() and result() are
    there, as in the executors of Dask and mpi4py."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Future[Any], Any]] = []

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
        executor = self

        class Lazy(Future[Any]):
            def result(self, timeout: float | None = None) -> Any:
                executor.work()
                return super().result(timeout)

        future = Lazy()
        self.waiting.append((future, functools.partial(fn, *args, **kwargs)))
        return future

    def work(self) -> None:
        while self.waiting:
            future, task = self.waiting.pop()
            future.set_result(task())


def test_any_executor_will_do() -> None:
    alone = make()
    alone.run()
    together = make(executor=Backwards())
    together.run()
    assert together.history == alone.history


def test_the_real_search_is_the_same_here_in_threads_and_in_processes(tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 1, "population": 3, "generations": 2, "parents": 2}
    threads = torch.get_num_threads()
    found = []
    with ThreadPoolExecutor(3) as pool:
        executors: list[Any] = [None, 2, pool, Backwards()]
        for number, executor in enumerate(executors):
            where = {"executor": executor, "search_file": tmp_path / f"{number}.json"}
            found.append(calibrate(trained("plain"), calibration(), 0.8, **where, **options))
    assert all(each.searched == found[0].searched for each in found)
    assert all(each.distribution == found[0].distribution for each in found)
    state = [each.model.state_dict() for each in found]
    assert all(torch.equal(value, each[name]) for each in state for name, value in state[0].items())
    assert torch.get_num_threads() == threads
    files = [json.loads((tmp_path / f"{number}.json").read_text()) for number in range(4)]
    assert all(each == files[0] for each in files)


def test_a_search_of_other_weights_images_or_sparsity_is_not_gone_on_with(tmp_path: Path) -> None:
    path, options = tmp_path / "search.json", {"epochs": 1, "population": 2, "generations": 1, "parents": 2}
    calibrate(trained("plain"), calibration(), 0.8, search_file=path, **options)  # type: ignore[arg-type]
    told: list[tuple[str, int, int]] = []
    calibrate(trained("plain"), calibration(), 0.8, search_file=path, progress=lambda *said: told.append(said), **options)  # type: ignore[arg-type]
    assert not [what for what, _, _ in told if what.startswith("search")]  # nothing was left to do
    x, y = calibration()[0]
    for model, data, sparsity, said in (
        (trained("tied"), [(x, y)], 0.8, "another network"),
        (trained("plain"), [(x + 0.5, y)], 0.8, "other weights or images"),
        (trained("plain"), [(x, y)], 0.7, "another sparsity"),
    ):
        with pytest.raises(CheckpointError, match=f"belongs to another search .{said}.; delete it"):
            calibrate(model, data, sparsity, search_file=path, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("executor", "said"), [(0, "in 0 processes"), ("four", "on what has submit")])
def test_what_is_no_executor(executor: Any, said: str) -> None:
    with pytest.raises(Error, match=said):
        calibrate(trained("plain"), calibration(), 0.8, executor=executor, epochs=1)


def test_a_search_goes_on_where_it_stopped(tmp_path: Path) -> None:
    whole = make()
    whole.run()
    path = tmp_path / "search.json"
    make(replace(SMALL, generations=2), path=path).run()
    assert len(json.loads(path.read_text())["history"]) == 6 * 3
    resumed = make(path=path)
    resumed.run()
    assert resumed.history == whole.history


def test_another_searchs_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    make(path=path).run()
    with pytest.raises(CheckpointError, match="another search"):
        make(replace(SMALL, seed=1), path=path).run()


def test_a_distribution_comes_back_from_its_file(tmp_path: Path) -> None:
    made = Distribution({"a": 3, "b": 4}, 0.5)
    made.save(tmp_path / "plan.json")
    assert Distribution.load(tmp_path / "plan.json") == made
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be used"):
        Distribution.load(tmp_path / "plan.json")

"""What every test starts from: one thread, known seeds, a hypothesis profile, and the default dtype and mode of torch."""

from __future__ import annotations

import importlib.util
import os
import random

# Before torch reads it: workers that each use all cores slow one another down more than tenfold.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import numpy
import pytest
import torch

torch.set_num_threads(1)

_SLOW_MACHINE = [hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.data_too_large]
hypothesis.settings.register_profile(
    "ci", max_examples=200, derandomize=True, database=None, deadline=None, print_blob=True, suppress_health_check=_SLOW_MACHINE
)
hypothesis.settings.register_profile("nightly", max_examples=10_000, deadline=None, print_blob=True, suppress_health_check=_SLOW_MACHINE)
# --hypothesis-profile, read by hypothesis' own plugin after this file, has the last word.
hypothesis.settings.load_profile(os.environ.get("FXSPARSE_HYPOTHESIS", "ci"))


@pytest.fixture(autouse=True)
def _known_state() -> None:
    """The same random numbers in every test, whatever ran before it."""
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)


def _tensorrt_can_run() -> bool:
    return importlib.util.find_spec("tensorrt") is not None and torch.cuda.is_available()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    needs = {
        "peers": (importlib.util.find_spec("torch_pruning") is not None, "Torch-Pruning is not installed: pip install 'fxsparse[peers]'"),
        "tensorrt": (_tensorrt_can_run(), "TensorRT or a GPU is missing: pip install 'fxsparse[tensorrt]'"),
    }
    for marker, (met, reason) in needs.items():
        for item in items:
            if not met and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))

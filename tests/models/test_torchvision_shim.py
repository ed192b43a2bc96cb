from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from fxsparse.errors import Error
from fxsparse.models import build, small_options, torchvision_shim
from fxsparse.models.torchvision_shim import TorchvisionState, import_timm, import_torchvision, torchvision_state
from fxsparse.tracing.recording import record
from fxsparse.tracing.tape import Mode

needs_torchvision = pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")


@pytest.fixture
def fresh_state() -> Iterator[None]:
    torchvision_state.cache_clear()
    yield
    torchvision_state.cache_clear()


def test_the_zoo_imports_neither_torchvision_nor_timm() -> None:
    code = "import sys, fxsparse.models; assert not {'torchvision', 'timm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_torchvision
def test_a_library_that_does_not_open_is_the_problem(monkeypatch: pytest.MonkeyPatch, fresh_state: None) -> None:
    def fail(path: str) -> None:
        raise OSError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(torch.ops, "load_library", fail)
    state = torchvision_state()
    assert state.shimmed
    fact = f"torchvision {state.version} does not fit torch {torch.__version__}"
    assert state.problem == f"{fact}: libcudart.so.13: cannot open shared object file"


@needs_torchvision
def test_where_the_operators_load_nothing_is_declared(monkeypatch: pytest.MonkeyPatch, fresh_state: None) -> None:
    def never() -> None:
        raise AssertionError("the shim came in")

    import_torchvision()
    torchvision_state.cache_clear()
    monkeypatch.setattr(torch.ops, "load_library", lambda path: None)
    monkeypatch.setattr(torchvision_shim, "_probe", lambda: None)
    monkeypatch.setattr(torchvision_shim, "_declare", never)
    monkeypatch.setattr(torchvision_shim, "_let_through", never)
    assert torchvision_state() == TorchvisionState(torchvision_state().version, None)
    assert import_torchvision().__name__ == "torchvision"


def test_without_torchvision_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, fresh_state: None) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not torchvision_state().installed
    with pytest.raises(Error, match=r"torchvision is not installed; run: pip install 'fxsparse\[zoo\]'"):
        import_torchvision()
    with pytest.raises(Error, match=r"timm is not installed; run: pip install 'fxsparse\[zoo\]'"):
        import_timm()


@needs_torchvision
def test_a_detection_model_runs_and_learns() -> None:
    spec = "torchvision:fasterrcnn_mobilenet_v3_large_fpn"
    loaded = build(spec, targets=True, box_score_thresh=0.0, **small_options(spec))
    with torch.no_grad():
        found = loaded.model(*loaded.inputs)
    assert len(found) == 2
    assert found[0]["boxes"].shape[0] == found[0]["scores"].shape[0] > 0
    losses = loaded.model.train()(*loaded.inputs)
    sum(losses.values()).backward()
    gradient = loaded.model.get_parameter("roi_heads.box_head.fc6.weight").grad
    assert gradient is not None
    assert gradient.isfinite().all() and gradient.any()


@needs_torchvision
@pytest.mark.parametrize(("name", "mode"), [("maskrcnn_resnet50_fpn", "eval"), ("fasterrcnn_mobilenet_v3_large_fpn", "train")])
def test_a_detection_model_is_recorded_on_meta_tensors(name: str, mode: Mode) -> None:
    """Where nothing has values, `nms` keeps a few boxes, and what stands behind it is on the tape as well."""
    spec = f"torchvision:{name}"
    with torch.device("meta"):
        loaded = build(spec, targets=True, **small_options(spec))
    operators = [call.name for call in record(loaded.model, loaded.inputs, mode=mode).calls]
    assert operators.index("torchvision.nms") < operators.index("torchvision.roi_align")
    assert "aten.addmm" in operators[operators.index("torchvision.roi_align") :]

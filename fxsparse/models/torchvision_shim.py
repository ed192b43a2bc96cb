"""One place that imports torchvision, also where its compiled operators do not load.

torchvision's wheel is built against one particular build of torch. Next to another one (typically: a CPU torch, and the torchvision
of the package index, which is built against CUDA) its library cannot be opened, no operator is declared, and `import torchvision` dies
with "operator torchvision::nms does not exist": it describes the shapes of `nms` and `qnms` without asking whether they exist. No
model but the detection ones needs these operators.

`import_torchvision` therefore opens the library first. Where that works, it does nothing else. Where it does not, it declares the
operators that the import and the models need, gives `nms` and `roi_align` kernels in plain torch (`fxsparse.models.box_kernels`), and tells
torchvision's two functions that they may call them. The other compiled operators (deform_conv2d, ps_roi_pool ...) keep torchvision's own
error message: no model of torchvision uses them.
"""

from __future__ import annotations

import functools
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fxsparse.errors import Error
from fxsparse.models import box_kernels

_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align": "(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
}


@dataclass(frozen=True)
class TorchvisionState:
    """What `fxsparse doctor` says of torchvision. `problem` is why its compiled operators do not load; None: they do, or it is absent."""

    version: str | None
    problem: str | None

    @property
    def installed(self) -> bool:
        return self.version is not None

    @property
    def shimmed(self) -> bool:
        """Plain-torch operators stand in for the compiled ones."""
        return self.problem is not None


@functools.cache
def torchvision_state() -> TorchvisionState:
    """Whether torchvision is installed and its operators load. Opens its library; does not import it."""
    if importlib.util.find_spec("torchvision") is None:
        return TorchvisionState(None, None)
    version = importlib.metadata.version("torchvision")
    try:
        torch.ops.load_library(_library())
        _probe()
    except (ImportError, OSError, AttributeError, NotImplementedError, RuntimeError) as error:
        return TorchvisionState(version, f"torchvision {version} does not fit torch {torch.__version__}: {error.__cause__ or error}")
    return TorchvisionState(version, None)


def import_torchvision() -> ModuleType:
    """`import torchvision`, with operators in plain torch where its own do not load."""
    state = torchvision_state()
    if not state.installed:
        raise Error("torchvision is not installed; run: pip install 'fxsparse[zoo]'")
    if not state.shimmed:
        return importlib.import_module("torchvision")
    _declare()
    torchvision = importlib.import_module("torchvision")
    _let_through()
    return torchvision


def import_timm() -> ModuleType:
    """`import timm`, which imports torchvision."""
    if importlib.util.find_spec("timm") is None:
        raise Error("timm is not installed; run: pip install 'fxsparse[zoo]'")
    import_torchvision()
    return importlib.import_module("timm")


def _library() -> str:
    """The file of torchvision's compiled operators, found as torchvision finds it."""
    package = importlib.util.find_spec("torchvision")
    if package is None or not package.submodule_search_locations:
        raise ImportError("torchvision has no folder")
    loader = (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES)
    found = importlib.machinery.FileFinder(package.submodule_search_locations[0], loader).find_spec("_C")
    if found is None or found.origin is None:
        raise ImportError("it has no compiled operators")
    return found.origin


def _probe() -> None:
    """Raises where `nms` is missing or has no kernel: the only proof that an operator loads is to call it."""
    torch.ops.torchvision.nms(torch.zeros(0, 4), torch.zeros(0), 0.5)


@functools.cache
def _declare() -> torch.library.Library:
    """Declares what is missing. The result must stay alive: its registrations end with it."""
    # A fragment, since somebody else may have declared a part of the namespace.
    library = torch.library.Library("torchvision", "FRAGMENT")  # lives as long as the process, by the cache
    absent = [name for name in _SCHEMAS if not hasattr(torch.ops.torchvision, name)]
    for name in absent:
        library.define(name + _SCHEMAS[name])
    if "nms" in absent or not _has_kernel():
        library.impl("nms", box_kernels.nms, "CompositeExplicitAutograd")
    if "roi_align" in absent:
        library.impl("roi_align", box_kernels.roi_align, "CompositeExplicitAutograd")
        torch.library.register_fake("torchvision::roi_align", _roi_align_shape, lib=library)
        torch.library.register_autograd("torchvision::roi_align", _roi_align_backward, setup_context=_save, lib=library)
    return library


def _has_kernel() -> bool:
    try:
        _probe()
    except (NotImplementedError, RuntimeError):
        return False
    return True


def _let_through() -> None:
    """torchvision asks whether its library was loaded before it calls an operator; for these two the answer is now yes."""
    boxes: Any = sys.modules["torchvision.ops.boxes"]
    align: Any = sys.modules["torchvision.ops.roi_align"]
    boxes._assert_has_ops = align._assert_has_ops = lambda: None
    align._has_ops = lambda: True


def _roi_align_shape(
    input: Tensor, rois: Tensor, spatial_scale: float, pooled_height: int, pooled_width: int, sampling_ratio: int, aligned: bool
) -> Tensor:
    return input.new_empty((rois.shape[0], input.shape[1], pooled_height, pooled_width))


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    input, rois, *ctx.options = inputs
    ctx.save_for_backward(rois, input)


def _roi_align_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Regions get no gradient, as in torchvision."""
    return box_kernels.roi_align_backward(grad, *ctx.saved_tensors, *ctx.options), *(None for _ in range(1 + len(ctx.options)))

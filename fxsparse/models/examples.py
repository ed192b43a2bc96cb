"""Example inputs for every model of the zoo, as small as the model allows, or of the size it was made for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fxsparse.errors import Error
from fxsparse.models.specs import Spec
from fxsparse.models.torchvision_shim import import_timm, import_torchvision

_SMALL = 64  # pixels: with a stride of 32, 2 x 2 remain, so that borders and means are not trivial
_SIZES = (_SMALL, 96, 128, 160, 192, 224, 256, 288, 320, 384, 448, 512)  # tried in turn, where nothing says what a model takes
_FRAMES = 8

# Where torchvision's own notes on the smallest image do not say it.
_TORCHVISION_SMALL = {
    "inception_v3": 299,  # its auxiliary head needs a 17 x 17 map in training
    "raft_large": 128,  # four levels of correlation pyramid over a map of 1/8
    "raft_small": 128,
}
_TORCHVISION_STANDARD = {"detection": (480, 640), "optical_flow": (520, 960)}

Size = int | tuple[int, int]


def example_inputs(
    spec: str | Spec,
    *,
    batch: int = 2,
    size: Size | None = None,
    standard: bool = False,
    targets: bool = False,
    options: Mapping[str, Any] | None = None,
) -> tuple[Any, ...]:
    """Positional arguments that a model of the zoo accepts, in evaluation and in training.

    `size` (pixels, one number or height and width) goes before `standard`, the size of the published weights; without either the
    inputs are small. `options` are those that the model is built with. Training a detection model needs annotated images:
    `targets=True` adds them; in evaluation they are ignored.

    >>> [tuple(tensor.shape) for tensor in example_inputs("fxsparse:resnet20")]
    [(2, 3, 32, 32)]
    """
    spec = spec if isinstance(spec, Spec) else Spec.parse(spec)
    options = options or {}
    if spec.source == "torchvision":
        return _torchvision(spec.name, batch, size, standard, targets, options)
    if spec.source == "timm":
        channels, smallest, usual = _timm_sizes(spec.name, options, search=size is None and not standard)
        return (_noise(batch, channels, *_pair(size or (usual if standard else smallest))),)
    if spec.source == "fxsparse":
        return (_noise(batch, 3, *_pair(size or 32)),)
    raise Error(
        f"nothing says what {spec} takes; return (model, inputs) from the factory, give the model an attribute example_inputs, "
        "or pass the shape of its input"
    )


def small_options(spec: str | Spec) -> dict[str, Any]:
    """Options that make a detection model quick: torchvision's scale every image to 800 pixels and look at 1,000 regions.

    They change no parameter and no name. Empty for all other models.
    """
    spec = spec if isinstance(spec, Spec) else Spec.parse(spec)
    if spec.source != "torchvision" or _kind(spec.name) != "detection" or spec.name.startswith("ssd"):  # ssd: a fixed size
        return {}
    small: dict[str, Any] = {"min_size": 128, "max_size": 160}
    if "rcnn" in spec.name:
        for when in ("train", "test"):
            small |= {f"rpn_pre_nms_top_n_{when}": 64, f"rpn_post_nms_top_n_{when}": 32}
    return small


def _torchvision(name: str, batch: int, size: Size | None, standard: bool, targets: bool, options: Mapping[str, Any]) -> tuple[Any, ...]:
    kind = _kind(name)
    height, width = _pair(size or _torchvision_size(name, kind, standard, options))
    if kind == "detection":
        images = [_noise(3, height, width, seed=number).sigmoid() for number in range(batch)]
        return (images, [_annotation(name, height, width) for _ in range(batch)]) if targets else (images,)
    if kind == "optical_flow":
        if height % 8 or width % 8 or min(height, width) < 128:
            raise Error(f"torchvision:{name} takes images of at least 128 pixels a side, in multiples of 8, not {height} x {width}")
        return _noise(batch, 3, height, width).tanh(), _noise(batch, 3, height, width, seed=1).tanh()
    if kind == "video":
        return (_noise(batch, 3, _frames(name, standard, options), height, width),)
    return (_noise(batch, 3, height, width),)


def _torchvision_size(name: str, kind: str, standard: bool, options: Mapping[str, Any]) -> Size:
    fixed = _fixed_size(name, options)
    if fixed is not None:
        return fixed
    if not standard:
        smallest = _notes(name).get("min_size", (1, 1))
        return _TORCHVISION_SMALL.get(name) or max(_SMALL, *smallest)
    if kind in _TORCHVISION_STANDARD:
        return _TORCHVISION_STANDARD[kind]
    transforms = import_torchvision().models.get_model_weights(name).DEFAULT.transforms()
    side: list[int] = getattr(transforms, "crop_size", None) or transforms.resize_size
    return side[0], side[-1]


def _fixed_size(name: str, options: Mapping[str, Any]) -> Size | None:
    """Networks with a table of positions take one size, an option of theirs: 224 unless it is given."""
    fixed: Size
    if name.startswith("vit_"):
        fixed = options.get("image_size", 224)
    elif name.startswith("maxvit_"):
        fixed = options.get("input_size", (224, 224))
    elif name.startswith("mvit_"):
        fixed = options.get("spatial_size", (224, 224))
    else:
        return None
    return fixed


def _frames(name: str, standard: bool, options: Mapping[str, Any]) -> int:
    if name.startswith("mvit_"):
        return int(options.get("temporal_size", 16))
    return 16 if standard else max(_FRAMES, _notes(name).get("min_temporal_size", 1))


def _kind(name: str) -> str:
    """torchvision's room of a model: detection, segmentation, video, optical_flow, or the name of a classifier's file."""
    return str(import_torchvision().models.get_model_builder(name).__module__.split(".")[2])


def _notes(name: str) -> dict[str, Any]:
    notes: dict[str, Any] = import_torchvision().models.get_model_weights(name).DEFAULT.meta
    return notes


def _annotation(name: str, height: int, width: int) -> dict[str, Tensor]:
    """One box in the middle, of class 1, with a mask and key points for the models that learn them."""
    box = torch.tensor([[width * 0.2, height * 0.2, width * 0.8, height * 0.8]])
    annotation = {"boxes": box, "labels": torch.tensor([1])}
    if name.startswith("maskrcnn"):
        annotation["masks"] = torch.ones(1, height, width, dtype=torch.uint8)
    if name.startswith("keypointrcnn"):
        annotation["keypoints"] = torch.tensor([width / 2, height / 2, 1.0]).repeat(1, 17, 1)
    return annotation


def _timm_sizes(name: str, options: Mapping[str, Any], search: bool) -> tuple[int, Size, Size]:
    """Channels, the smallest size (searched for if asked) and the usual one.

    The search runs the network on meta tensors, where it costs no memory and little time: timm's notes tell which networks take one size
    only, but not how far down the others go.
    """
    timm = import_timm()
    with torch.device("meta"):
        twin = timm.create_model(name, pretrained=False, **options)
    notes = twin.pretrained_cfg
    channels, *usual_sides = notes["input_size"]
    channels = options.get("in_chans", channels)
    usual = _pair(options.get("img_size") or tuple(usual_sides))
    if not search or notes.get("fixed_input_size") or "img_size" in options:
        return channels, usual, usual
    floor = max((_SMALL, *(notes.get("min_input_size") or ())))
    candidates = {side for side in (*_SIZES, floor) if floor <= side < min(usual)}
    return channels, next((side for side in sorted(candidates) if _runs(twin, channels, side)), usual), usual


def _runs(twin: Any, channels: int, side: int) -> bool:
    try:
        with torch.device("meta"), torch.no_grad():
            for training in (False, True):
                twin.train(training)(torch.empty(2, channels, side, side))
    except Exception:  # whatever a network says to an image that is too small
        return False
    return True


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _noise(*shape: int, seed: int = 0) -> Tensor:
    """The same numbers at every call; the caller's random state is left alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

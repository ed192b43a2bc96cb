from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

from fxsparse.errors import Error
from fxsparse.models import build, example_inputs, list_models, small_options, timm_family_models

pytestmark = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("torchvision", "timm")), reason="torchvision or timm is not installed"
)


def shapes(inputs: tuple[Any, ...]) -> list[tuple[int, ...]]:
    return [tuple(leaf.shape) for leaf in pytree.tree_leaves(inputs)]


@pytest.mark.parametrize(
    ("spec", "small", "standard"),
    [
        ("torchvision:resnet50", [(2, 3, 64, 64)], [(2, 3, 224, 224)]),
        ("torchvision:inception_v3", [(2, 3, 299, 299)], [(2, 3, 299, 299)]),
        ("torchvision:vit_h_14", [(2, 3, 224, 224)], [(2, 3, 224, 224)]),
        ("torchvision:swin_t", [(2, 3, 224, 224)], [(2, 3, 224, 224)]),
        ("torchvision:maxvit_t", [(2, 3, 224, 224)], [(2, 3, 224, 224)]),
        ("torchvision:fcn_resnet50", [(2, 3, 64, 64)], [(2, 3, 520, 520)]),
        ("torchvision:r3d_18", [(2, 3, 8, 64, 64)], [(2, 3, 16, 112, 112)]),
        ("torchvision:mvit_v2_s", [(2, 3, 16, 224, 224)], [(2, 3, 16, 224, 224)]),
        ("torchvision:raft_small", [(2, 3, 128, 128)] * 2, [(2, 3, 520, 960)] * 2),
        ("torchvision:retinanet_resnet50_fpn", [(3, 64, 64)] * 2, [(3, 480, 640)] * 2),
        ("timm:resnet18", [(2, 3, 64, 64)], [(2, 3, 224, 224)]),
        ("timm:vit_tiny_patch16_224", [(2, 3, 224, 224)], [(2, 3, 224, 224)]),
        ("timm:inception_v3", [(2, 3, 96, 96)], [(2, 3, 299, 299)]),
        ("fxsparse:resnet20", [(2, 3, 32, 32)], [(2, 3, 32, 32)]),
    ],
)
def test_sizes(spec: str, small: list[tuple[int, ...]], standard: list[tuple[int, ...]]) -> None:
    assert shapes(example_inputs(spec)) == small
    assert shapes(example_inputs(spec, standard=True)) == standard


@pytest.mark.parametrize(
    ("spec", "options", "expected"),
    [
        ("torchvision:vit_b_16", {"image_size": 32}, (1, 3, 32, 32)),
        ("torchvision:mvit_v1_b", {"spatial_size": (64, 64), "temporal_size": 8}, (1, 3, 8, 64, 64)),
        ("timm:vit_tiny_patch16_224", {"img_size": 64}, (1, 3, 64, 64)),
        ("timm:test_resnet", {"in_chans": 1}, (1, 1, 64, 64)),
    ],
)
def test_options_of_the_model_decide(spec: str, options: dict[str, Any], expected: tuple[int, ...]) -> None:
    assert shapes(example_inputs(spec, batch=1, options=options)) == [expected]


def test_a_size_of_ones_own() -> None:
    assert shapes(example_inputs("torchvision:resnet18", size=(40, 48), batch=3)) == [(3, 3, 40, 48)]
    assert shapes(example_inputs("timm:resnet18", size=33)) == [(2, 3, 33, 33)]


def test_optical_flow_says_what_it_takes() -> None:
    with pytest.raises(Error, match="at least 128 pixels a side, in multiples of 8, not 130 x 128"):
        example_inputs("torchvision:raft_small", size=(130, 128))


def test_the_same_numbers_at_every_call_but_not_in_every_input() -> None:
    state = torch.get_rng_state()
    first, second = example_inputs("torchvision:raft_small"), example_inputs("torchvision:raft_small")
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])
    assert torch.equal(torch.get_rng_state(), state)


def test_detection_is_given_annotations_on_request() -> None:
    images, annotations = example_inputs("torchvision:maskrcnn_resnet50_fpn", targets=True)
    assert len(images) == len(annotations) == 2
    assert annotations[0]["masks"].shape == (1, 64, 64)
    (_, annotations) = example_inputs("torchvision:keypointrcnn_resnet50_fpn", targets=True)
    assert annotations[0]["keypoints"].shape == (1, 17, 3)


def test_small_options_change_no_tensor() -> None:
    spec = "torchvision:fasterrcnn_mobilenet_v3_large_fpn"
    assert small_options(spec)
    with torch.device("meta"):
        usual, small = build(spec, shape=(1,)).model.state_dict(), build(spec, shape=(1,), **small_options(spec)).model.state_dict()
    assert {key: value.shape for key, value in usual.items()} == {key: value.shape for key, value in small.items()}
    assert small_options("torchvision:ssd300_vgg16") == small_options("torchvision:resnet18") == small_options("timm:resnet18") == {}


def runs_and_learns(spec: str, options: dict[str, Any]) -> None:
    loaded = build(spec, targets=True, **options)
    with torch.no_grad():
        assert pytree.tree_leaves(loaded.model(*loaded.inputs))
    leaves = [leaf for leaf in pytree.tree_leaves(loaded.model.train()(*loaded.inputs)) if leaf.requires_grad]
    sum(leaf.sum() for leaf in leaves).backward()
    assert any(parameter.grad is not None for parameter in loaded.model.parameters())


@pytest.mark.zoo
@pytest.mark.parametrize("spec", list_models("torchvision") if importlib.util.find_spec("torchvision") else [])
def test_every_model_of_torchvision_takes_its_inputs(spec: str) -> None:
    runs_and_learns(spec, small_options(spec))


@pytest.mark.zoo
@pytest.mark.filterwarnings("ignore")  # timm's own remarks on its names and on torch
@pytest.mark.parametrize("family", [row.family for row in timm_family_models()] if importlib.util.find_spec("timm") else [])
def test_every_family_of_timm_takes_its_inputs(family: str) -> None:
    (row,) = (row for row in timm_family_models() if row.family == family)
    runs_and_learns(row.spec, dict(row.options))

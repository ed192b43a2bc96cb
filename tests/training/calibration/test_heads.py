"""Networks that are no classifiers: detectors by their heads, nested outputs, images of several sizes."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxsparse.errors import Error
from fxsparse.models.torchvision_shim import import_torchvision
from fxsparse.training.calibration import calibrate
from fxsparse.training.calibration.heads import Heads, heads_of
from fxsparse.training.calibration.images import recalibrate

SMALL: dict[str, Any] = {"epochs": 4, "batch": 8, "population": 3, "generations": 1, "parents": 2, "layer_steps": 20}
METHODS = ("unipts", "distill", "pot", "magnitude-bn", "recommended")


def pictures(count: int = 64) -> Tensor:
    chance = torch.Generator().manual_seed(5)
    return F.interpolate(torch.randn(count, 3, 8, 8, generator=chance), size=(32, 32), mode="bilinear")


class Body(nn.Sequential):
    out_channels = 16

    def __init__(self) -> None:
        layers: list[nn.Module] = []
        for given, made in ((3, 16), (16, 16), (16, 16)):
            layers += [nn.Conv2d(given, made, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(made), nn.ReLU()]
        super().__init__(*layers)


class Segmenter(nn.Module):
    """A dictionary of maps; classes along axis 1."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.classes, self.depth = Body(), nn.Conv2d(16, 5, 1), nn.Conv2d(16, 1, 1)

    def forward(self, x: Tensor) -> dict[str, Any]:
        x = self.body(x)
        return {"out": self.classes(x), "more": [self.depth(x)], "size": 3}


class Boxes(nn.Module):
    """Takes a list of images, and answers with a list of as many boxes as it likes."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = Body(), nn.Conv2d(16, 6, 1)

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        assert all(image.dim() == 3 for image in images)
        maps = self.head(self.body(torch.stack([F.interpolate(image[None], size=32)[0] for image in images])))
        return [{"boxes": each.flatten(1).T[each[0].flatten() > 0]} for each in maps]


def made(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """With weights and statistics that let something through."""
    chance = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        with torch.no_grad():
            spread = (2 / parameter[0].numel()) ** 0.5 if parameter.dim() > 1 else 0.1
            parameter.copy_(spread * torch.randn(parameter.shape, generator=chance) + (parameter.dim() == 1))
    model.eval()
    recalibrate(model, list(pictures()) if isinstance(model, Boxes) else pictures())
    return model


def exact(result: Any, sparsity: float) -> None:
    size = sum(mask.numel() for mask in result.masks.values())
    parameters = dict(result.model.named_parameters())
    assert sum(int(mask.sum()) for mask in result.masks.values()) == size - round(sparsity * size)
    assert all(not parameters[name][~mask].any() for name, mask in result.masks.items())


@pytest.mark.parametrize("method", METHODS)
def test_nested_outputs_are_compared_as_values(method: str) -> None:
    result = calibrate(made(Segmenter()), [pictures()], 0.6, method, **SMALL)
    exact(result, 0.6)
    assert not result.classifies and dict(result.heads.kinds) == {"": "values"}


def test_learning_brings_the_outputs_back() -> None:
    model = made(Segmenter())
    options: dict[str, Any] = {**SMALL, "epochs": 16, "allocation": "erk"}
    before = calibrate(model, [pictures()], 0.6, "magnitude-bn", allocation="erk").agreement
    for method in ("distill", "unipts", "pot"):
        assert calibrate(model, [pictures()], 0.6, method, **options).agreement > before + 0.05, method
    heads = {":out": "channels", ":more.0": "values"}
    named = calibrate(model, [pictures()], 0.6, "distill", heads=heads, **options)
    assert named.losses[-1] < 0.7 * named.losses[0]


@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_takes_lists_and_answers_with_boxes(method: str) -> None:
    model, images = made(Boxes()), pictures()
    batches = [[images[i], images[i + 1, :, :24, 4:]] for i in range(0, 64, 2)]
    labelled = [(batch, [{"boxes": None}] * 2) for batch in batches]
    result = calibrate(model, labelled, 0.6, method, heads={"head": "values"}, **SMALL)
    exact(result, 0.6)


def test_what_cannot_be_compared_is_refused() -> None:
    batches = [list(pictures())]
    with pytest.raises(Error, match=r"has no module 'heads', which heads= names"):
        calibrate(made(Boxes()), batches, 0.5, "distill", heads={"heads": "values"})
    with pytest.raises(Error, match=r"cannot be 'class'; say classes \(scores"):
        calibrate(made(Boxes()), batches, 0.5, "distill", heads={"head": "class"})
    with pytest.raises(Error, match=r"gave nothing that fits heads=\{'head:scores': 'values'\}"):
        calibrate(made(Boxes()), batches, 0.5, "distill", heads={"head:scores": "values"})
    with pytest.raises(Error, match=r"in the sparse network and .* in the dense one; name outputs"):
        calibrate(made(Boxes()), batches, 0.5, "distill", epochs=1)
    silent = made(Segmenter())
    nn.init.zeros_(silent.get_parameter("depth.weight"))
    with pytest.raises(Error, match=r"output ':more.0' is the same everywhere"):
        calibrate(silent, [pictures()], 0.5, "distill", allocation="erk")
    with pytest.raises(Error, match=r"shapes \(3, 32, 16\) and \(3, 32, 32\)"):
        calibrate(made(Segmenter()), [pictures(), pictures()[..., :16]], 0.5, "distill")


def test_outputs_by_name() -> None:
    seen = Heads({"": "values", "body.0": "values"}).run(made(Segmenter()), pictures(2))
    assert {name: tuple(t.shape) for name, t in seen.tensors.items()} == {
        "body.0:": (2, 16, 16, 16), ":out": (2, 5, 4, 4), ":more.0": (2, 1, 4, 4),
    }  # fmt: skip


def detector(kind: str) -> nn.Module:
    """torchvision's detectors at their smallest."""
    detection = import_torchvision().models.detection
    anchors, few = detection.anchor_utils, {"score_thresh": 0.4, "topk_candidates": 5}
    if kind == "FasterRCNN":
        made_anchors = anchors.AnchorGenerator(((8, 16),), ((0.5, 1.0),))
        pool = import_torchvision().ops.MultiScaleRoIAlign(["0"], 3, 1)
        model = detection.FasterRCNN(
            Body(), min_size=32, max_size=32, rpn_anchor_generator=made_anchors, box_roi_pool=pool,
            box_head=detection.faster_rcnn.TwoMLPHead(16 * 9, 32), box_predictor=detection.faster_rcnn.FastRCNNPredictor(32, 4),
            rpn_pre_nms_top_n_test=20, rpn_post_nms_top_n_test=12,
        )  # fmt: skip
    elif kind == "SSD":
        model = detection.ssd.SSD(Body(), anchors.DefaultBoxGenerator([[2]]), (32, 32), 4, head=detection.ssd.SSDHead([16], [4], 4), **few)
    else:
        generator = anchors.AnchorGenerator(((8,),), ((1.0,),))
        model = getattr(detection, kind)(Body(), 4, min_size=32, max_size=32, anchor_generator=generator, **few)
    assert isinstance(model, nn.Module)
    return model


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("SSD", "unipts"),
        ("SSD", "pot"),
        ("RetinaNet", "distill"),
        ("FasterRCNN", "unipts"),
        ("FasterRCNN", "distill"),
        ("FasterRCNN", "pot"),
    ],
)
def test_torchvision_s_detectors(kind: str, method: str) -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    model = made(detector(kind))
    images = pictures(32).sigmoid()
    assert not heads_of(model, images[:2]).plain
    result = calibrate(model, [images[:16], images[16:]], 0.5, method, **{**SMALL, "epochs": 2})
    exact(result, 0.5)
    answer = result.model(list(images[:2]))
    assert len(answer) == 2 and set(answer[0]) == {"boxes", "labels", "scores"}
    if method == "distill":
        assert len(result.losses) == 2 and result.losses[1] < result.losses[0]


def test_a_single_score_is_no_choice_among_classes() -> None:
    """Its softmax is 1 whatever it is: nothing would be learnt, and everything would agree."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 1))
    data = [(torch.randn(64, 10), torch.randint(0, 2, (64,)))]
    made = calibrate(model, data, 0.8, "distill", allocation="erk", lr=1e-3, **{**SMALL, "epochs": 20})
    assert not made.classifies and made.agreement < 1 and made.losses[-1] < 0.8 * made.losses[0]
    assert calibrate(model, data, 0.8, "distill", allocation="erk", heads={"": "yes-no"}, **SMALL).losses[0] > 0
    with pytest.raises(Error, match=r"one score an image, which is no choice among classes; give heads=\{'': 'yes-no'\}"):
        calibrate(model, data, 0.8, "distill", allocation="erk", heads={"": "classes"}, **SMALL)


class Sequences(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.GRU(6, 16, batch_first=True), nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.head(self.body(x)[0])
        return made


@pytest.mark.parametrize("others", [0, 1])
def test_batches_of_sequences_are_no_lists_of_images(others: int) -> None:
    """As loaders of a TensorDataset give them."""
    torch.manual_seed(0)
    loader = [[torch.randn(8, 7, 6) for _ in range(1 + others)] for _ in range(8)]
    assert calibrate(Sequences(), loader, 0.5, "magnitude", allocation="erk").agreement > 0

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from fxsparse.models import box_kernels
from fxsparse.models.torchvision_shim import import_torchvision, torchvision_state

REGIONS = torch.tensor(
    [
        [0, 1.0, 2.0, 10.0, 15.0],
        [1, -3.0, -4.0, 30.0, 40.0],  # far beyond all borders
        [1, 5.0, 5.0, 5.1, 5.2],  # smaller than a pixel
        [0, 3.0, 3.0, 20.0, 19.0],
    ],
    dtype=torch.float64,
)


def boxes(count: int) -> tuple[Tensor, Tensor]:
    corner = torch.rand(count, 2) * 40
    return torch.cat([corner, corner + torch.rand(count, 2) * 30], 1), torch.rand(count)


def plain_nms(dets: Tensor, scores: Tensor, threshold: float) -> list[int]:
    kept: list[int] = []
    for index in sorted(range(len(scores)), key=lambda i: -scores[i].item()):
        left, top, right, bottom = dets[index].tolist()
        for other in kept:
            a, b, c, d = dets[other].tolist()
            common = max(0.0, min(right, c) - max(left, a)) * max(0.0, min(bottom, d) - max(top, b))
            if common / ((right - left) * (bottom - top) + (c - a) * (d - b) - common) > threshold:
                break
        else:
            kept.append(index)
    return kept


def bilinear(channel: Tensor, y: float, x: float) -> float:
    """The operator's definition: 0 more than a pixel outside; border pixels repeated within that pixel."""
    height, width = channel.shape
    if y < -1 or y > height or x < -1 or x > width:
        return 0.0
    y, x = min(max(y, 0.0), height - 1.0), min(max(x, 0.0), width - 1.0)
    top, left = int(y), int(x)
    below, right = min(top + 1, height - 1), min(left + 1, width - 1)
    upper = channel[top, left].item() * (1 - x + left) + channel[top, right].item() * (x - left)
    lower = channel[below, left].item() * (1 - x + left) + channel[below, right].item() * (x - left)
    return upper * (1 - y + top) + lower * (y - top)


def plain_roi_align(image: Tensor, rois: Tensor, scale: float, rows: int, columns: int, ratio: int, aligned: bool) -> Tensor:
    result = torch.zeros(len(rois), image.shape[1], rows, columns, dtype=image.dtype)
    for k, c, p, q in product(*map(range, result.shape)):
        number, left, top, right, bottom = rois[k].tolist()
        left, top, right, bottom = (edge * scale - 0.5 * aligned for edge in (left, top, right, bottom))
        height, width = (bottom - top, right - left) if aligned else (max(bottom - top, 1.0), max(right - left, 1.0))
        down = ratio if ratio > 0 else math.ceil(height / rows)
        across = ratio if ratio > 0 else math.ceil(width / columns)
        for i, j in product(range(down), range(across)):
            y = top + height / rows * (p + (i + 0.5) / down)
            x = left + width / columns * (q + (j + 0.5) / across)
            result[k, c, p, q] += bilinear(image[int(number), c], y, x) / max(down * across, 1)
    return result


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7])
def test_nms_keeps_what_the_plain_loop_keeps(threshold: float) -> None:
    dets, scores = boxes(60)
    kept = box_kernels.nms(dets, scores, threshold)
    assert kept.dtype == torch.int64
    assert kept.tolist() == plain_nms(dets, scores, threshold)


def test_nms_of_nothing_is_nothing() -> None:
    assert box_kernels.nms(torch.zeros(0, 4), torch.zeros(0), 0.5).shape == (0,)


def test_nms_keeps_boxes_without_area() -> None:
    assert box_kernels.nms(torch.zeros(3, 4), torch.tensor([0.1, 0.3, 0.2]), 0.5).tolist() == [1, 2, 0]


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [-1, 2])
def test_roi_align_equals_the_definition(aligned: bool, ratio: int) -> None:
    image = torch.randn(2, 2, 12, 14, dtype=torch.float64)
    result = box_kernels.roi_align(image, REGIONS, 0.7, 3, 2, ratio, aligned)
    torch.testing.assert_close(result, plain_roi_align(image, REGIONS, 0.7, 3, 2, ratio, aligned), rtol=0, atol=1e-12)


def test_the_gradient_is_that_of_the_forward_pass() -> None:
    image = torch.randn(2, 2, 6, 7, dtype=torch.float64, requires_grad=True)
    result = box_kernels.roi_align(image, REGIONS, 0.3, 2, 2, -1, True)
    grad = torch.randn_like(result)
    (expected,) = torch.autograd.grad(result, image, grad)
    torch.testing.assert_close(box_kernels.roi_align_backward(grad, REGIONS, image, 0.3, 2, 2, -1, True), expected)


def test_no_regions_give_no_gradient() -> None:
    image, none = torch.randn(1, 2, 6, 7), torch.zeros(0, 5)
    assert box_kernels.roi_align(image, none, 1.0, 2, 2, 2, False).shape == (0, 2, 2, 2)
    assert not box_kernels.roi_align_backward(torch.zeros(0, 2, 2, 2), none, image, 1.0, 2, 2, 2, False).any()


@pytest.mark.parametrize("ratio", [-1, 2])
def test_regions_that_are_no_numbers_give_zero(ratio: int) -> None:
    """A network that diverged proposes such regions."""
    nowhere = torch.tensor([[0.0, 1.0, math.nan, 3.0, math.nan]])
    assert not box_kernels.roi_align(torch.ones(1, 1, 4, 4), nowhere, 1.0, 2, 2, ratio, False).any()


@pytest.mark.skipif(not torchvision_state().installed, reason="torchvision is not installed")
def test_the_operators_agree_with_ours() -> None:
    """Where torchvision's own load, this compares two implementations; elsewhere, it shows that ours are in their place."""
    import_torchvision()
    dets, scores = boxes(300)
    assert torch.equal(torch.ops.torchvision.nms(dets, scores, 0.4), box_kernels.nms(dets, scores, 0.4))
    image = torch.randn(2, 3, 20, 24, dtype=torch.float64, requires_grad=True)
    for ratio, aligned in product([-1, 1, 2], [False, True]):
        theirs = torch.ops.torchvision.roi_align(image, REGIONS, 0.7, 3, 5, ratio, aligned)
        torch.testing.assert_close(theirs, box_kernels.roi_align(image, REGIONS, 0.7, 3, 5, ratio, aligned))
        grad = torch.randn_like(theirs)
        (gradient,) = torch.autograd.grad(theirs, image, grad)
        torch.testing.assert_close(gradient, box_kernels.roi_align_backward(grad, REGIONS, image.detach(), 0.7, 3, 5, ratio, aligned))

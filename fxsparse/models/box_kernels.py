"""Non-maximum suppression and RoI alignment in plain torch, for machines where torchvision's compiled ones do not load.

Same arguments, same results as `torchvision::nms` and `torchvision::roi_align` up to rounding; written for clearness, not for speed.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_ROIS_AT_ONCE = 64  # bounds the intermediate result of `roi_align`: rois x channels x output height x input width


def nms(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """The indices of the boxes that no better kept box overlaps by more than the threshold, best first.

    >>> boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [1.0, 1.0, 10.0, 10.0], [20.0, 20.0, 30.0, 30.0]])
    >>> nms(boxes, torch.tensor([0.8, 0.9, 0.7]), 0.5)
    tensor([1, 2])
    """
    left, top, right, bottom = dets.unbind(1)
    areas = (right - left) * (bottom - top)
    waiting = scores.argsort(descending=True, stable=True)
    kept: list[Tensor] = []
    while waiting.numel():
        best, waiting = waiting[0], waiting[1:]
        kept.append(best)
        width = (torch.minimum(right[best], right[waiting]) - torch.maximum(left[best], left[waiting])).clamp(min=0)
        height = (torch.minimum(bottom[best], bottom[waiting]) - torch.maximum(top[best], top[waiting])).clamp(min=0)
        overlap = width * height
        # Boxes without area give 0/0: not a number is above no threshold, so they stay.
        waiting = waiting[~(overlap / (areas[best] + areas[waiting] - overlap) > iou_threshold)]
    return torch.stack(kept) if kept else waiting


def roi_align(
    input: Tensor,
    rois: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """(N, C, H, W) and (K, 5) -> (K, C, pooled_height, pooled_width); a row of `rois` is (image, left, top, right, bottom).

    Bilinear sampling and averaging are both separable, so one bin is `rows @ image @ columns`, with the weights of `_weights`.
    """
    image, rows, columns = _separated(rois, input, spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned)
    result = input.new_zeros(rois.shape[0], input.shape[1], pooled_height, pooled_width)
    for number, chunk in _chunks(image):
        result[chunk] = torch.einsum("kph,chw,kqw->kcpq", rows[chunk], input[number], columns[chunk])
    return result


def roi_align_backward(
    grad: Tensor,
    rois: Tensor,
    input: Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """The gradient of `roi_align` for its input, of which only shape, type and device matter: the operator is linear."""
    image, rows, columns = _separated(rois, input, spatial_scale, pooled_height, pooled_width, sampling_ratio, aligned)
    result = torch.zeros_like(input)
    for number, chunk in _chunks(image):
        result[number] += torch.einsum("kph,kcpq,kqw->chw", rows[chunk], grad[chunk], columns[chunk])
    return result


def _separated(
    rois: Tensor, input: Tensor, spatial_scale: float, pooled_height: int, pooled_width: int, sampling_ratio: int, aligned: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Per region: the number of its image, and the weights of the image's rows and columns in its bins."""
    edges = rois[:, 1:] * spatial_scale - (0.5 if aligned else 0.0)
    rows = _weights(edges[:, 1], edges[:, 3], pooled_height, input.shape[2], sampling_ratio, aligned)
    columns = _weights(edges[:, 0], edges[:, 2], pooled_width, input.shape[3], sampling_ratio, aligned)
    return rois[:, 0].long(), rows.to(input.dtype), columns.to(input.dtype)


def _chunks(image: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Groups of regions that lie in one image, as (number of the image, positions of the regions)."""
    for number in image.unique().tolist():
        for chunk in (image == number).nonzero().flatten().split(_ROIS_AT_ONCE):
            yield number, chunk


def _weights(start: Tensor, end: Tensor, bins: int, size: int, sampling_ratio: int, aligned: bool) -> Tensor:
    """(K, bins, size): how much each of an axis's `size` pixels counts in each bin of each region."""
    length = end - start if aligned else (end - start).clamp(min=1.0)
    step = length / bins
    samples = torch.full_like(step, sampling_ratio) if sampling_ratio > 0 else step.ceil().nan_to_num(0, 0, 0)
    most = int(samples.max()) if samples.numel() else 0
    number = torch.arange(most, device=start.device, dtype=start.dtype)
    # sample s of bin p stands at start + step * (p + (s + 1/2) / samples)
    within = (number + 0.5) / samples.clamp(min=1)[:, None]
    places = torch.arange(bins, device=start.device, dtype=start.dtype)
    at = start[:, None, None] + step[:, None, None] * (places[:, None] + within[:, None, :])
    counted = (number < samples[:, None])[:, None, :] & (at >= -1.0) & (at <= size)
    # The hat function of a pixel around the sample; samples beyond the border stand on the border.
    pixels = torch.arange(size, device=start.device, dtype=start.dtype)
    hats = (1 - (at.clamp(0, size - 1)[..., None] - pixels).abs()).clamp(min=0)
    return torch.where(counted[..., None], hats, 0).sum(dim=2) / samples.clamp(min=1)[:, None, None]

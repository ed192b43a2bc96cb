"""Objectives by their gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fxsparse.training.calibration.objective import OBJECTIVES
from fxsparse.training.calibration.settings import Settings
from fxsparse.training.calibration.variety import augmented


def gradient(name: str, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
    chance = torch.Generator().manual_seed(3)
    student = torch.randn(6, 5, generator=chance, dtype=torch.float64, requires_grad=True)
    teacher = 4 * torch.randn(6, 5, generator=chance, dtype=torch.float64)
    OBJECTIVES[name](student, teacher, epoch, Settings()).backward()
    assert student.grad is not None
    return student.grad, student.detach(), torch.softmax(teacher / 4, 1)


@pytest.mark.parametrize("epoch", [0, 30])
def test_base_decay_compares_temperature_one_with_four_under_a_growing_weight(epoch: int) -> None:
    found, student, p = gradient("base-decayed", epoch)
    torch.testing.assert_close(found, 16 / (8 * 0.99**epoch) * (torch.softmax(student, 1) - p) / 6)


@pytest.mark.parametrize("epoch", [0, 30])
def test_the_matched_control_has_the_same_weight_and_one_temperature(epoch: int) -> None:
    found, student, p = gradient("matched", epoch)
    torch.testing.assert_close(found, 16 / (8 * 0.99**epoch) * (torch.softmax(student / 4, 1) - p) / 6)


def test_plain_distillation_does_not_change_over_the_epochs() -> None:
    found, student, p = gradient("distillation", 0)
    torch.testing.assert_close(found, 4 * (torch.softmax(student / 4, 1) - p) / 6)
    assert torch.equal(found, gradient("distillation", 30)[0])


def test_augmented_images_are_moved_and_mirrored_pictures_of_themselves() -> None:
    images = torch.rand(64, 2, 16, 16)
    made = augmented(images, torch.Generator().manual_seed(0))
    assert made.shape == images.shape
    assert torch.equal(made, augmented(images, torch.Generator().manual_seed(0)))
    for before, after in zip(images, made, strict=True):
        padded = [F.pad(each, (2, 2, 2, 2)) for each in (before, before.flip(2))]
        crops = [each[:, down : down + 16, right : right + 16] for each in padded for down in range(5) for right in range(5)]
        assert any(torch.equal(after, crop) for crop in crops)

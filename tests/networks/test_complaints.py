"""Every complaint's network runs, and something in it is prunable; the proofs are in test_properties."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

import fxsparse
from tests.networks.complaints import COMPLAINTS, Complaint

every_complaint = pytest.mark.parametrize("complaint", COMPLAINTS, ids=lambda complaint: complaint.name)


@every_complaint
def test_networks_run(complaint: Complaint) -> None:
    outputs = [leaf for leaf in tree_leaves(complaint.build()(*complaint.example_inputs())) if isinstance(leaf, Tensor)]
    assert outputs and all(torch.isfinite(leaf).all() for leaf in outputs)


@every_complaint
def test_something_is_prunable_and_the_rest_has_a_reason(complaint: Complaint) -> None:
    groups = fxsparse.trace(complaint.build(), complaint.example_inputs()).groups
    assert any(group.prunable and len(group.units) > 1 for group in groups)
    assert all(group.reason for group in groups if not group.prunable)

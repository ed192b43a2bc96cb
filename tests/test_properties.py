"""Random networks, random plans: shrunk equals tainted, keys stay, regrowth is exact, two shrinks are one, saving loses nothing.

A failure prints the network as a program that can be pasted into a test.
"""

from __future__ import annotations

import os

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from tests.networks.checks import check_shrink
from tests.networks.complaints import COMPLAINTS, Complaint
from tests.networks.random_networks import RandomNetwork, networks

NIGHTLY = os.environ.get("FXSPARSE_HYPOTHESIS") == "nightly"


@settings(max_examples=10_000 if NIGHTLY else 40)
@given(networks(max_ops=40 if NIGHTLY else 12), st.integers(0, 1000))
def test_random_networks_keep_every_promise(network: RandomNetwork, seed: int) -> None:
    note(repr(network))
    call = network.example_inputs(2, seed)
    check_shrink(network.build(seed), call.args, seed, call.kwargs)


@pytest.mark.parametrize("complaint", COMPLAINTS, ids=lambda c: c.name)
def test_what_users_of_other_tools_complained_about(complaint: Complaint) -> None:
    for seed in range(2):
        check_shrink(complaint.build().eval(), complaint.example_inputs(), seed)

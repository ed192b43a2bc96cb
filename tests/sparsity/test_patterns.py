"""Patterns choose exact counts of what stands or falls together, and ties go to the first."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fxsparse.errors import Error
from fxsparse.sparsity import NM, Block, Channel, Unstructured, as_pattern, choose, exchange, top
from fxsparse.sparsity.masks import apply, laid_out_as

VALUES = st.lists(st.sampled_from([-2.0, 0.0, 0.5, 1.0, 3.0, float("inf"), float("-inf")]), min_size=1, max_size=40)


@given(VALUES, st.floats(0, 1))
def test_top_is_a_stable_sort(values: list[float], share: float) -> None:
    count = round(share * len(values))
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]
    chosen = top(torch.tensor(values), count)
    assert chosen.nonzero().flatten().tolist() == sorted(order)


def test_top_refuses_nan_and_impossible_counts() -> None:
    with pytest.raises(Error, match="not a number"):
        top(torch.tensor([1.0, torch.nan]), 1)
    with pytest.raises(Error, match="3 of 2 cannot be chosen"):
        top(torch.ones(2), 3)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (1, 2), (4, 4)])
@pytest.mark.parametrize("shape", [(3, 8), (2, 8, 3, 3), (2, 8, 3)])
def test_n_of_m_against_every_choice(n: int, m: int, shape: tuple[int, ...]) -> None:
    scores = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    mask = choose(NM(n, m), scores, scores.numel() * n // m)
    lines, kept = scores.movedim(1, -1).reshape(-1, m), mask.movedim(1, -1).reshape(-1, m)
    assert (kept.sum(1) == n).all()
    for line, choice in zip(lines, kept, strict=True):
        best = max(sum(line[list(some)].tolist()) for some in itertools.combinations(range(m), n))
        assert float(line[choice].sum()) == pytest.approx(best)


def test_n_of_m_takes_no_other_count() -> None:
    with pytest.raises(Error, match=r"2:4 keeps 8 of 16 weights, not 7"):
        choose(NM(2, 4), torch.ones(2, 8), 7)


def test_blocks_by_hand() -> None:
    scores = torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 9], [2, 2, 5, 0], [2, 2, 0, 0]])
    assert Block(2, 2).pool(scores).tolist() == [[1.0, 2.25], [2.0, 1.25]]
    mask = choose(Block(2, 2), scores, 8, Block(2, 2).unit("w", (4, 4)))
    assert mask.int().tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]


@given(st.integers(0, 24), st.integers(0, 5))
def test_blocks_are_whole_and_counted(count: int, seed: int) -> None:
    scores = torch.randn(8, 6, 2, 1, generator=torch.Generator().manual_seed(seed))
    pattern = Block(4, 2)
    unit = pattern.unit("w", scores.shape)
    count = min(count, scores.numel() // unit)
    mask = choose(pattern, scores, count * unit, unit)
    assert int(mask.sum()) == count * unit
    assert set(pattern.pool(mask.float()).flatten().tolist()) <= {0.0, 1.0}


def test_channels_are_whole() -> None:
    scores = torch.randn(6, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    mask = choose(Channel(), scores, 24, Channel().unit("w", scores.shape))
    best = scores.flatten(1).mean(1).topk(2).indices
    assert mask.flatten(1).all(1).nonzero().flatten().tolist() == sorted(best.tolist())
    assert int(mask.sum()) == 24


@given(st.integers(0, 30), st.integers(0, 30), st.floats(0, 1), st.integers(0, 99))
def test_exchange_keeps_the_best_and_counts(living: int, count: int, fraction: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    drop, grow = torch.rand(30, generator=generator), torch.rand(30, generator=generator)
    mask = top(torch.rand(30, generator=generator), living)
    new = exchange(Unstructured(), mask, drop, grow, count, fraction)
    assert int(new.sum()) == count
    stay = min(living, count)
    stay -= round(fraction * stay)
    kept = top(torch.where(mask, drop, -torch.inf), stay)
    assert bool((new | ~kept).all())  # the best of the living stay
    grown, out = new & ~kept, ~new
    assert not grown.any() or not out.any() or float(grow[grown].min()) >= float(grow[out].max())


def test_n_of_m_is_exchanged_within_its_groups() -> None:
    mask = torch.tensor([[True, True, False, False]])
    new = exchange(NM(2, 4), mask, torch.tensor([[2.0, 1, 0, 0]]), torch.tensor([[0.0, 0, 1, 5]]), 2, 0.5)
    assert new.tolist() == [[True, False, False, True]]


@pytest.mark.parametrize("text", ["unstructured", "2:4", "block:4x2", "channel"])
def test_text_and_pattern(text: str) -> None:
    assert str(as_pattern(text)) == text if text != "channel" else as_pattern(text) == Channel()
    assert as_pattern(as_pattern(text)) == as_pattern(text)


@pytest.mark.parametrize("text", ["", "2-4", "0:4", "5:4", "block:0x2", "block:2", "channels"])
def test_what_is_no_pattern(text: str) -> None:
    with pytest.raises(Error, match=r"no pattern|is none"):
        as_pattern(text)


def test_masking_writes_positive_zeros() -> None:
    values = torch.tensor([-1.0, torch.inf, torch.nan, -0.0, 2.0])
    apply(torch.tensor([False, False, False, False, True]), values)
    assert values.tolist() == [0.0, 0.0, 0.0, 0.0, 2.0]
    assert not torch.signbit(values).any()


def test_masks_lie_in_memory_as_their_tensors() -> None:
    tensor = torch.randn(4, 6, 3, 3).to(memory_format=torch.channels_last)
    mask = laid_out_as(tensor, tensor.contiguous() > 0)
    assert mask.stride() == tensor.stride() and torch.equal(mask, tensor > 0)
    assert laid_out_as(tensor, mask) is mask

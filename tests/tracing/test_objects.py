"""Objects of plain classes: in results, where a graph makes them anew, and in arguments, which a graph does not write to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal

import fxsparse
from fxsparse.tracing.outputs import output_tensors


class Page:
    """What a layer has kept."""

    def __init__(self, keys: Tensor) -> None:
        self.keys, self.length, self.shape, self.device = keys, keys.shape[1], keys.shape, keys.device


class Book:
    """What all layers have kept."""

    def __init__(self) -> None:
        self.pages: list[Page] = []
        self.page_class = Page
        self.last: Tensor | None = None

    def keep(self, keys: Tensor) -> None:
        self.pages.append(Page(keys))


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(4, 8)
        self.keys = nn.Linear(8, 6)
        self.out = nn.Linear(8, 4)


class Keeping(Layers):
    def forward(self, x: Tensor) -> dict[str, Any]:
        book, h = Book(), self.wide(x).relu()
        book.keep(self.keys(h))
        book.keep(self.keys(h) + 1)
        return {"y": self.out(h), "book": book, "again": book}


class Writing(Layers):
    def forward(self, x: Tensor, book: Book) -> Tensor:
        h: Tensor = self.wide(x).relu()
        h = h if book.last is None else h + book.last
        book.last = h
        book.keep(h)
        return self.out(h)  # type: ignore[no-any-return]


class Reading(Layers):
    def forward(self, x: Tensor, book: Book) -> Tensor:
        return self.out(self.wide(x)) * (len(book.pages) + 1)  # type: ignore[no-any-return]


class Owning(Layers):
    def __init__(self) -> None:
        super().__init__()
        self.book = Book()

    def forward(self, x: Tensor) -> tuple[Tensor, Book]:
        return self.out(self.wide(x)), self.book


class Likely(Layers):
    def forward(self, x: Tensor) -> Normal:
        return Normal(self.out(self.wide(x)), 1.0)


def test_an_object_in_a_result_is_made_anew_in_each_run() -> None:
    model = Keeping().eval()
    network = fxsparse.trace(model, torch.randn(2, 5, 4), check=True)
    assert network.origin.islands == ("",)
    x = torch.randn(3, 7, 4)
    given, wanted = network(x), model(x)
    book = given["book"]
    assert book is given["again"] and book is not network(x)["book"] and type(book) is Book and book.page_class is Page
    for page, other in zip(book.pages, wanted["book"].pages, strict=True):
        assert type(page) is Page and (page.length, page.shape, page.device) == (other.length, other.shape, other.device)
        assert type(page.shape) is torch.Size
        torch.testing.assert_close(page.keys, other.keys)


def test_what_stands_in_it_is_an_output_and_what_is_before_it_can_go() -> None:
    network = fxsparse.trace(Keeping().eval(), torch.randn(2, 5, 4))
    assert network.group("keys").reason == "the network's output"
    small = network.shrink({"wide": [0, 3, 4]})
    fxsparse.verify(network, small)
    assert small(torch.randn(2, 5, 4))["book"].pages[0].keys.shape == (2, 5, 6)


def test_a_distribution_is_a_result() -> None:
    network = fxsparse.trace(Likely().eval(), torch.randn(2, 4), check=True)
    assert network.origin.islands == ("",)
    assert network(torch.randn(3, 4)).log_prob(torch.zeros(3, 4)).shape == (3, 4)


def test_sizes_in_a_result_are_not_opened() -> None:
    network = fxsparse.trace(Keeping().eval(), torch.randn(2, 5, 4))
    x = torch.randn(2, 5, 4)
    assert [tuple(t.shape) for t in output_tensors(network(x))] == [(2, 5, 4), (2, 5, 6), (2, 5, 6)]
    tape = network.origin.structure.reading.tapes[0].tape
    assert [tape.values[ref.id].shape for ref in tape.outputs] == [(2, 5, 4), (2, 5, 6), (2, 5, 6)]


def test_an_object_that_was_there_before_is_the_same_afterwards() -> None:
    network = fxsparse.trace(Owning().eval(), torch.randn(2, 4), check=True)
    assert network.origin.islands != ("",)
    assert network(torch.randn(2, 4))[1] is network.module.book


def test_an_argument_that_is_written_to_is_refused_and_left_as_it_was() -> None:
    book = Book()
    with pytest.raises(fxsparse.TraceError, match="writes to its argument of type Book, and a graph would not"):
        fxsparse.trace(Writing().eval(), (torch.randn(2, 4), book))
    assert book.last is None and not book.pages


def test_an_argument_that_is_read_is_a_constant() -> None:
    book = Book()
    network = fxsparse.trace(Reading().eval(), (torch.randn(2, 4), book), check=True)
    network(torch.randn(3, 4), book)
    with pytest.raises(fxsparse.TraceError, match="was traced with argument"):
        network(torch.randn(3, 4), Book())


class Batch:
    """Images of a list in one tensor, and what sizes they have."""

    def __init__(self, tensors: Tensor, sizes: list[tuple[int, int]]) -> None:
        self.tensors, self.sizes = tensors, sizes


class Preparing(nn.Module):
    def forward(self, images: list[Tensor]) -> Batch:
        return Batch(torch.stack([(image - 0.5) / 0.2 for image in images]), [(image.shape[-2], image.shape[-1]) for image in images])


class Detector(nn.Module):
    """What it finds is decided by values, so that it is traced in parts."""

    def __init__(self) -> None:
        super().__init__()
        self.prepare = Preparing()
        self.body, self.head = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU()), nn.Conv2d(6, 2, 1)

    def forward(self, images: list[Tensor]) -> list[Tensor]:
        batch = self.prepare(images)
        found = self.head(self.body(batch.tensors))
        return [each.flatten()[: int((each > 0).sum())] * height for each, (height, _) in zip(found, batch.sizes, strict=True)]


def test_a_part_that_makes_an_object_of_a_list_is_not_bound_to_its_length() -> None:
    model = Detector().eval()
    network = fxsparse.trace(model, ([torch.rand(3, 8, 8), torch.rand(3, 8, 8)],))
    assert "prepare" not in network.origin.islands
    for images in ([torch.rand(3, 8, 8)], [torch.rand(3, 6, 9) for _ in range(3)]):
        for got, wanted in zip(network(images), model(images), strict=True):
            torch.testing.assert_close(got, wanted)

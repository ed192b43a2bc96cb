"""Passes one after the other. A pipeline is a pass."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from fxsparse.network import Network
from fxsparse.passes.base import Context, Pass, PassResult
from fxsparse.passes.registry import made
from fxsparse.passes.text import read_passes


@dataclass(frozen=True)
class Pipeline(Pass):
    """Run passes in order.

    >>> str(Pipeline.parse('fold-batch-norm{ exclude = ["stem.*"] }, apply-masks'))
    'fold-batch-norm{exclude=[stem.*]},apply-masks'
    """

    name: ClassVar[str] = "pipeline"
    passes: tuple[Pass, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """The pipeline that a text describes; `str` is the inverse."""
        return cls(tuple(made(said) for said in read_passes(text)))

    def run(self, network: Network, context: Context) -> PassResult:
        modified, notes = False, []
        for each in self.passes:
            began = time.perf_counter()
            result = each(network, context)
            seconds = time.perf_counter() - began
            for watch in () if isinstance(each, Pipeline) else context.watchers:
                watch(each, network, result, seconds)
            modified |= result.modified
            notes += [note if isinstance(each, Pipeline) else f"{each.name}: {note}" for note in result.notes]
            network = result.network
        return PassResult(network, modified, tuple(notes))

    def _remembered(self, result: PassResult) -> PassResult:
        return result  # each pass has written its own line

    def __str__(self) -> str:
        return ",".join(map(str, self.passes))

"""Custom operators without a rule: everything they touch must be protected."""

from __future__ import annotations

import inspect

from tests.networks.blocks.unknown import define_unknown_operators
from tests.networks.body import Body
from tests.networks.family import Family
from tests.networks.fitting import take
from tests.networks.layers import project

unknown = Family("unknown")


def _defined(body: Body) -> None:
    name = define_unknown_operators.__name__
    body.helpers.setdefault(name, f"{inspect.getsource(define_unknown_operators)}\n\n{name}()\n")


@unknown.operator(weight=2)
def unknown_operator(body: Body) -> None:
    _defined(body)
    x = take(body)
    body.like(x, f"torch.ops.random_networks.{body.genes.pick('roll', 'accumulate', 'centre', 'halve')}({x})")


@unknown.operator(weight=1)
def unknown_of_two(body: Body) -> None:
    _defined(body)
    x = take(body)
    y = project(body, x, x.c)
    y.used = True
    body.like(x, f"torch.ops.random_networks.blend({x}, {y})")

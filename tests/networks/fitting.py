"""Finding a live tensor of the wanted kind and size, or making one fit."""

from __future__ import annotations

from tests.networks.body import KINDS, Body, Kind, Value
from tests.networks.bridges import bridge
from tests.networks.layers import project

MOST_CHANNELS = 24
MOST_PLACES = 130


def take(body: Body, *kinds: Kind, least: int = 1) -> Value:
    """A live tensor of one of the kinds (any, when none is named), each spatial size at least `least`; tensors not yet used come first."""
    kind = body.genes.choose(kinds or _living_kinds(body))
    ordered = sorted(reversed(body.values), key=lambda value: value.used)
    fitting = [value for value in ordered if value.kind == kind]
    x = body.genes.choose(fitting or ordered)
    x = enlarge(body, bridge(body, x, kind), least)
    x.used = True
    return x


def _living_kinds(body: Body) -> list[Kind]:
    return [kind for kind in KINDS if any(value.kind == kind for value in body.values)]


def take_map(body: Body, least: int = 1) -> Value:
    """A live tensor that a convolution can read; mostly an image."""
    return take(body, *(("image",) * 5), "line", "line", "volume", least=least)


def enlarge(body: Body, x: Value, least: int) -> Value:
    if not x.spatial or min(x.spatial) >= least:
        return x
    x.used = True
    if x.kind in ("sequence", "grid"):
        other: Kind = "line" if x.kind == "sequence" else "image"
        return bridge(body, enlarge(body, bridge(body, x, other), least), x.kind)
    spatial = tuple(max(size, least) for size in x.spatial)
    return body.let(f"F.interpolate({x}, size={spatial})", x.kind, x.sized(spatial=spatial), x.degree)


def divisible(body: Body, x: Value, *divisors: int, least: int = 2) -> Value:
    """`x` with a channel count that all `divisors` divide, at least `least` times the first."""
    if all(x.c % divisor == 0 for divisor in divisors) and x.c >= least * divisors[0]:
        return x
    x.used = True
    channels = divisors[0] * least
    while any(channels % divisor for divisor in divisors):
        channels += divisors[0]
    return project(body, x, channels)


def settle(body: Body, since: int) -> None:
    """Bring the live tensors that a step added back to a small size."""
    for x in body.values[since:]:
        if x.c > MOST_CHANNELS:
            x.used = True
            x = project(body, x, body.genes.pick(8, 12, 16, 9))
        places = 1
        for size in x.spatial:
            places *= size
        if places > MOST_PLACES:
            thin(body, x)


def thin(body: Body, x: Value) -> Value:
    """Fewer places."""
    x.used = True
    halves = tuple((size + 1) // 2 for size in x.spatial)
    step = {
        "sequence": "[:, ::2]",
        "line": "[..., ::2]",
        "image": "[..., ::2, ::2]",
        "grid": "[:, ::2, ::2]",
        "volume": "[..., ::2, ::2, ::2]",
    }
    return body.let(f"{x}{step[x.kind]}", x.kind, x.sized(spatial=halves), x.degree)

"""The group graph of a network as an SVG file of its own, which needs no Graphviz."""

from __future__ import annotations

from markupsafe import Markup

from fxsparse.network import Network
from fxsparse.report.graph import drawn
from fxsparse.report.page import ENVIRONMENT
from fxsparse.report.run import GroupLine, MemberLine

HEAD, NARROWEST = 46, 1010  # pixels: what stands above the drawing, and how wide that is


def svg(title: str, network: Network) -> str:
    """Layers from top to bottom, groups as lanes beside them."""
    dense = network.origin.structure.groups
    lines = [
        GroupLine(
            each.name, each.kind, len(dense[each.name].units), len(each.units), each.prunable, each.reason, each.cost.parameters,
            each.cost.macs, tuple(MemberLine(m.tensor, m.axis, m.role) for m in each.members),
        )
        for each in network.groups
    ]  # fmt: skip
    drawing = drawn(lines, (name for name, _ in network.module.named_modules()))
    inner = Markup(ENVIRONMENT.get_template("graph.svg").render(drawing=drawing))
    size = {"width": max(round(drawing.width), NARROWEST), "height": round(drawing.height) + HEAD}
    return ENVIRONMENT.get_template("alone.svg").render(title=title, inner=inner, **size) + "\n"

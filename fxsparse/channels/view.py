"""Groups as a networkx graph, as GraphML, and as Graphviz text."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import networkx

from fxsparse.channels.groups import Group
from fxsparse.errors import Error


def to_networkx(groups: Sequence[Group], shapes: Mapping[str, tuple[int, ...]]) -> networkx.MultiDiGraph[str]:
    """Nodes are groups and tensors. A producing tensor points at its group, a group at the tensors that consume or follow it."""
    graph: networkx.MultiDiGraph[str] = networkx.MultiDiGraph()
    for key, shape in shapes.items():
        graph.add_node(key, what="tensor", shape="x".join(map(str, shape)))
    for group in groups:
        node = f"group:{group.name}"
        graph.add_node(
            node, what="group", name=group.name, kind=group.kind, units=len(group.units), prunable=group.prunable, reason=group.reason,
            parameters=group.cost.parameters, macs=group.cost.macs,
        )  # fmt: skip
        for member in group.members:
            ends = (member.tensor, node) if member.role == "produces" else (node, member.tensor)
            graph.add_edge(*ends, axis=member.axis, role=member.role)
    return graph


def dot(graph: networkx.MultiDiGraph[str]) -> str:
    """Graphviz text: boxes are tensors, ellipses groups, grey ones protected."""
    lines = ["digraph channels {", "  rankdir=LR; node [fontname=Helvetica, fontsize=10]; edge [fontname=Helvetica, fontsize=8];"]
    for node, data in graph.nodes(data=True):
        if data["what"] == "tensor":
            lines.append(f"  {_quote(node)} [shape=box, label={_quote(node + chr(10) + data['shape'])}];")
        else:
            style = "" if data["prunable"] else ", style=filled, fillcolor=lightgrey"
            label = f"{data['name']}\n{data['units']} {data['kind']}"
            lines.append(f"  {_quote(node)} [shape=ellipse, label={_quote(label)}{style}];")
    for source, target, data in graph.edges(data=True):
        lines.append(f"  {_quote(source)} -> {_quote(target)} [label={_quote(str(data['axis']))}];")
    return "\n".join([*lines, "}"]) + "\n"


def _quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def write(graph: networkx.MultiDiGraph[str], path: Path) -> None:
    """By the file's ending: .graphml, .dot, or whatever Graphviz draws (.svg, .pdf, .png)."""
    suffix = path.suffix.lower()
    if suffix == ".graphml":
        networkx.write_graphml(graph, path)
    elif suffix in (".dot", ".gv"):
        path.write_text(dot(graph))
    elif suffix in (".svg", ".pdf", ".png"):
        program = shutil.which("dot")
        if program is None:
            raise Error(
                f"{path.name} needs Graphviz's `dot`, which is not installed; install graphviz, or write {path.with_suffix('.dot').name}"
            )
        subprocess.run([program, f"-T{suffix[1:]}", "-o", str(path)], input=dot(graph), text=True, check=True)
    else:
        raise Error(f"a graph is written as .graphml, .dot, .svg, .pdf or .png, not {path.name!r}")

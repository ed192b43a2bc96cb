"""LSTM, GRU and RNN."""

from __future__ import annotations

from tests.networks.body import Body
from tests.networks.family import Family
from tests.networks.fitting import take, thin

recurrent = Family("recurrent")


@recurrent.operator(weight=4)
def recurrent_layers(body: Body) -> None:
    """One or two layers, one or two directions, with and without projection; the sequence or the last state goes on."""
    x = take(body, "sequence")
    if x.shape[0] > 40:
        x = thin(body, x)
        x.used = True
    cell, hidden, layers = body.genes.pick("LSTM", "GRU", "RNN"), body.genes.pick(5, 4, 8), body.genes.pick(1, 2)
    both, projected = body.genes.pick(False, True), cell == "LSTM" and body.genes.pick(False, False, True)
    first = body.genes.pick(True, True, False)
    options = [f"num_layers={layers}" if layers > 1 else "", "bidirectional=True" if both else "", "proj_size=3" if projected else ""]
    options += [
        "batch_first=True" if first else "",
        "dropout=0.1" if layers > 1 and body.genes.flag() else "",
        body.genes.pick("", "", "bias=False"),
    ]
    if cell == "RNN":
        options.append(body.genes.pick("", 'nonlinearity="relu"'))
    layer = body.attribute("rnn", f"nn.{cell}({', '.join([str(x.c), str(hidden), *filter(None, options)])})")
    out, state = body.fresh("out"), body.fresh("state")
    width = 3 if projected else hidden
    directions = 2 if both else 1
    source = f"{x}" if first else f"{x}.transpose(0, 1)"
    if body.genes.pick(False, False, True):
        zeros = [f"{x}.new_zeros({layers * directions}, {x}.shape[0], {size})" for size in (width, hidden)]
        source += f", ({zeros[0]}, {zeros[1]})" if cell == "LSTM" else f", {zeros[0]}"
    body.do(f"{out}, {state} = {layer}({source})")
    match body.genes.pick("sequence", "last step", "state", "all states"):
        case "sequence":
            body.let(out if first else f"{out}.transpose(0, 1)", "sequence", (x.shape[0], directions * width))
        case "last step":
            body.let(f"{out}[:, -1]" if first else f"{out}[-1]", "vector", (directions * width,))
        case "state":
            body.let(f"{state}[0][-1]" if cell == "LSTM" else f"{state}[-1]", "vector", (width,))
        case _:
            final = f"{state}[0]" if cell == "LSTM" else f"{state}"
            body.let(f"{final}.transpose(0, 1).flatten(1)", "vector", (layers * directions * width,))


@recurrent.operator(weight=1)
def recurrent_cell(body: Body) -> None:
    """A cell in a Python loop."""
    x = take(body, "sequence")
    steps = min(x.shape[0], 3)
    hidden, kind = body.genes.pick(5, 4), body.genes.pick("GRUCell", "LSTMCell", "RNNCell")
    layer = body.attribute("cell", f"nn.{kind}({x.c}, {hidden})")
    state = body.fresh("state")
    zeros = f"{x}.new_zeros({x}.shape[0], {hidden})"
    body.do(f"{state} = ({zeros}, {zeros})" if kind == "LSTMCell" else f"{state} = {zeros}")
    body.do(f"for step in range({steps}):")
    body.do(f"    {state} = {layer}({x}[:, step], {state})")
    body.let(f"{state}[0]" if kind == "LSTMCell" else f"{state} + 0.1", "vector", (hidden,))

"""What the tracer keeps of the user's own Python: sizes, control flow, modes, nested arguments; and what it cannot follow."""

from __future__ import annotations

import concurrent.futures
import enum
import math
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import fxsparse
from fxsparse.tracing.numbers import TracedInt
from fxsparse.tracing.tape import Tape
from fxsparse.tracing.traced_module import TracedModule


class Calls(nn.Module):
    """A linear layer and a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.function = function

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.function(self.fc(x), *args, **kwargs)


def trace(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[nn.Module, fxsparse.Network]:
    model = Calls(function).eval()
    return model, fxsparse.trace(model, args, kwargs)


def branch(y: Tensor) -> Tensor:
    return y.relu() if y.shape[0] > 1 and len(y) == y.size(0) else y


def unpacked(batch: int, width: int) -> tuple[int, int, int]:
    return batch, 1, width


SIZES: dict[str, Callable[[Tensor], Tensor]] = {
    "control flow": branch,
    "arithmetic": lambda y: y.view(y.shape[0] * 2, y.shape[1] // 2),
    "numel": lambda y: y.view(y.numel()),
    "unpacked": lambda y: y.reshape((lambda n, c: (n, 1, c))(*y.shape)),  # type: ignore[arg-type]
    "scaled by a root": lambda y: y / y.shape[1] ** 0.5,
    "half of it": lambda y: y * (y.shape[0] * 0.5 - 0.25) + y.shape[0] / 4.0 + y.shape[0] ** -0.5,
    "a loop": lambda y: torch.stack([y[:, i] for i in range(y.shape[1])], 1),
    "made": lambda y: y + torch.ones(y.shape[0], 1, device=y.device),
    "made many times": lambda y: sum((torch.ones(1, device=(y + i).device) for i in range(130)), y),
    "expanded": lambda y: y[:, None].expand(y.shape[0], 3, -1),
}


@pytest.mark.parametrize("name", sorted(SIZES))
def test_the_batch_stays_dynamic(name: str) -> None:
    model, network = trace(SIZES[name], torch.randn(2, 4))
    assert network.origin.islands == ("",)
    for batch in (2, 5):
        x = torch.randn(batch, 4)
        torch.testing.assert_close(network(x), model(x))


def autocast(y: Tensor) -> Tensor:
    with torch.autocast(y.device.type, torch.bfloat16):
        return (y @ y.mT).float()


DEVICES: dict[str, Callable[[Tensor], Tensor]] = {
    "its type": lambda y: y.relu() if y.device.type == "cpu" else y.tanh(),
    "a question": lambda y: y.relu() if y.is_cpu and not y.is_cuda and not y.is_meta else y.tanh(),
    "by name": lambda y: y + torch.ones(y.shape[0], 1, device=y.device.type),
    "as itself": lambda y: y + torch.ones(y.shape[0], 1, device=y.device).to(y.device),
    "of autocast": autocast,
}


@pytest.mark.parametrize("name", sorted(DEVICES))
def test_code_that_asks_for_the_device_is_told_the_models(name: str) -> None:
    model, network = trace(DEVICES[name], x := torch.randn(2, 4))
    assert network.origin.islands == ("",)
    torch.testing.assert_close(network(x), model(x))


def sampled(y: Tensor) -> Tensor:
    return torch.distributions.Normal(y, y.exp()).rsample()


ALLOWED: dict[str, Callable[[Tensor], Tensor]] = {
    "a number as a tensor in a mask": lambda y: y.masked_fill(y > 0, torch.tensor(-3.0)) + y.clone().masked_fill_(y > 0, torch.tensor(1.0)),
    "a sample of a distribution": sampled,
}


@pytest.mark.parametrize("name", sorted(ALLOWED))
def test_what_torch_itself_would_refuse_on_meta(name: str) -> None:
    validating = torch.distributions.Distribution._validate_args
    model, network = trace(ALLOWED[name], x := torch.randn(2, 4))
    assert network.origin.islands == ("",)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        expected = model(x)
        torch.manual_seed(0)
        torch.testing.assert_close(network(x), expected)
    assert torch.distributions.Distribution._validate_args is validating


class Rounding(enum.StrEnum):
    FLOOR = "floor"


class Axes(enum.IntEnum):
    LAST = 1


NUMBERS: dict[str, Callable[[Tensor], Tensor]] = {
    "a float of numpy": lambda y: y * np.log(3.0),
    "an int of numpy": lambda y: y.reshape(np.int64(2), -1),  # type: ignore[call-overload]
    "a member of an enumeration": lambda y: y.sum(Axes.LAST),
    "a string of an enumeration": lambda y: torch.div(y, 3, rounding_mode=Rounding.FLOOR),
}


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_numbers_and_strings_of_other_classes(name: str) -> None:
    model, network = trace(NUMBERS[name], x := torch.randn(2, 4))
    assert network.origin.islands == ("",)
    torch.testing.assert_close(network(x), model(x))


def windows(y: Tensor) -> Tensor:
    turned = y.transpose(0, 1)
    shape, strides = (3, turned.shape[1], 2), (turned.stride()[0], turned.stride(1), turned.stride(0))
    return turned.as_strided(shape, strides).sum(2).mT


def test_strides_follow_the_batch() -> None:
    model = Calls(lambda y: windows(y.mT.contiguous().mT)).eval()
    network = fxsparse.trace(model, torch.randn(2, 4))
    assert network.origin.islands == ("",)
    for batch in (2, 5):
        x = torch.randn(batch, 4)
        torch.testing.assert_close(network(x), model(x))


def test_a_size_is_an_int_that_remembers() -> None:
    seen: list[Any] = []

    def look(y: Tensor) -> Tensor:
        seen.append(y.shape[0])
        return y.view(y.shape[0], -1)

    trace(look, torch.randn(3, 4))
    assert isinstance(seen[0], TracedInt) and isinstance(seen[0], int) and seen[0] == 3
    assert isinstance(seen[0] * 2, int) and seen[0] * 2 == 6 and list(range(seen[0])) == [0, 1, 2]


def test_the_length_of_a_tensor_is_a_size() -> None:
    model, network = trace(lambda y: y.sum(0) / len(y) + torch.arange(4).expand(len(y), 4), torch.randn(2, 4))
    x = torch.randn(5, 4)
    assert torch.equal(network(x), model(x))


def test_nested_arguments_and_results_keep_their_form() -> None:
    def function(y: Tensor, pair: tuple[Tensor, dict[str, Tensor]], *, add: Tensor, factor: int = 1) -> dict[str, Any]:
        return {"sum": y + pair[0] + add, "list": [pair[1]["b"] * factor, (y,)]}

    x, a, b = torch.randn(2, 4), torch.randn(2, 4), torch.randn(2, 4)
    model, network = trace(function, x, (a, {"b": b}), add=a, factor=3)
    got, expected = network(x, (a, {"b": b}), add=a, factor=3), model(x, (a, {"b": b}), add=a, factor=3)
    assert list(got) == ["sum", "list"] and isinstance(got["list"][1], tuple)
    torch.testing.assert_close(got, expected)


def test_a_plain_argument_is_part_of_the_graph() -> None:
    x = torch.randn(2, 4)
    _, network = trace(lambda y, factor: y * factor, x, 3)
    with pytest.raises(fxsparse.TraceError, match="trace it again"):
        network(x, 4)
    with pytest.raises(fxsparse.TraceError, match=r"it takes x=_, args=\(_,\), and got x=_; call it so, or trace it again"):
        network(x)


class Auxiliary(nn.Module):
    """Does more in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.auxiliary = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Any:
        y = self.body(x)
        return (self.head(y), self.auxiliary(y)) if self.training else self.head(y)


def test_a_network_that_asks_for_its_mode_has_two_graphs() -> None:
    model = Auxiliary().eval()
    network = fxsparse.trace(model, torch.randn(2, 4))
    assert [each.tape.mode for each in network.origin.structure.reading.tapes] == ["eval", "train"]
    assert {m.tensor for m in network.group("body").members} >= {"head.weight", "auxiliary.weight"}
    small = network.shrink({"body": [0, 4]})
    x = torch.randn(3, 4)
    assert small.module(x).shape == (3, 3)
    small.module.train()
    head, auxiliary = small.module(x)
    assert head.shape == (3, 3) and auxiliary.shape == (3, 2)
    assert list(network.module.state_dict()) == list(model.state_dict())


def test_a_network_that_does_not_ask_has_one() -> None:
    network = fxsparse.trace(nn.Sequential(nn.Linear(4, 4), nn.Dropout()).eval(), torch.randn(2, 4))
    assert [each.tape.mode for each in network.origin.structure.reading.tapes] == ["eval"]


DATA: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "a truth value": (lambda y: y * 2 if y.sum() > 1e9 else y, "__bool__"),
    "a number": (lambda y: y * y.sum().item(), "item"),
    "a float": (lambda y: y * float(y.sum()), "__float__"),
    "a list": (lambda y: y * y.sum(1).tolist()[0], "tolist"),
    "a nested list": (lambda y: y * y.tolist()[0][1], "tolist"),
}


class Around(nn.Module):
    """A part that can be traced, and code that cannot."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.part(x))


@pytest.mark.parametrize("name", sorted(DATA))
def test_control_flow_on_data_leaves_islands_and_says_why(name: str) -> None:
    function, word = DATA[name]
    model = Around(function).eval()
    network = fxsparse.trace(model, torch.randn(2, 4))
    assert network.origin.islands == ("part",)
    note = network.notes[0]
    assert "in 1 parts" in note and "looks at the value of a tensor" in note and word in note
    x = torch.randn(3, 4)
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x))
    assert network.group("part.0").prunable


class Masked(nn.Module):
    """A layer that does something else without a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y: Tensor = self.fc(x)
        if mask is None:
            return y.cumsum(0)
        return torch.nn.functional.scaled_dot_product_attention(y, y, y, attn_mask=mask)


class Skipping(nn.Module):
    """Leaves out a mask that masks nothing, where it may look."""

    def __init__(self, exporting: bool) -> None:
        super().__init__()
        self.part, self.last, self.exporting = Masked(), nn.Linear(4, 4), exporting

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        looks = not (self.exporting and torch.compiler.is_exporting())
        y: Tensor = self.last(self.part(x, None if looks and bool(mask.all()) else mask))
        return y


def test_a_tensor_that_is_left_out_is_missed() -> None:
    network = fxsparse.trace(Masked(), torch.randn(2, 3, 4), {"mask": torch.ones(2, 3, 3, dtype=torch.bool)})
    message = r"Masked was traced with a tensor where it got None now: it takes x=_, mask=_; call it so, or trace it again"
    with pytest.raises(fxsparse.TraceError, match=message):
        network(torch.randn(2, 3, 4), mask=None)


@pytest.mark.parametrize("masked", [True, False])
def test_a_part_that_another_answer_calls_in_another_way_stays_python(masked: bool) -> None:
    model = Skipping(exporting=False).eval()
    x, mask = torch.randn(2, 3, 4), torch.ones(2, 3, 3, dtype=torch.bool)
    mask[..., 0] = not masked
    network = fxsparse.trace(model, (x, mask))
    assert network.origin.islands == ()
    torch.testing.assert_close(network(x, mask), model(x, mask))


def test_code_that_looks_at_values_unless_it_is_exported_is_traced_as_a_whole() -> None:
    model = Skipping(exporting=True).eval()
    x, mask = torch.randn(2, 3, 4), torch.ones(2, 3, 3, dtype=torch.bool)
    mask[..., 0] = False
    network = fxsparse.trace(model, (x, mask))
    assert network.origin.islands == ("",) and not network.notes
    assert not torch.compiler.is_exporting() and not torch.compiler.is_compiling()
    torch.testing.assert_close(network(x, mask), model(x, mask))


def test_values_that_cannot_be_made_up_are_named() -> None:
    with pytest.raises(fxsparse.TraceError, match=r"value of a tensor \(numpy\) at .*test_tracer.py:\d+, .*pass it as an argument"):
        trace(lambda y: y * float(y.detach().numpy().sum()), torch.randn(2, 4))


@dataclass
class Answer:
    """A result that torch's trees do not open."""

    logits: Tensor
    more: list[Tensor]


def test_what_stands_in_a_users_result_class_is_an_output() -> None:
    network = trace(lambda y: Answer(y.relu(), [y]), torch.randn(2, 4))[1]
    assert network.group("fc").reason == "the network's output" and not network.group("fc").prunable
    assert isinstance(network(torch.randn(3, 4)), Answer)


@pytest.mark.parametrize("result", [None, 3, {"a": []}])
def test_a_model_without_tensors_in_its_result_is_refused(result: Any) -> None:
    with pytest.raises(fxsparse.TraceError, match="returns no tensor, but"):
        trace(lambda y: result, torch.randn(2, 4))


def test_a_part_that_is_called_in_two_ways_stays_python() -> None:
    class Flagged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)

        def forward(self, x: Tensor, flag: bool) -> Tensor:
            y: Tensor = self.a(x)
            return y.relu() if flag else y

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = Flagged()

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.part(self.part(x, True), False)
            return y if bool(y.sum() < 1e9) else y * 2

    model = Twice().eval()
    network = fxsparse.trace(model, torch.randn(2, 4))
    assert network.origin.islands == ()
    x = torch.randn(2, 4)
    torch.testing.assert_close(network(x), model(x))


def test_a_tensor_whose_axes_turn_in_place_is_another_value_from_then_on() -> None:
    network = trace(lambda y: y.transpose_(0, 1).relu(), torch.randn(4, 4))[1]
    tape: Tape = network.origin.structure.reading.tapes[0].tape
    (turn,) = [call for call in tape.calls if call.name == "aten.transpose_"]
    assert turn.results[0] != turn.args[0]


def test_a_model_that_raises_says_where() -> None:
    with pytest.raises(fxsparse.TraceError, match=r"'fc'.*\(2, 5\).*check that model"):
        trace(lambda y: y, torch.randn(2, 5))


def test_other_inputs_are_described_in_one_line() -> None:
    wrong: Any = torch.randn(40, 40).numpy()
    with pytest.raises(fxsparse.TraceError, match=r"^the model raised TypeError in 'fc' in eval mode for inputs a ndarray: [^\n]*$"):
        trace(lambda y: y, wrong)


def test_lazy_modules_must_be_made_first() -> None:
    with pytest.raises(fxsparse.TraceError, match=r"'0.weight' has no shape yet; run the model once"):
        fxsparse.trace(nn.Sequential(nn.LazyLinear(4)), torch.randn(2, 3))


def test_what_is_no_module_is_refused() -> None:
    wrong: Any = lambda x: x  # noqa: E731
    with pytest.raises(fxsparse.TraceError, match="wrap the function in a module"):
        fxsparse.trace(wrong, torch.randn(2))


class Steps(nn.Module):
    """One step for each place of a sequence, and one for each of its own channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        total = h[:, 0]
        for place in range(1, x.shape[1]):
            total = torch.tanh(total + h[:, place])
        for _ in range(h.shape[2]):
            total = total * 0.9
        result: Tensor = self.b(total)
        return result


def test_a_loop_over_a_size_refuses_an_input_that_would_end_it_elsewhere() -> None:
    network = fxsparse.trace(Steps(), torch.randn(2, 5, 4))
    small = network.shrink({"a": [0, 2, 3]})
    for each in (network, small, small.regrow()):
        assert each(torch.randn(3, 5, 4)).shape == (3, 3)
        for length in (4, 6):
            with pytest.raises(fxsparse.TraceError, match=rf"test_tracer.py:\d+ runs to {length} .* ran to 5 when the model was traced"):
                each(torch.randn(2, length, 4))
    assert fxsparse.verify(network, small).max_error < 1e-12
    assert isinstance(range(3), range) and list(range(2)) == [0, 1]


PARTS: dict[str, Callable[[Tensor], Any]] = {
    "itself": lambda h: h.transpose(0, 1),
    "method": lambda h: h.unbind(1),
    "function": lambda h: torch.unbind(h, dim=-2),
    "by name": lambda h: torch.unbind(input=h, dim=1),
}


@pytest.mark.parametrize("name", PARTS)
def test_a_loop_over_a_tensor_refuses_a_longer_one(name: str) -> None:
    class Through(Steps):
        def forward(self, x: Tensor) -> Tensor:
            total = torch.zeros(())
            for each in PARTS[name](self.a(x)):
                total = torch.tanh(total + each)
            result: Tensor = self.b(total)
            return result

    network = fxsparse.trace(Through(), torch.randn(2, 5, 4))
    small = network.shrink({"a": [0, 2, 3]})
    assert small(torch.randn(3, 5, 4)).shape == (3, 3)
    for each in (network, small):
        with pytest.raises(fxsparse.TraceError, match="runs to 6 with this input, and ran to 5"):
            each(torch.randn(2, 6, 4))


def test_a_traced_module_compiles_as_one_graph() -> None:
    small = fxsparse.trace(Steps(), torch.randn(2, 5, 4)).shrink({"a": [0, 2, 3]})
    x = torch.randn(2, 5, 4)
    wanted = small(x)
    compiled = torch.compile(small.module, backend="eager", fullgraph=True)
    assert torch.equal(compiled(x), wanted)


class Trying(nn.Module):
    """Calls its layers in one way, and in another where they do not take that."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            try:
                x = layer(x, lengths=None)
            except TypeError:
                x = layer(x)
        try:
            return x.view(7, -1)
        except RuntimeError:
            return x


def test_a_call_that_raised_has_not_been() -> None:
    model, x = Trying().eval(), torch.randn(2, 4)
    network = fxsparse.trace(model, x, check=True)
    assert fxsparse.verify(network, network.shrink({"layers.0": [0, 5]})).max_error < 1e-9


def test_code_compiles_after_a_trace() -> None:
    """Torch's compiler, which is imported by what runs first, keeps the builtins that it finds for ever."""
    code = """
        import torch, fxsparse
        fxsparse.trace(torch.nn.Linear(2, 2), torch.randn(1, 2))
        add = torch.compile(lambda x: sum((x * i for i in range(3)), x) + len((1, 2)), backend="eager", fullgraph=True)
        assert add(torch.ones(2)).tolist() == [6, 6]
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_was_traced_may_be_part_of_a_model_that_is_traced() -> None:
    inner = fxsparse.trace(Steps(), torch.randn(2, 5, 4)).module
    network = fxsparse.trace(nn.Sequential(inner, nn.Linear(3, 2)), torch.randn(2, 5, 4))
    assert network(torch.randn(3, 5, 4)).shape == (3, 2)
    with pytest.raises(fxsparse.TraceError, match="runs to 6 with this input, and ran to 5"):
        network(torch.randn(2, 6, 4))


def test_threads_trace_one_after_the_other() -> None:
    call = nn.Module.__call__
    with concurrent.futures.ThreadPoolExecutor(4) as threads:
        networks = list(threads.map(lambda length: fxsparse.trace(Steps(), torch.randn(2, length, 4)), (3, 4, 5, 6) * 4))
    assert [network.origin.inputs[0][0].shape[1] for network in networks] == [3, 4, 5, 6] * 4
    assert range is type(range(3)) and nn.Module.__call__ is call and not hasattr(nn.Module, "training")


def test_code_that_needs_values_is_told_so() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(4, 6, batch_first=True)

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
            result: Tensor = nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0]
            return result

    with pytest.raises(fxsparse.TraceError, match=r"'lengths' argument .* on meta tensors, which have shapes and no values: take"):
        fxsparse.trace(Padded(), (torch.randn(2, 5, 4), torch.tensor([5, 3])))


def test_a_parametrization_is_a_part_of_its_layer() -> None:
    norm = nn.utils.parametrizations.weight_norm
    network = fxsparse.trace(nn.Sequential(norm(nn.Conv2d(3, 6, 3)), nn.ReLU(), norm(nn.Conv2d(6, 2, 3))), torch.randn(2, 3, 8, 8))
    traced = network.module
    assert isinstance(traced, TracedModule)
    assert [node.target for node in traced.graphs["eval"].graph.nodes if node.op == "call_module"] == ["0", "1", "2"]


@pytest.mark.parametrize("names", [["weight_hh_l0"], ["weight_ih_l0", "weight_hh_l0"]])
def test_a_recurrent_layer_whose_weight_is_parametrized(names: list[str]) -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 3)
            for name in names:
                nn.utils.parametrizations.weight_norm(self.rnn, name)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.head(self.rnn(x)[0])
            return result

    network = fxsparse.trace(Recurrent(), torch.randn(2, 5, 4))
    assert fxsparse.verify(network, network.shrink({"rnn": [0, 2, 3]})).effect > 1e-3


class DroppedAside(nn.Module):
    """A dropout before one branch only: in eval mode it returns the very tensor that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.drop = nn.Dropout(p=1.0)
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.fc(x)
        branch = self.inner(self.drop(y))
        total: Tensor = branch + y
        return total


def test_what_stands_beside_a_dropout_is_not_dropped() -> None:
    model = DroppedAside()
    x = torch.randn(2, 4)
    traced = fxsparse.trace(model, x).module
    assert torch.equal(traced.train()(x), model.train()(x))
    assert torch.equal(traced.eval()(x), model.eval()(x))


def test_a_cast_that_changes_nothing_is_not_what_stands_beside_it() -> None:
    _, network = trace(lambda y: (y.float().sum(), y * 2), torch.randn(2, 4))
    _, doubled = network.module.bfloat16()(torch.randn(2, 4, dtype=torch.bfloat16))
    assert doubled.dtype == torch.bfloat16


def test_no_autocast_on_the_device_of_a_tensor() -> None:
    def turned(y: Tensor) -> Tensor:
        with torch.autocast(y.device.type, enabled=False):
            return y * y.sin()

    model, network = trace(turned, torch.randn(2, 4))
    assert network.origin.islands == ("",)
    x = torch.randn(3, 4)
    assert torch.equal(network(x), model(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.fc(x).dtype == torch.bfloat16  # type: ignore[operator]


class Windows(nn.Module):
    """The batch comes back from a number of windows, as `whole` rounds it."""

    def __init__(self, whole: Callable[[float], int]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 2)
        self.whole = whole

    def forward(self, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        windows = self.first(x).relu().view(batch * (length // 2), 2, -1)
        back = windows.view(self.whole(windows.shape[0] / (length / 2)), length, -1)
        result: Tensor = self.last(back)
        return result


@pytest.mark.parametrize("whole", [math.floor, math.ceil, round], ids=["floor", "ceil", "round"])
def test_a_size_that_is_rounded_is_followed(whole: Callable[[float], int]) -> None:
    model = Windows(whole).eval()
    network = fxsparse.trace(model, torch.randn(1, 4, 3))
    small = network.shrink({"first": [0, 1, 5]})
    for shape in ((1, 4, 3), (3, 4, 3), (2, 6, 3)):
        x = torch.randn(shape)
        assert torch.equal(network(x), model(x))
        assert fxsparse.verify(network, small, inputs=x).max_error <= 1e-9


def test_a_size_that_int_makes_plain_refuses_an_input_that_would_give_another() -> None:
    model = Windows(int).eval()
    network = fxsparse.trace(model, torch.randn(1, 4, 3))
    small = network.shrink({"first": [0, 1, 5]})
    for each in (network, small, small.regrow()):
        assert each(torch.randn(1, 6, 3)).shape == (1, 6, 2)  # still one
        with pytest.raises(fxsparse.TraceError, match=r"int\(\) at .*test_tracer.py:\d+ gives 3 with this input, and gave 1"):
            each(torch.randn(3, 4, 3))
    assert fxsparse.verify(network, small).max_error <= 1e-9


def test_a_width_that_int_makes_plain_may_change() -> None:
    class Scaled(Windows):
        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            result: Tensor = self.last(y.relu() / int(y.shape[-1]))
            return result

    network = fxsparse.trace(Scaled(int).eval(), torch.randn(1, 4, 3))
    small = network.shrink({"first": [0, 1, 5]})
    assert fxsparse.verify(network, small, inputs=torch.randn(3, 5, 3)).max_error <= 1e-9


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_part_in_torchscript_is_refused_by_name() -> None:
    part = torch.jit.script(nn.Linear(4, 4))
    with pytest.raises(fxsparse.TraceError, match="'1' is a TorchScript module"):
        fxsparse.trace(nn.Sequential(nn.Linear(4, 4), part), torch.randn(2, 4))

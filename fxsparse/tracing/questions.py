"""What a recording tells code that asks for values, which meta tensors do not have: something plausible, always the same, and what else
it was asked to tell. A number is 1, a truth value is False, a search finds `ROWS` rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fxsparse.tracing.lines import user_line
from fxsparse.tracing.tape import Answers, Question, Tape

LOOKS = "the forward pass looks at the value of a tensor"
ROWS = 3
PATIENCE = 61  # so often a line of code gets the same answer; a prime, as one line may ask for all entries of a list
SEARCHES = 509  # so often a search there finds something
OTHER_NUMBERS = (-1000, 0, 1000)
NO = Answers()
READS = torch.ops.aten._local_scalar_dense.default


class Questions:
    """Those of one recording, which are written down on its tape."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        self.times: dict[tuple[str, int], int] = {}  # line of code, and how patient it is met -> how often it has asked

    def answer(self, plain: bool | int | float) -> bool | int | float:
        """What plain Python code is told. Where it asks without end (`while not done.all():`), the answer is another one now and then."""
        tape = self.tape
        question = Question(user_line(), len(tape.calls))
        turn = self.turn(question.line, PATIENCE)
        if not isinstance(plain, bool):
            tape.numbers.append(question)
            return type(plain)(OTHER_NUMBERS[turn % 3] if turn else tape.answers.number)
        tape.questions.append(question)
        return tape.answers.truth(len(tape.questions) - 1) != bool(turn)

    def answer_given(self, plain: bool | int | float) -> bool | int | float:
        """What it is told of what follows from given inputs: as it is, or otherwise where other answers are asked for."""
        tape = self.tape
        if not isinstance(plain, bool):
            tape.numbers.append(Question(user_line(), len(tape.calls)))
            number = tape.answers.number
            return plain if number == NO.number else type(plain)(min(number, plain + 1))  # real tensors may become as long
        tape.questions.append(Question(user_line(), len(tape.calls)))
        return plain != tape.answers.truth(len(tape.questions) - 1)

    def turn(self, line: str, patience: int) -> int:
        """Counts what a line of code asks; the how manieth time it is when patience has run out, else 0."""
        times = self.times[line, patience] = self.times.get((line, patience), 0) + 1
        turns, since = divmod(times, patience)
        return 0 if since else turns


def _scalar(rows: int, tensor: Tensor) -> Any:
    if not tensor.is_meta:
        return NotImplemented
    return False if tensor.dtype == torch.bool else 1.0 if tensor.dtype.is_floating_point else 1


def _index(rows: int, tensor: Tensor, indices: list[Tensor | None]) -> Any:
    if not any(i is not None and i.dtype in (torch.bool, torch.uint8) for i in indices):
        return NotImplemented
    numbers: list[Tensor | None] = []
    for i in indices:
        if i is not None and i.dtype in (torch.bool, torch.uint8):
            numbers.extend(torch.empty(rows, dtype=torch.long, device="meta") for _ in range(i.dim()))
        else:
            numbers.append(i)
    return torch.ops.aten.index.Tensor(tensor, numbers)


def _found(rows: int, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return tensor.new_empty((min(rows, max(tensor.shape[0], 1)) if tensor.dim() else min(rows, 1),), dtype=torch.long)


ANSWERS: dict[str, Callable[..., Any]] = {  # so many rows are found
    "aten::_local_scalar_dense": _scalar,
    "aten::nonzero": lambda rows, t: t.new_empty((rows, t.dim()), dtype=torch.long),
    "aten::index": _index,
    "aten::masked_select": lambda rows, t, mask: t.new_empty((rows,)),
    "aten::unique_dim": lambda rows, t, *a, **k: (t.new_empty((rows,)), _found(rows, t), _found(rows, t)),
    "aten::_unique2": lambda rows, t, *a, **k: (t.new_empty((rows,)), t.new_empty(t.shape, dtype=torch.long), _found(rows, t)),
    "aten::equal": lambda rows, a, b: False,
    "torchvision::nms": _found,
}


def looks(func: Any, given: list[Tensor]) -> bool:
    """Whether an operator gives away values of its tensors: in what it returns, or in the size of that."""
    if func.overloadpacket is torch.ops.aten.index:
        return any(each.dtype in (torch.bool, torch.uint8) for each in given[1:])
    return torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags

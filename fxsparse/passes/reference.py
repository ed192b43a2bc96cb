"""The reference of all passes, from their docstrings: `python -m fxsparse.passes.reference > docs/passes.md`."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields

from fxsparse.passes.base import Pass
from fxsparse.passes.options import said
from fxsparse.passes.registry import OURS, pass_class
from fxsparse.passes.text import value_text

HEAD = """# Passes

Made by `python -m fxsparse.passes.reference > docs/passes.md` from the docstrings of the passes.

A pass takes a `Network` and gives a `PassResult`: the new network, whether anything was modified, and notes: what was changed, and what
was left alone and why. Passes can be called in Python or be written as text, one after the other:

```python
from fxsparse.passes import Pipeline

result = Pipeline.parse("mask{sparsity=0.98},eliminate-dead-channels,fold-batch-norm")(network)
print("\\n".join(result.notes))
```

What needs data gets it in the call: `pass_(network, data=loader, loss=function)`. Options at their default are left out of the text.
"""


def page() -> str:
    """The whole page."""
    return "\n".join([HEAD, *(section(pass_class(name)) for name in sorted(OURS))])


def section(cls: type[Pass]) -> str:
    """What there is to say of one pass."""
    lines = [f"## {cls.name}", "", inspect.cleandoc(cls.__doc__ or ""), ""]
    table = list(_options(cls))
    if table:
        lines += ["| option | is | default |", "|---|---|---|", *table, ""]
    lines.append(f"In Python: `{cls.__module__}.{cls.__qualname__}`.")
    return "\n".join(lines) + "\n"


def _options(cls: type[Pass]) -> Iterator[str]:
    hints = typing.get_type_hints(cls)
    for each in fields(cls):
        kind = "anything" if hints[each.name] is typing.Any else said(hints[each.name])
        yield f"| `{each.name}` | {kind} | {_default(each)} |"


def _default(each: Field[object]) -> str:
    value = each.default if each.default_factory is MISSING else each.default_factory()
    return "" if value is MISSING else f"`{value_text(value)}`"


if __name__ == "__main__":
    print(page(), end="")

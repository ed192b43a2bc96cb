"""The table of rules: which operator is read by which rule, and how a user adds one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import nn

from fxsparse.axes.site import Site
from fxsparse.axes.spec import apply_spec, parse
from fxsparse.errors import RuleError, nearest
from fxsparse.tracing.taught import TAUGHT, ModuleOperator, Resize

Apply = Callable[[Site], None]


@dataclass(frozen=True, slots=True)
class Rule:
    """What one operator does to axes. `text` is for people; where it is a spec, it is also what runs."""

    name: str
    text: str
    apply: Apply

    def __str__(self) -> str:
        return f"{self.name.removeprefix('aten.')}: {self.text}"


def aten(names: str) -> tuple[str, ...]:
    """`aten("mm bmm")` is `("aten.mm", "aten.bmm")`."""
    return tuple(f"aten.{name}" for name in names.split())


class Family:
    """Rules that belong together: one file, one family."""

    def __init__(self) -> None:
        self.rules: dict[str, Rule] = {}

    def rule(self, *names: str, text: str) -> Callable[[Apply], Apply]:
        def add(apply: Apply) -> Apply:
            for name in names:
                self.rules[name] = Rule(name, text, apply)
            return apply

        return add

    def spec(self, *names: str, text: str) -> None:
        """Operators whose whole rule is its text; every tensor argument is an operand, in order."""
        parse(text)
        for name in names:
            self.rules[name] = Rule(name, text, lambda site: _apply_text(site, text))


def _apply_text(site: Site, text: str) -> None:
    apply_spec(site, text, site.tensors)


class Rules:
    """A lookup over families, with the user's own in front."""

    def __init__(self, *families: Family) -> None:
        self._rules: dict[str, Rule] = {}
        for family in families:
            self._rules.update(family.rules)
        self._own: dict[str, Rule] = {}

    def find(self, name: str) -> Rule | None:
        return self._own.get(name) or self._rules.get(name)

    def register(self, name: str | type[nn.Module], rule: str | Apply, *, resize: Resize | None = None) -> None:
        """Teach an operator, `namespace::name` or `namespace.name`, or a class of modules: a spec as text, or a function over a `Site`.

        A module of a taught class is one call, and is not looked into. Its operands are the tensors that `forward` gets, then its
        parameters, then its buffers, under these names. `resize` brings sizes that it keeps as attributes in line with its tensors.
        """
        if isinstance(name, str):
            key = name.replace("::", ".")
            if key.count(".") != 1:
                raise RuleError(f"an operator is named like 'mylib::scale'; {name!r} is not")
            if resize is not None:
                raise RuleError(f"{name!r} is an operator and keeps no sizes; `resize` goes with a class of modules")
        elif isinstance(name, type) and issubclass(name, nn.Module):
            operator = ModuleOperator(name, resize)
            key = operator.key
        else:
            raise RuleError(f"a rule is for an operator's name or a subclass of torch.nn.Module, not for {name!r}")
        if isinstance(rule, str):
            parse(rule)
            text = rule
            self._own[key] = Rule(key, text, lambda site: _apply_text(site, text))
        else:
            self._own[key] = Rule(key, (rule.__doc__ or "a function").strip().splitlines()[0], rule)
        if not isinstance(name, str):
            TAUGHT[name] = operator

    def unregister(self, name: str | type[nn.Module]) -> None:
        """Forget a rule that was registered."""
        operator = None if isinstance(name, str) else TAUGHT.pop(name, None)
        key = operator.key if operator is not None else str(name).replace("::", ".")
        if self._own.pop(key, None) is None:
            raise RuleError(f"no rule was registered for {name!r}{nearest(key, self._own)}")

    def all(self) -> Mapping[str, Rule]:
        return dict(sorted({**self._rules, **self._own}.items()))

"""A stand-in for TensorRT's bindings that knows every name and signature of one version, and nothing else.

Names come from data/tensorrt-10.json and -11.json, read out of the official bindings. A name, an argument or an attribute that a version
lacks is an error; every call is recorded. What a call returns, `answers` says, or the class that its signature promises.
"""

from __future__ import annotations

import importlib.machinery
import json
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
TYPED = {"10": 1, "11": 0}  # STRONGLY_TYPED was renumbered
Answer = Callable[..., Any]


class Member:
    """A member of an enumeration."""

    def __init__(self, name: str, value: int) -> None:
        self.name, self.value = name, value


class Double(types.ModuleType):
    """The module. `answers` maps "Class.method" to what it returns, and "Class.property" to its value."""

    def __init__(self, version: str, answers: dict[str, Any] | None = None) -> None:
        listed = json.loads((DATA / f"tensorrt-{version}.json").read_text(encoding="utf-8"))
        super().__init__("tensorrt")
        self.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)  # others look whether it is there
        self.__version__ = listed["version"]
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.answers = answers or {}
        self.made: dict[str, type] = {}
        for name, members in listed["classes"].items():
            self.made[name] = self._class(name, members, TYPED[version])

    def __getattr__(self, name: str) -> Any:
        if name in self.__dict__.get("made", {}):
            return self.made[name]
        raise AttributeError(f"TensorRT {self.__version__} has no {name}")

    def called(self, name: str) -> list[tuple[Any, ...]]:
        return [arguments for call, arguments in self.calls if call == name]

    def _class(self, name: str, members: dict[str, str], typed: int) -> type:
        double = self
        body: dict[str, Any] = {}
        for index, (member, said) in enumerate(members.items()):
            if said == "enum":
                number = typed if member == "STRONGLY_TYPED" else 10 + index
                body[member] = Member(member, number)
            elif name.endswith("Logger") and said == "property":
                body[member] = member  # constants
            elif said.startswith("("):
                body[member] = _method(double, name, member, said)

        def read(self: Any, attribute: str) -> Any:
            if members.get(attribute) != "property":
                raise AttributeError(f"TensorRT {double.__version__}: {name} has no {attribute}")
            answer = double.answers[f"{name}.{attribute}"]
            return answer(self) if callable(answer) else answer

        def write(self: Any, attribute: str, value: Any) -> None:
            if attribute in members and members[attribute] != "property":
                raise AttributeError(f"{name}.{attribute} cannot be set")
            if attribute not in members and type(self).__name__ == name:
                raise AttributeError(f"TensorRT {double.__version__}: {name} has no {attribute}")
            double.calls.append((f"{name}.{attribute}=", (value,)))
            object.__setattr__(self, attribute, value)

        return type(name, (), {**body, "__getattr__": read, "__setattr__": write})

    def new(self, name: str) -> Any:
        """An instance, past its constructor."""
        cls: Any = self.made[name]
        return cls.__new__(cls)


def _method(double: Double, cls: str, name: str, said: str) -> Any:
    inside, _, returned = said.removeprefix("(").partition(")")
    words = [word.strip() for word in inside.split(",") if word.strip()]
    least, most = sum(not word.endswith("=") for word in words), len(words)

    def method(self: Any, *arguments: Any) -> Any:
        if words != ["..."] and not least <= len(arguments) <= most:
            raise TypeError(f"TensorRT {double.__version__}: {cls}.{name}{said} got {len(arguments)} arguments")
        double.calls.append((f"{cls}.{name}", arguments))
        if name == "__init__":
            return None
        answer = double.answers.get(f"{cls}.{name}")
        if answer is not None:
            return answer(self, *arguments)
        promised = returned.removeprefix(" -> ")
        if promised == "bool":
            return True
        return double.new(promised) if promised in double.made else None

    return method

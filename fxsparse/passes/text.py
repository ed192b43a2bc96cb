"""Passes and pipelines as text: `prune{macs=0.5,protect=[head*]},fold-batch-norm`. Reading and writing are inverses.

Values are numbers, true, false, none, words, "quoted texts", [lists] and {tables: of values}. Options with an underscore are written
with it; options at their default are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, NamedTuple

from fxsparse.errors import PassError

WORD = re.compile(r"[A-Za-z_*?%@/.\\-][\w*?%@/.+\\-]*")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
CONSTANTS = {"true": True, "false": False, "none": None}


class Said(NamedTuple):
    """One pass as it is written: its name and its options."""

    name: str
    options: dict[str, Any]


# ---- writing --------------------------------------------------------------------------------------------------------------------


def written(pass_: Any) -> str:
    """The text of a pass."""
    options = [f"{each.name}={value_text(getattr(pass_, each.name))}" for each in fields(pass_) if not _is_default(pass_, each)]
    return f"{pass_.name}{{{','.join(options)}}}" if options else str(pass_.name)


def _is_default(pass_: Any, each: Any) -> bool:
    default = each.default if each.default_factory is MISSING else each.default_factory()
    value = getattr(pass_, each.name)
    return type(default) is type(value) and bool(default == value)


def value_text(value: Any) -> str:
    """One value as text. What has none, such as a function, is shown in angle brackets, which cannot be read back."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        plain = WORD.fullmatch(value) and value not in CONSTANTS and not NUMBER.fullmatch(value)
        return value if plain else json.dumps(value, ensure_ascii=False)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(value_text, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{value_text(key)}:{value_text(item)}" for key, item in value.items()) + "}"
    return f"<{getattr(value, '__name__', type(value).__name__)}>"


# ---- reading --------------------------------------------------------------------------------------------------------------------


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def wrong(self, wanted: str) -> PassError:
        found = repr(self.text[self.at : self.at + 12]) if self.at < len(self.text) else "the end"
        return PassError(f"{self.text!r} at position {self.at}: {wanted} was expected, not {found}")

    def skip(self) -> str:
        """The next character that is no space; "" at the end."""
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1
        return self.text[self.at : self.at + 1]

    def take(self, character: str) -> bool:
        found = self.skip() == character
        self.at += found
        return found

    def match(self, pattern: re.Pattern[str], wanted: str) -> str:
        self.skip()
        found = pattern.match(self.text, self.at)
        if not found:
            raise self.wrong(wanted)
        self.at = found.end()
        return found.group()

    def passes(self) -> list[Said]:
        found: list[Said] = []
        while self.skip():
            found.append(self.one())
            if self.skip() and not self.take(","):
                raise self.wrong("a comma")
            if self.text[self.at - 1 : self.at] == "," and not self.skip():
                raise self.wrong("a pass")
        return found

    def one(self) -> Said:
        name = self.match(re.compile(r"[A-Za-z][\w.-]*"), "the name of a pass")
        options: dict[str, Any] = {}
        if not self.take("{"):
            return Said(name, options)
        while not self.take("}"):
            key = self.match(re.compile(r"[A-Za-z_][\w-]*"), "the name of an option").replace("-", "_")
            if not self.take("="):
                raise self.wrong("=")
            if key in options:
                raise PassError(f"{self.text!r}: {key} of {name} is given twice")
            options[key] = self.value()
            self.separator("}")
        return Said(name, options)

    def separator(self, closing: str) -> None:
        if not self.take(",") and self.skip() != closing:
            raise self.wrong(f"a comma or {closing}")

    def value(self) -> Any:
        first = self.skip()
        if first == "[":
            return self.list()
        if first == "{":
            return self.table()
        if first == '"':
            return self.quoted()
        number = NUMBER.match(self.text, self.at)
        if number and not self.text[number.end() : number.end() + 1].strip(",]}: \t\n"):
            self.at = number.end()
            return float(number.group()) if re.search(r"[.eE]", number.group()) else int(number.group())
        if number:  # 3.2ms, 2.5M
            return self.match(re.compile(r"[\w.+-]+"), "a value")
        word = self.match(WORD, "a value")
        return CONSTANTS.get(word, word)

    def list(self) -> list[Any]:
        self.at += 1
        items = []
        while not self.take("]"):
            items.append(self.value())
            self.separator("]")
        return items

    def table(self) -> dict[Any, Any]:
        self.at += 1
        items = {}
        while not self.take("}"):
            key = self.value()
            if not self.take(":"):
                raise self.wrong(":")
            items[key] = self.value()
            self.separator("}")
        return items

    def quoted(self) -> str:
        try:
            found, end = json.decoder.scanstring(self.text, self.at + 1)  # type: ignore[attr-defined]
        except ValueError:
            raise self.wrong("a text in quotes that ends") from None
        self.at = end
        return str(found)


def read_passes(text: str) -> list[Said]:
    """What stands in the text of a pipeline."""
    return _Reader(text).passes()

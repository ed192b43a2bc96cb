"""What the documentation shows, taken apart: fenced blocks, and the commands in them."""

from __future__ import annotations

import re
import shlex
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)(?P<info>[^\n]*)\n(?P<text>.*?)^(?P=indent)```[ ]*$", re.DOTALL | re.MULTILINE)
NOT_RUN = re.compile(r'title="not run here: (needs [^"]+)"')
SHELL = ("", "sh", "bash", "console")


@dataclass(frozen=True)
class Block:
    """A fenced block. Its page and line are where an error is reported."""

    page: Path
    line: int  # of the first line inside
    language: str
    info: str
    text: str

    @property
    def not_run(self) -> str | None:
        """What it needs that the tests do not have: the block says so in its title, for readers as well."""
        found = NOT_RUN.search(self.info)
        return None if found is None else found[1]

    @property
    def commands(self) -> list[list[str]]:
        """The commands of a shell block, in words. Prompts, comments and what `&&` and pipes join are taken apart."""
        if self.language not in SHELL:
            return []
        joined = re.sub(r"\\\n\s*", " ", self.text)
        found = []
        for line in joined.splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            while words:
                end = next((i for i, word in enumerate(words) if word in ("&&", "|", ";")), len(words))
                found.append(words[:end])
                words = words[end + 1 :]
        return [words for words in found if words]


def pages() -> list[Path]:
    """The README, and every page of the documentation."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def named(page: Path) -> str:
    """`docs/training.md`: what a page is called in tests and tables."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start("text")) + 1
        found.append(Block(page, line, match["language"], match["info"].strip(), textwrap.dedent(match["text"])))
    return found


def links(page: Path) -> list[str]:
    """Where a page's links and pictures lead, code aside."""
    text = re.sub(r"`[^`\n]*`", "", FENCE.sub("", page.read_text(encoding="utf-8")))
    return re.findall(r"\]\(([^)\s]+)\)", text)

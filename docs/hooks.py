"""A hook of mkdocs: the page of the command line is filled with what `--help` says when the site is built."""

from __future__ import annotations

from typing import Any

import typer

from fxsparse.tools.cli import app

HERE = "<!-- the help of every command -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    return markdown.replace(HERE, helps()) if HERE in markdown else markdown


def helps() -> str:
    """One section a command."""
    group: Any = typer.main.get_command(app)
    sections = []
    for name, command in group.commands.items():
        with command.make_context(f"fxsparse {name}", [], resilient_parsing=True) as context:
            sections.append(f"## fxsparse {name}\n\n```text\n{command.get_help(context).rstrip()}\n```\n")
    return "\n".join(sections)

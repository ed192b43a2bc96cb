"""What README and docs/ show is what runs: every Python block, page by page; every command at least as far as its options."""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from fxsparse.axes.rules import RULES, unregister_rule
from fxsparse.tools.cli import app
from fxsparse.tracing.taught import TAUGHT
from tests.documentation import ROOT, Block, blocks, links, named, pages
from tests.documentation_setups import SETUPS

# Pages whose commands are cheap enough to run, in order with the page's Python code, in one folder.
RUN_COMMANDS = {"docs/tutorial.md"}
# What pages need beside fxsparse: package -> extra.
NEEDS = {
    "docs/how-to/lightning.md": ("lightning", "pip install 'fxsparse[lightning]'"),
    "docs/how-to/tensorboard.md": ("tensorboard", "pip install tensorboard"),
    "docs/tutorial.md": ("sklearn", "pip install 'fxsparse[train]'"),
}
LOUD = {"docs/how-to/lightning.md"}  # Lightning warns of itself
MOST_NOT_RUN = 3  # blocks that need what the tests do not have
PAGES = {named(page): page for page in pages()}
COMMAND: Any = typer.main.get_command(app)
USAGE_ERROR: Any = typer.BadParameter.__base__


@pytest.fixture(autouse=True)
def _rules_as_they_were() -> Iterator[None]:
    """What a page teaches is forgotten after it."""
    rules, taught = set(RULES.all()), set(TAUGHT)
    yield
    for cls in set(TAUGHT) - taught:
        unregister_rule(cls)
    for name in set(RULES.all()) - rules:
        unregister_rule(name)


def parsed(words: list[str]) -> None:
    """Raise where there is no such subcommand, where it has no such option, or where a value is of the wrong kind."""
    name, *rest = words
    if name in ("--help", "--version"):
        return
    assert name in COMMAND.commands, f"there is no command {name!r}"
    with COMMAND.commands[name].make_context(name, rest):
        pass


def run(block: Block, names: dict[str, object]) -> None:
    """A Python block in the page's names, with the page's own line numbers; a cheap command by the command line itself."""
    if block.language == "python" and block.not_run is None:
        source = "\n" * (block.line - 1) + block.text
        exec(compile(source, str(block.page), "exec", dont_inherit=True), names)
    elif named(block.page) in RUN_COMMANDS:
        for words in block.commands:
            if words[0] == "fxsparse":
                result = CliRunner().invoke(app, words[1:])
                assert result.exit_code == 0, f"{block.page}:{block.line}: {' '.join(words)}\n{result.output}\n{result.exception!r}"


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if any(block.language == "python" for block in blocks(page))])
def test_the_code_of_a_page_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package, advice in (("torchvision", "pip install 'fxsparse[zoo]'"), *([NEEDS[name]] if name in NEEDS else [])):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"the page needs {package}: {advice}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("FXSPARSE_CACHE", str(tmp_path / "cache"))
    with warnings.catch_warnings():
        if name in LOUD:
            warnings.simplefilter("ignore")
        names: dict[str, object] = SETUPS[name]() if name in SETUPS else {}
        names["__name__"] = "__main__"
        for block in blocks(PAGES[name]):
            run(block, names)


@pytest.mark.parametrize("name", PAGES)
def test_the_commands_of_a_page_are_understood(name: str) -> None:
    for block in blocks(PAGES[name]):
        for words in block.commands:
            where = f"{name}:{block.line}: {' '.join(words)}"
            if "fxsparse.tools.cli" in words:
                words = ["fxsparse", *words[words.index("fxsparse.tools.cli") + 1 :]]
            if words[0] == "fxsparse":
                try:
                    parsed(words[1:])
                except typer.Exit:  # --help, --version
                    pass
                except USAGE_ERROR as error:
                    pytest.fail(f"{where}: {error.format_message()}")
            for word in words:
                if re.match(r"(benchmarks|tests|examples|docs)/[\w/]+\.py$", word):
                    assert (ROOT / word).is_file(), where


@pytest.mark.parametrize("name", PAGES)
def test_subcommands_named_in_the_text_exist(name: str) -> None:
    text = PAGES[name].read_text(encoding="utf-8")
    assert not set(re.findall(r"`fxsparse ([a-z]+)[^`\n]*`", text)) - set(COMMAND.commands)


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files(name: str) -> None:
    page = PAGES[name]
    inside = [link.split("#")[0] for link in links(page) if "://" not in link and not link.startswith("#")]
    assert not [link for link in inside if not (page.parent / link).exists()]


def test_what_is_not_run_says_why_and_is_little() -> None:
    everything = [block for page in PAGES.values() for block in blocks(page)]
    assert all(block.not_run for block in everything if "not run" in block.info), 'write title="not run here: needs ..."'
    assert len([block for block in everything if block.not_run]) <= MOST_NOT_RUN


def test_the_first_two_commands_are_all_the_set_up_there_is() -> None:
    """`.ci/run` runs these two lines in a fresh environment."""
    main, tests = [block.text for block in blocks(PAGES["README.md"]) if block.language == "sh"][:2]
    assert "fxsparse " in main
    assert "pytest" in tests
    assert all("pip install" in command and command.count("\n") == 1 for command in (main, tests))

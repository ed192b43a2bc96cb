"""The documentation as a site: it builds without a warning, and its pictures are those that the code draws."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documentation import ROOT


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("mkdocs", "material", "mkdocstrings")),
    reason="mkdocs-material and mkdocstrings are not installed: pip install 'fxsparse[docs]'",
)
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    done = run("-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site"))
    assert done.returncode == 0, done.stderr
    built = {path.relative_to(tmp_path / "site").as_posix() for path in (tmp_path / "site").rglob("index.html")}
    assert {"index.html", "tutorial/index.html", "reference/fxsparse/index.html"} <= built
    assert "Usage: fxsparse inspect" in (tmp_path / "site" / "reference" / "commands" / "index.html").read_text(encoding="utf-8")
    assert "<svg" in (tmp_path / "site" / "concepts" / "pictures" / "residual.svg").read_text(encoding="utf-8")


def test_the_pictures_are_what_the_code_draws() -> None:
    done = run("docs/pictures.py", "--check")
    assert done.returncode == 0, f"run `python docs/pictures.py`: {done.stdout}{done.stderr}"

"""The page: whole in itself, and deaf to names that would like to be markup."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from fxsparse.report import Bench, Run, Sources, render, write_page
from fxsparse.report.page import embedded
from tests.report.examples import HOSTILE, hostile, pruned

VOID = {"meta", "link", "br", "input", "option", "img", "hr"}


class Reader(HTMLParser):
    """Elements with their attributes, text, and whether everything that is opened is closed."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        (self.scripts if self.open and self.open[-1] == "script" else self.text).append(data)


def reader(*runs: Run) -> Reader:
    return Reader(render(Sources(runs)))


def test_what_the_page_tells() -> None:
    run = replace(
        pruned(), proofs=("equal to 1e-16",), notes=("left alone: head",), command="fxsparse prune x", provenance=("prune{macs=0.5}",)
    )
    page = reader(run)
    text = " ".join(page.text)
    for said in ("equal to 1e-16", "left alone: head", "fxsparse prune x", "prune{macs=0.5}", "24 → ", "90.00%", "Conv2d", "before small"):
        assert said in text
    data = json.loads(page.scripts[0])
    assert {group["name"] for group in data["groups"]} >= {"stem", "inner"}
    assert all(0 <= member[3] < len(data["rows"]) for group in data["groups"] for member in group["members"])


def test_nothing_is_loaded() -> None:
    page = reader(pruned())
    loads = [
        (tag, name, value)
        for tag, each in page.elements
        for name, value in each.items()
        if name in ("src", "href", "srcset", "data", "action")
    ]
    assert all(value is not None and (value.startswith("#") or value == "data:,") for _, _, value in loads), loads
    style = render(Sources((pruned(),)))
    assert "@import" not in style and "url(" not in style and "http" not in style.replace("http-equiv", "")


def test_the_policy_lets_our_script_run_and_no_other() -> None:
    page = render(Sources((hostile(),)))
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    script = page[page.rindex("<script>") + len("<script>") : page.rindex("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy


def test_hostile_names_stay_text() -> None:
    page = reader(hostile())
    kinds = [(tag, each.get("type")) for tag, each in page.elements if tag in ("script", "img")]
    assert kinds == [("script", "application/json"), ("script", None)]
    assert not [each for _, each in page.elements for name in each if name.startswith("on")]
    text = " ".join(page.text)
    assert text.count(HOSTILE) > 20
    data = json.loads(page.scripts[0])
    assert data["groups"][0]["reason"] == HOSTILE


def test_embedded_json_cannot_end_its_element() -> None:
    text = embedded({"a": ["</script>", "<!--", float("nan")]})
    assert "<" not in text and json.loads(text) == {"a": ["</script>", "<!--", None]}


def test_empty_and_odd_runs_have_pages() -> None:
    assert not [tag for tag, _ in reader().elements if tag in ("section", "svg", "table")]
    odd = Run("odd", measures={"accuracy": 0.5}, before={"macs": 0.0}, epochs=({"loss": "high"}, {"accuracy": 1}))
    assert "50.00%" in " ".join(reader(odd, replace(odd, name="other", measures={"latency_ms": 0.0})).text)


def test_a_bench_is_a_table() -> None:
    rows = (
        {"name": HOSTILE, "median_ms": 2.0, "ratio": None},
        {"name": "b", "median_ms": 1.0, "ratio": {"value": 0.5, "low": 0.4, "high": 0.6}},
    )
    text = " ".join(Reader(render(Sources((), (Bench("bench.json", "onnxruntime 1, 1 threads", rows),)))).text)
    assert "0.50 (0.40 to 0.60)" in text and HOSTILE in text


def test_a_timeline_is_drawn() -> None:
    change = {"living": 100, "dropped": 20, "grown": 10, "returned": 5, "regretted": 3}
    events = [{"step": 0, "kind": "start", "changes": {"a": change}}, {"step": 10, "kind": "grow", "changes": {"a": change}}]
    run = replace(Run("iee"), timeline={"events": events, "spans": [["explore", 1, 12]]}, epochs=({"epoch": 1, "accuracy": 0.5},))
    page = reader(run)
    assert ("rect", "band explore") in [(tag, each.get("class")) for tag, each in page.elements]
    assert "what came and went" in " ".join(page.text)


def test_the_file_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_page(Sources((pruned(),)), tmp_path / "report.html")
    before = (tmp_path / "report.html").read_text(encoding="utf-8")

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_page(Sources(()), tmp_path / "report.html")
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == before

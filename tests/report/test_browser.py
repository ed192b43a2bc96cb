"""The page in a real browser: it draws, it answers to clicks, it fits a phone, it knows the dark."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fxsparse.report import Sources, render
from tests.report.examples import hostile, pruned

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt install chromium")

PROBE = """<script>addEventListener("load", () => {
  const found = {};
  const click = selector => document.querySelector(selector).dispatchEvent(new MouseEvent("click", { bubbles: true }));
  const panel = document.querySelector(".panel"), drawing = document.querySelector(".drawing");
  found.ready = document.querySelector(".graph").dataset.ready;
  found.wide = document.documentElement.scrollWidth <= innerWidth;
  found.width = innerWidth;
  found.back = getComputedStyle(document.body).backgroundColor;
  click('[data-row="0"] rect');
  found.row = panel.innerText;
  click('[data-group="1"] .hit');
  found.group = panel.innerText;
  found.chosen = document.querySelectorAll("g.lane.chosen").length;
  found.touched = [...document.querySelectorAll("g.row.touched title")].map(each => each.textContent);
  const before = Number(drawing.getAttribute("width"));
  click('[data-zoom="in"]');
  found.zoom = Number(drawing.getAttribute("width")) / before;
  found.alerts = window.alerts || 0;
  parent.postMessage(JSON.stringify(found), "*");
});</script></body>"""

# A window may not be as narrow as a phone; a frame may.
FRAME = """<!doctype html><script>addEventListener("message", event => {
  const out = document.body.appendChild(document.createElement("pre"));
  out.id = "probe";
  out.textContent = event.data;
});</script><iframe src="probed.html" width="%d" height="844" style="border:0"></iframe>"""


def chromium(page: Path, *flags: str, anchor: str = "") -> subprocess.CompletedProcess[str]:
    """Open a file, let its script run, and give back the document (standard output) and the console (standard error)."""
    assert CHROMIUM is not None
    home = f"--user-data-dir={page.parent / 'profile'}"
    base = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--enable-logging=stderr", home]
    command = [CHROMIUM, *base, *flags, page.as_uri() + anchor]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)


def complaints(console: str) -> list[str]:
    return [line for line in console.splitlines() if "CONSOLE" in line]


def probed(folder: Path, text: str, *flags: str, width: int = 1100) -> dict[str, Any]:
    """What the probe sees, in a copy of the page without the policy that would stop the probe."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "<script>window.alert = () => window.alerts = 1</script>", text)
    (folder / "probed.html").write_text(text.replace("</body>", PROBE), encoding="utf-8")
    (folder / "frame.html").write_text(FRAME % width, encoding="utf-8")
    done = chromium(folder / "frame.html", "--dump-dom", "--virtual-time-budget=3000", *flags)
    assert not complaints(done.stderr)
    (found,) = re.findall(r'<pre id="probe">(.*?)</pre>', done.stdout, flags=re.DOTALL)
    said: dict[str, Any] = json.loads(found.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", '"').replace("&amp;", "&"))
    return said


def test_the_graph_answers(tmp_path: Path) -> None:
    found = probed(tmp_path, render(Sources((pruned(),))))
    assert found["ready"] == "yes" and found["wide"]
    assert found["row"].startswith("stem") and "Conv2d" in found["row"] and "inner" not in found["row"]
    assert found["group"].startswith("inner") and "channels: 24 before" in found["group"] and "One unit costs" in found["group"]
    assert "inner.weight, axis 0: produces" in found["group"] and "outer.weight, axis 1: consumes" in found["group"]
    assert found["chosen"] == 1 and found["touched"] == ["inner", "outer"]
    assert found["zoom"] == pytest.approx(1.3)


def test_a_phone(tmp_path: Path) -> None:
    found = probed(tmp_path, render(Sources((pruned(), hostile()))), width=390)
    assert found["width"] == 390 and found["wide"], "the page is wider than the phone"


def test_the_dark(tmp_path: Path) -> None:
    text = render(Sources((pruned(),)))
    backs = [probed(tmp_path, text, f"--blink-settings=preferredColorScheme={scheme}")["back"] for scheme in (0, 1)]
    assert backs == ["rgb(20, 24, 29)", "rgb(255, 255, 255)"]


def test_hostile_names_do_nothing(tmp_path: Path) -> None:
    found = probed(tmp_path, render(Sources((hostile(),))))
    assert found["ready"] == "yes" and found["alerts"] == 0


def test_the_page_as_it_is_runs_its_script_under_its_policy_and_opens_at_a_group(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(render(Sources((pruned(),))), encoding="utf-8")
    done = chromium(page, "--dump-dom", anchor="#run-1/inner")
    assert not complaints(done.stderr)
    assert 'data-ready="yes"' in done.stdout
    assert "<h4>inner</h4>" in done.stdout

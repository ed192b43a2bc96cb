"""The tables and the plot of docs/unipts.md, from the results of benchmarks/unipts.py."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from document import write_between

ROOT = Path(__file__).resolve().parent.parent
RESULTS, STUDY = ROOT / "benchmarks" / "results" / "unipts", ROOT / "benchmarks" / "results" / "unipts-search.json"
REFRESH = ROOT / "benchmarks" / "results" / "mask-refresh.json"
DOCUMENT, PLOT = ROOT / "docs" / "unipts.md", ROOT / "docs" / "unipts.svg"
STEPS = 640  # of most runs
BUDGET = ("epochs", "precision", "population", "generations")  # how long, not what
MAIN = {
    "magnitude": "magnitude",
    "magnitude-bn": "magnitude, statistics anew",
    "pot": "POT-like",
    "unipts, allocation erk": "UniPTS's objective and masks, ERK",
    "unipts": "UniPTS, searched 25 x 25",
    "distill": "plain distillation",
    "recommended": "recommended",
}

Line = dict[str, Any]


def lines() -> list[Line]:
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]
    for line in found:
        line["model"] = line["model"].rpartition(":")[2]
        line["sparsity"] = round(line["sparsity"], 3)
        parts = [f"{key} {value}" for key, value in sorted(line["options"].items()) if key not in BUDGET]
        line["label"] = ", ".join([line["method"], *parts])
        line["steps"] = line["options"].get("epochs", 100) * (line["images"] // 64) if line["losses"] else 0
    return found


def cell(chosen: list[Line]) -> str:
    if not chosen:
        return ""
    scores = [100 * line["accuracy"] for line in chosen]
    spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
    return f"{statistics.mean(scores):.1f}{spread}"


def seeds(chosen: list[Line]) -> str:
    counts = sorted({len(each) for each in _by(chosen, "sparsity").values()})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def by_sparsity(found: list[Line], model: str, images: int, steps: int) -> str:
    """One row a method, one column a sparsity; what trains no network as a whole stands beside any number of steps."""
    same = [line for line in found if line["model"] == model and line["images"] == images and line["steps"] in (0, steps)]
    chosen = [line for line in same if line["label"] in MAIN]
    columns = sorted(_by(chosen, "sparsity"))
    rows = [f"| {model}, {images:,} images, {steps:,} steps | {' | '.join(f'{each:.0%}' for each in columns)} | seeds | CPU s |"]
    rows.append(f"|{'---|' * (len(columns) + 3)}")
    for label, said in MAIN.items():
        mine = [line for line in chosen if line["label"] == label]
        if mine:
            cells = [cell([line for line in mine if line["sparsity"] == each]) for each in columns]
            seconds = statistics.median(_seconds(line) for line in mine)
            rows.append(f"| {said} | {' | '.join(cells)} | {seeds(mine)} | {seconds:.0f} |")
    return "\n".join(rows)


def parts(found: list[Line]) -> str:
    """Every run of ResNet-20 at 90 % with 2,048 images and 640 steps, what is switched on or off by name."""
    same = [line for line in found if (line["model"], line["sparsity"], line["images"]) == ("resnet20", 0.9, 2048)]
    chosen = _by([line for line in same if line["steps"] in (0, STEPS)], "label")
    rows = ["| method and options | accuracy | seeds | CPU s |", "|---|---|---|---|"]
    for label, mine in sorted(chosen.items(), key=lambda pair: statistics.mean(line["accuracy"] for line in pair[1])):
        seconds = statistics.median(_seconds(line) for line in mine)
        rows.append(f"| `{label}` | {cell(mine)} | {len(mine)} | {seconds:.0f} |")
    return "\n".join(rows)


def searched() -> str:
    if not STUDY.exists():
        return "Not run yet."
    said = json.loads(STUDY.read_text(encoding="utf-8"))
    rows = ["| genomes | number | fitness | accuracy on test | rank correlation | p |", "|---|---|---|---|---|---|"]
    half = len(said["rows"]) // 2
    for part, chosen in (("all", said["rows"]), ("best", said["rows"][:half]), ("others", said["rows"][half:])):
        ends = [f"{min(100 * r[key] for r in chosen):.1f} to {max(100 * r[key] for r in chosen):.1f}" for key in ("fitness", "test")]
        found = said["correlation"][part]
        name = {"all": "all", "best": f"the {half} fittest", "others": "drawn from the others"}[part]
        rows.append(f"| {name} | {len(chosen)} | {ends[0]} | {ends[1]} | {found['spearman']:.2f} | {found['p']:.2g} |")
    return "\n".join(rows)


def refreshed() -> str:
    rows = ["| weights of a tensor | kth value, ms | topk, ms | sort, ms |", "|---|---|---|---|"]
    for row in json.loads(REFRESH.read_text(encoding="utf-8"))["rows"]:
        rows.append(f"| {row['weights']:,} | {row['kth value']:.2f} | {row['topk']:.2f} | {row['sort']:.2f} |")
    return "\n".join(rows)


def plot(found: list[Line]) -> bool:
    """Accuracy over sparsity; False without matplotlib."""
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        return False
    models = sorted(_by(found, "model"))
    with matplotlib.rc_context({"svg.hashsalt": "fxsparse", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(4.6 * len(models), 3.6), layout="constrained")
        FigureCanvasSVG(figure)
        axes: Any = figure.subplots(1, len(models), squeeze=False, sharey=True)
        for axis, model in zip(axes[0], models, strict=True):
            mine = [line for line in found if line["model"] == model and line["images"] == 2048 and line["steps"] in (0, STEPS)]
            for number, (label, said) in enumerate(MAIN.items()):
                by = sorted(_by([line for line in mine if line["label"] == label], "sparsity").items())
                if by:
                    heights = [100 * statistics.mean(line["accuracy"] for line in each) for _, each in by]
                    axis.plot([100 * s for s, _ in by], heights, marker="o", markersize=3, color=f"C{number}", label=said)
            axis.axhline(100 * mine[0]["dense"], color="black", linewidth=0.6, linestyle=":")
            axis.set_title(f"{model}, 2,048 images", fontsize="medium")
            axis.set_xlabel("sparsity, %")
            axis.set_ylim(0, 95)
            axis.grid(alpha=0.3)
        axes[0][0].set_ylabel("accuracy on CIFAR-10's test images, %")
        axes[0][0].legend(fontsize="x-small", loc="lower left")
        figure.savefig(str(PLOT), metadata={"Date": None, "Creator": None})
    return True


def write() -> None:
    """Into the document, between its marks."""
    found = lines()
    known = {(line["model"], line["images"], line["steps"]) for line in found if line["steps"]}
    kinds = sorted(known, key=lambda kind: (kind[0], kind[1] != 2048, *kind[1:]))
    tables = {
        "results": "\n\n".join(by_sparsity(found, *kind) for kind in kinds),
        "parts": parts(found),
        "search": searched(),
        "refresh": refreshed(),
    }
    for name, table in tables.items():
        write_between(DOCUMENT, name, table)
    if not plot(found):
        print("the plot needs matplotlib; pip install 'fxsparse[report]'")


def _by(found: list[Line], key: str) -> dict[Any, list[Line]]:
    made: dict[Any, list[Line]] = {}
    for line in found:
        made.setdefault(line[key], []).append(line)
    return made


def _seconds(line: Line) -> float:
    return float(line.get("cpu_seconds") or line["seconds"])

"""The rules of the house, held by tests: arrows between rooms, faces, links, no pickle, no machine's own paths."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "fxsparse"
LINKS = ("passes", "models", "tools")

# Who may import whom: a room imports rooms of lower floors, and its own. The core ends with `network`.
FLOORS = [
    {"errors", "version"},
    {"tracing", "models"},
    {"axes"},
    {"channels"},
    {"surgery"},
    {"network"},
    {"criteria", "sparsity", "engines"},
    {"budgets"},
    {"passes"},
    {"saving"},  # what passes have changed of a model, loading repeats
    {"training"},
    {"report"},
    {""},  # the face: the demo is written as users write
    {"tools"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def sources(*folders: str) -> list[Path]:
    """All Python files of the repository; with `folders`, those under them."""
    found = [ROOT / name for name in tracked() if name.endswith(".py")]
    return [path for path in found if not folders or path.relative_to(ROOT).parts[0] in folders]


def tracked() -> list[str]:
    """Files that git knows, or would add: what is ignored is nobody's text. Links are left out."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\0")
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive: what tools write there starts with a dot, but for .ci
        made = re.compile(r"(^|/)(\.(?!ci/|gitignore$)|__pycache__/|[^/]*\.egg-info/)|^(build|fxsparse-demo)/")
        listed = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*")]
        listed = [name for name in listed if not made.search(name)]
    names = [name for name in listed if name and name.split("/")[0] not in LINKS]
    return sorted({name for name in names if (ROOT / name).is_file() and not (ROOT / name).is_symlink()})


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module that a file imports, as a dotted name. `from a import b` counts as `a.b`, since b may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


class RunTime(ast.NodeTransformer):
    """What is left of a file when `if TYPE_CHECKING:` is taken out."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        return node.orelse if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING") else self.generic_visit(node)


def room(dotted: str) -> str:
    """`fxsparse.axes.rules.norm` is in the room `axes`; what is no part of the package is in none: ''."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "fxsparse" and len(parts) > 1 else ""


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def arrows_up(home: str, tree: ast.AST) -> list[str]:
    """The imports of a file of the room `home` that point to its own floor's neighbours or above. Types alone may look up."""
    targets = {name: room(name) for name in imported(RunTime().visit(tree)) if name.split(".")[0] == "fxsparse"}
    return sorted(name for name, there in targets.items() if there != home and FLOOR.get(there, len(FLOORS)) >= FLOOR[home])


def unsafe(tree: ast.AST) -> list[str]:
    """What would run code from a file: pickle in all its forms, torch.load without weights_only=True, numpy with allow_pickle."""
    picklers = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
    found = [name for name in imported(tree) if name.split(".")[0] in picklers or name == "torch.load"]
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        keywords = {word.arg: word.value for word in call.keywords}
        if ast.unparse(call.func) == "torch.load":
            safe = keywords.get("weights_only")
            if not (isinstance(safe, ast.Constant) and safe.value is True):
                found.append(f"torch.load on line {call.lineno}")
        if "allow_pickle" in keywords:
            found.append(f"allow_pickle on line {call.lineno}")
    return found


def beyond_a_face(tree: ast.Module) -> list[str]:
    """The statements of an __init__.py that are neither docstring nor import nor `__all__`/`__version__`."""
    kept = []
    for index, node in enumerate(tree.body):
        docstring = index == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        names = [ast.unparse(target) for target in node.targets] if isinstance(node, ast.Assign) else []
        if not (docstring or isinstance(node, ast.Import | ast.ImportFrom) or names in (["__all__"], ["__version__"])):
            kept.append(ast.unparse(node).splitlines()[0])
    return kept


def test_every_room_has_a_floor() -> None:
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in sources("fxsparse")}
    assert rooms - {"__init__", "__main__"} <= set(FLOOR)


def test_arrows_point_down() -> None:
    files = {path: path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in sources("fxsparse")}
    up = {str(path.relative_to(ROOT)): arrows_up(home, parse(path)) for path, home in files.items() if home in FLOOR}
    assert not {name: arrows for name, arrows in up.items() if arrows}


def test_nobody_imports_the_links() -> None:
    guests = {str(path.relative_to(ROOT)): {name.split(".")[0] for name in imported(parse(path))} & set(LINKS) for path in sources()}
    assert not {name: links for name, links in guests.items() if links}


def test_links_lead_into_the_package() -> None:
    assert {name: str((ROOT / name).readlink()) for name in LINKS} == {name: f"fxsparse/{name}" for name in LINKS}


def test_imports_are_absolute() -> None:
    relative = {str(path.relative_to(ROOT)): [name for name in imported(parse(path)) if name.startswith(".")] for path in sources()}
    assert not {name: found for name, found in relative.items() if found}


def test_faces_only_re_export() -> None:
    faces = {str(path.relative_to(ROOT)): beyond_a_face(parse(path)) for path in sources("fxsparse") if path.name == "__init__.py"}
    assert faces
    assert not {name: statements for name, statements in faces.items() if statements}


def test_no_pickle() -> None:
    found = {str(path.relative_to(ROOT)): unsafe(parse(path)) for path in sources()}
    assert not {name: calls for name, calls in found.items() if calls}


def test_no_paths_of_one_machine() -> None:
    foreign = re.compile(r"(?<![\w.])/(?:home|root|Users|work|mnt|opt|tmp)/\w+")
    found = {}
    for name in tracked():
        text = (ROOT / name).read_bytes().decode("utf-8", errors="replace")
        found[name] = foreign.findall(text)
    assert not {name: paths for name, paths in found.items() if paths}


@pytest.mark.parametrize(
    ("check", "source", "expected"),
    [
        (lambda tree: arrows_up("axes", tree), "from fxsparse.channels.groups import Group", ["fxsparse.channels.groups.Group"]),
        (lambda tree: arrows_up("axes", tree), "from fxsparse import passes", ["fxsparse.passes"]),
        (lambda tree: arrows_up("axes", tree), "def f():\n    if x:\n        import fxsparse.passes", ["fxsparse.passes"]),
        (lambda tree: arrows_up("axes", tree), "if TYPE_CHECKING:\n    from fxsparse.network import Network", []),
        (lambda tree: arrows_up("axes", tree), "import fxsparse.tracing.tape\nfrom fxsparse.axes import solve", []),
        (unsafe, "import torch\ntorch.load('x')", ["torch.load on line 2"]),
        (unsafe, "import torch\ntorch.load('x', weights_only=False)", ["torch.load on line 2"]),
        (unsafe, "import torch\ntorch.load('x', weights_only=True)", []),
        (unsafe, "from torch import load", ["torch.load"]),
        (unsafe, "from pickle import loads", ["pickle.loads"]),
        (beyond_a_face, "'''Face.'''\nfrom a import b\n__all__ = ['b']", []),
        (beyond_a_face, "from a import b\nb.register()", ["b.register()"]),
        (lambda tree: [name for name in imported(tree) if name.startswith(".")], "from . import a", ["..a"]),
    ],
    ids=[
        "up",
        "up-through-the-face",
        "up-inside",
        "up-for-types",
        "down",
        "load",
        "load-unsafe",
        "load-safe",
        "load-alone",
        "pickle",
        "face",
        "face-acts",
        "relative",
    ],
)
def test_the_checks_see_what_they_forbid(check, source: str, expected: list[str]) -> None:  # type: ignore[no-untyped-def]
    assert check(ast.parse(source)) == expected

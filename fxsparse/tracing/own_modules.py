"""What stands in the modules of Python that belong to a user's code."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

FOREIGN = {*sys.stdlib_module_names, "numpy", "scipy", "sympy", "torch", "networkx", "fxsparse"}  # large, and not asked about shapes


class Names:
    """Those whose values are `wanted`. A module is gone through again once it has more names, or fewer."""

    def __init__(self, wanted: Callable[[str, Any], object]) -> None:
        self.wanted = wanted
        self.known: dict[str, tuple[ModuleType, int, list[str]]] = {}  # module -> how many names it had, and which are wanted

    def __iter__(self) -> Iterator[tuple[ModuleType, str]]:
        for key, module in _own_modules(len(sys.modules)):
            known = self.known.get(key)
            if known is None or known[0] is not module or known[1] != len(vars(module)):
                names = [name for name, value in list(vars(module).items()) if self.wanted(name, value)]
                known = self.known[key] = (module, len(vars(module)), names)
            for name in known[2]:
                yield module, name


@functools.lru_cache(maxsize=1)
def _own_modules(count: int) -> list[tuple[str, ModuleType]]:
    """Those that may belong to a user's code, as long as no more are imported."""
    found = list(sys.modules.items())
    return [(key, each) for key, each in found if key.partition(".")[0] not in FOREIGN and isinstance(each, ModuleType)]

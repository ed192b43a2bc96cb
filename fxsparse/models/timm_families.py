from __future__ import annotations
from typing import Any
FAMILIES: dict[str, tuple[str, int, dict[str, Any]]] = {}

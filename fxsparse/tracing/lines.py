"""Whose code is running."""

from __future__ import annotations

import sys
from types import FrameType


def user_line() -> str:
    """The line of the user's code that is running."""
    frame = sys._getframe(1)
    while frame.f_back is not None:
        if is_users(frame):
            return f"{frame.f_code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    return "an unknown place"


def is_users(frame: FrameType) -> bool:
    """Whether its code is neither torch's, nor ours, nor made from a graph."""
    file = frame.f_code.co_filename
    return "/torch/" not in file and "fxsparse/tracing" not in file and not file.startswith(_GENERATED)


_GENERATED = ("<fxsparse graph", "<eval_with_key", "<frozen ")

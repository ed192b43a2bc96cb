"""Every error that fxsparse raises on purpose.

One root, few children, divided by who must act. Deep code states the fact; the public face adds the node, the shapes and the
next step once.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class Error(Exception):
    """The root: whoever catches this catches everything that fxsparse raises on purpose."""


class TraceError(Error):
    """The model could not be run or traced on its example inputs."""


class RuleError(Error):
    """A rule was registered wrongly, or contradicts the operator it describes."""


class PlanError(Error):
    """A plan (which units to keep, grow, share ...) does not fit the network."""


class PassError(Error):
    """A pass was asked for with wrong options, or meets a network that it cannot work on."""


class VerificationError(Error):
    """The proof failed: the transformed network is not what it should be."""


class LoweringError(Error):
    """A network could not be exported to, built for or run on an engine."""


class BudgetError(Error):
    """A budget cannot be reached."""


class CheckpointError(Error):
    """A saved folder or checkpoint is damaged, truncated, hostile or belongs to something else."""


def nearest(name: str, known: Iterable[str], prefix: str = "") -> str:
    """What was perhaps meant, to stand behind the name in an error's sentence, or nothing.

    >>> nearest("stm", ["stem", "head"])
    " (did you mean 'stem'?)"
    """
    close = difflib.get_close_matches(name, list(known), n=3, cutoff=0.4)
    return f" (did you mean {' or '.join(repr(prefix + each) for each in close)}?)" if close else ""

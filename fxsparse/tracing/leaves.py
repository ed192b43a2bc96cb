"""Which modules become one node of the graph, and which are traced through."""

from __future__ import annotations

from torch import nn

from fxsparse.tracing.taught import is_parametrized, operator_of

# Modules that only drop whole samples: traced through, they would bake `training`. Class names, so that their packages need not be there.
leaf_modules: set[str] = {"StochasticDepth", "DropPath"}


def is_leaf(module: nn.Module) -> bool:
    """torch's own modules without children (a parametrization does not count as one), `leaf_modules`, and modules with a rule."""
    if operator_of(module) is not None:
        return True
    cls = type(module)
    if is_parametrized(module):
        cls = cls.__mro__[1]
    if cls.__name__ in leaf_modules and not module._modules and not module._parameters:  # else only its name is the same
        return True
    return cls.__module__.startswith(("torch.nn.", "torch.ao.nn.")) and all(name == "parametrizations" for name in module._modules)

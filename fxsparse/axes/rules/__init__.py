"""One file for each family of operators, and the table of all of them."""

from fxsparse.axes.rules.every import RULES, register_rule, unregister_rule

__all__ = ["RULES", "register_rule", "unregister_rule"]

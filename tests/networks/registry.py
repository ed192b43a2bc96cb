"""All operators of all families."""

from __future__ import annotations

from tests.networks.family import Family, Operator
from tests.networks.operators.activations import activations, dropouts
from tests.networks.operators.attention import attention
from tests.networks.operators.contractions import einsum
from tests.networks.operators.convolutions import convolutions
from tests.networks.operators.interfaces import interfaces
from tests.networks.operators.joins import joins
from tests.networks.operators.linears import linears
from tests.networks.operators.mixing import mixing
from tests.networks.operators.normalisations import normalisations
from tests.networks.operators.parameters import parameters, parametrizations
from tests.networks.operators.recurrent import recurrent
from tests.networks.operators.reshapes import reshapes
from tests.networks.operators.resizing import pooling, resizing
from tests.networks.operators.sharing import sharing
from tests.networks.operators.slices import slices
from tests.networks.operators.structures import structures
from tests.networks.operators.unknown import unknown

# The simplest first: shrinking moves towards the front.
_ALL: tuple[Family, ...] = (
    convolutions, linears, activations, normalisations, joins, slices, reshapes, pooling, resizing, attention, einsum, recurrent,
    parameters, parametrizations, sharing, structures, dropouts, interfaces, mixing, unknown,
)  # fmt: skip
FAMILIES: dict[str, Family] = {family.name: family for family in _ALL}
OPERATORS: dict[str, Operator] = {operator.name: operator for family in _ALL for operator in family.operators}

"""Consensus (TALL masks, arXiv:2405.07813): keep what matters to enough of the merged models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from graftwork.errors import InvalidRecipe
from graftwork.kernels.consensus_combine import consensus_combine
from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.merge.method import Elementwise, Method, scratch_bytes
from graftwork.merge.recipe.recipe import Recipe
from graftwork.merge.slices.buffers import Buffers
from graftwork.merge.slices.slices import Array, Slice
from graftwork.merge.statistics.passes import Statistic

_BUFFERS = Buffers()


@dataclass(frozen=True, slots=True)
class Consensus:
    """The coordinates of a merged delta on which at least `min_agree` of the models agree with it.

    Model t agrees where |tau_t| > mask_lambdas * |tau - tau_t|, strictly, tau being the merged delta.
    """

    min_agree: int
    mask_lambdas: float | tuple[float, ...]
    """One for all models, or one for each."""

    def of(self, method: Elementwise) -> Agreed:
        """The method under this consensus."""
        return Agreed(method, self)

    def combine(self, method: Elementwise, out: Array, piece: Slice, measured: Any, scale: float) -> None:
        """Write the base plus `scale` times what is left of the delta that `method` merges, all in float32."""
        like = piece.against_base()
        zeros = _BUFFERS.array("zeros", "F32", piece.size, like)
        zeros[...] = 0
        deltas = []
        for position, values in enumerate(piece.inputs):
            deltas.append(_BUFFERS.array(f"delta {position}", "F32", piece.size, like))
            weighted_sum(deltas[-1], (values, piece.against_base()), (1.0, -1.0))
        merged = _BUFFERS.array("merged", "F32", piece.size, like)
        differences = Slice(piece.tensor, piece.offset, zeros, tuple(deltas), piece.seed, piece.shape)
        method.combine(merged, differences, measured, 1.0)
        given = self.mask_lambdas
        lambdas = given if isinstance(given, tuple) else (given,) * len(piece.inputs)
        consensus_combine(out, piece.against_base(), piece.inputs, merged, lambdas, self.min_agree, scale)

    @staticmethod
    def element_bytes(inputs: int) -> int:
        """Memory that an element of a slice takes besides what it is read into."""
        return 4 * (inputs + 2)


@dataclass(frozen=True, slots=True)
class Agreed:
    """A method of the delta space under a consensus; to the engine, a method itself."""

    method: Elementwise
    consensus: Consensus

    def statistic(self) -> Statistic[Any] | None:
        """What the method itself must know."""
        return self.method.statistic()

    def check(self, tensor: str) -> None:
        """Let the method look at the name of a tensor, if it wants to; it raises ValueError when it refuses it."""
        if hasattr(self.method, "check"):
            self.method.check(tensor)

    def element_bytes(self, inputs: int) -> int:
        """Memory that an element of a slice takes besides what it is read into."""
        return self.consensus.element_bytes(inputs) + scratch_bytes(self.method, inputs)

    def combine(self, out: Array, piece: Slice, measured: Any, scale: float) -> None:
        """The method's slice, with what too few models agree on taken off."""
        self.consensus.combine(self.method, out, piece, measured, scale)


def find_consensus(recipe: Recipe, method: Method) -> Consensus | None:
    """The recipe's `consensus` modifier; raises InvalidRecipe when there are several, or no delta to modify."""
    entries = [entry.consensus for entry in recipe.modifiers if entry.consensus is not None]
    if len(entries) > 1:
        raise InvalidRecipe(where="modifiers", reason="consensus can be given once")
    if entries and method.space != "delta":
        raise InvalidRecipe(where="modifiers", reason=f"consensus masks a merged delta, and {method.name} has none")
    return Consensus(entries[0].min_agree, entries[0].mask_lambda) if entries else None

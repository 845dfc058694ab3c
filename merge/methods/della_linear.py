"""DELLA: drop small entries more often than large ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import Field

from graftwork.kernels.sparse_combine import Vote
from graftwork.merge.method import Density, Number, PerModel, merge_method
from graftwork.merge.slices.slices import Array, Slice
from graftwork.merge.statistics.chances import RowChances
from graftwork.merge.statistics.masking import MatchedNorms, check_weights, combine_masked


@merge_method("della_linear", space="delta", cites="https://arxiv.org/abs/2406.11617")
@dataclass(frozen=True, slots=True)
class DellaLinear:
    """Drop entries of each task vector at random, small ones more often, rescale the rest, and add up what is left.

    weight:    the coefficient of each task vector
    density:   the mean probability of keeping an entry; 1 drops nothing, 0 everything
    epsilon:   probabilities reach from density - epsilon (the smallest entry of a row) to density + epsilon (the
               largest); both must lie above 0 and not above 1
    lambda:    one coefficient on the merged task vector
    normalize: divide by the sum of the weights
    rescale:   divide what is kept by its own probability, so that its expectation is the task vector
    int8_mask: accepted and without effect: masks take no memory here

    An entry of rank r among the n magnitudes of its row (0 the smallest; equal magnitudes: the lowest index ranks
    highest) is kept with p = density - epsilon + 2 epsilon r / (n - 1), and becomes (x - base) / p. A row is the last
    dimension of a tensor, a vector is one row; a row of one entry has p = density. Draws as in dare_linear.

    paper: this; its epsilon is the whole width of the interval, twice this one.
    mergekit: `rescale` multiplies the tensor by one factor that restores its L1 norm: expectations are 0.70 of small
    entries and 1.12 of large ones at density 0.5. `compat: mergekit` does that. It ranks tensors of more than two
    dimensions along the second, refuses density + epsilon = 1, and gives NaN for rows of one entry.

    Use it in place of dare_linear: at the same density it keeps more of what matters.
    """

    weight: PerModel[Number] = (1.0,)
    density: PerModel[Density] = (1.0,)
    epsilon: PerModel[Annotated[float, Field(ge=0, lt=1)]] = (0.15,)
    lambda_: Number = 1.0
    normalize: bool = False
    rescale: bool = True
    int8_mask: bool = False
    compat_: bool = False
    models: ClassVar[tuple[int, int | None]] = (1, None)
    quirks: ClassVar[bool] = True
    vote: ClassVar[Vote] = "none"

    def __post_init__(self) -> None:
        check_weights(self.weight, vote=self.vote, normalize=self.normalize)
        for density, epsilon in zip(self.density, self.epsilon, strict=True):
            if 0 < density < 1 and not 0 < density - epsilon <= density + epsilon <= 1:
                reason = f"density {density} with epsilon {epsilon} gives probabilities outside 0..1"
                raise ValueError(f"{reason}; choose epsilon below {min(density, 1 - density):g}")

    def statistic(self) -> RowChances | MatchedNorms | None:
        """The chances of rows that slices divide; also mergekit's factors, if asked for."""
        if all(density == 1 for density in self.density):
            return None
        return MatchedNorms(self._chances()) if self.compat_ and self.rescale else self._chances()

    def combine(self, out: Array, piece: Slice, measured: Any, scale: float) -> None:
        """The ranks, then the fused draw and combination, of a few rows at a time."""
        rows, factors = measured if isinstance(measured, tuple) else (measured, None)
        if factors is None:
            factors = [None if self.rescale else 1.0] * len(piece.inputs)
        parts = self._chances().masks(piece, rows or {}, factors)
        scale = self.lambda_ * scale
        combine_masked(
            out, piece, parts, self.weight, scale, vote=self.vote, normalize=self.normalize, signed=self.compat_
        )

    def _chances(self) -> RowChances:
        bounds = [
            (density - epsilon, density + epsilon) if 0 < density < 1 else (density, density)
            for density, epsilon in zip(self.density, self.epsilon, strict=True)
        ]
        return RowChances(tuple(low for low, _ in bounds), tuple(high for _, high in bounds))

"""DARE: drop entries at random and rescale the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from graftwork.kernels.sparse_combine import Vote
from graftwork.merge.method import Density, Number, PerModel, merge_method
from graftwork.merge.slices.slices import Array, Slice
from graftwork.merge.statistics.masking import Bernoulli, MatchedNorms, check_weights, combine_masked


@merge_method("dare_linear", space="delta", cites="https://arxiv.org/abs/2311.03099")
@dataclass(frozen=True, slots=True)
class DareLinear:
    """Drop entries of each task vector at random, rescale the rest, and add up what is left.

    weight:    the coefficient of each task vector
    density:   the probability of keeping an entry; 1 drops nothing, 0 everything
    lambda:    one coefficient on the merged task vector
    normalize: divide by the sum of the weights
    rescale:   divide what is kept by the density, so that its expectation is the task vector
    int8_mask: accepted and without effect: masks take no memory here

    base + lambda * sum w m (x - base) / density, with m = 1 with probability `density` and else 0, independently for
    each entry and model. The draws depend on the recipe's seed, the tensor's name, the model's position and the entry's
    index alone (Philox4x32-10), so that slices, threads and restarts change nothing.

    paper: this, with drop rate 1 - density.
    mergekit: `rescale` multiplies by one factor that restores the L1 norm of the tensor's task vector; on small tensors
    it is far from 1 / density, and it overflows in float16. `compat: mergekit` does that. mergekit's draws differ from
    run to run unless it is given a seed, and cannot be reproduced here.

    Use it where fine-tunes are redundant (language models fine-tuned by instruction) and interfere; densities of 0.1 to
    0.5 are usual. Where deltas are large, as after continued pre-training, low densities destroy them.
    """

    weight: PerModel[Number] = (1.0,)
    density: PerModel[Density] = (1.0,)
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

    def statistic(self) -> MatchedNorms | None:
        """mergekit's factors, if asked for."""
        return MatchedNorms(Bernoulli(self.density)) if self.compat_ and self.rescale else None

    def combine(self, out: Array, piece: Slice, measured: Any, scale: float) -> None:
        """The fused draw and combination of one slice."""
        factors = [None if self.rescale else 1.0] * len(piece.inputs) if measured is None else measured[1]
        parts = Bernoulli(self.density).masks(piece, None, factors)
        scale = self.lambda_ * scale
        combine_masked(
            out, piece, parts, self.weight, scale, vote=self.vote, normalize=self.normalize, signed=self.compat_
        )

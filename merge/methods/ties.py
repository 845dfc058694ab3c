"""TIES: trim, elect signs, merge what agrees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from graftwork.kernels.ties_combine import Divide, ties_combine
from graftwork.merge.method import Density, Number, PerModel, merge_method
from graftwork.merge.slices.slices import Array, Slice
from graftwork.merge.statistics.magnitudes import Cut, LargestMagnitudes, SignMajority

DIVISORS: dict[str, Divide] = {"mean": "count", "sum": "none", "max": "max"}


@merge_method("ties", space="delta", cites="https://arxiv.org/abs/2306.01708")
@dataclass(frozen=True, slots=True)
class Ties:
    """Keep the largest entries of each task vector, elect one sign per coordinate, average the entries that agree.

    weight:     the weight of each task vector, in the election and in the average
    density:    the fraction of entries that is kept; 1 trims nothing, 0 everything
    lambda:     one coefficient on the merged task vector
    normalize:  divide by the sum of |weight| of the agreeing entries
    variant:    `mergekit` or `paper`
    aggregate:  `mean`, `sum` or `max` of the agreeing entries (paper only)
    int8_mask:  accepted and without effect: masks take no memory here

    mergekit: exactly max(1, int(density * n)) entries of every tensor are kept, equal magnitudes by lowest index; the
    election is weighted; a sum of zero elects plus. For weights of one sign this is mergekit's result; with mixed signs
    mergekit divides by the signed sum, which can be near 0 (`compat: mergekit`).
    paper (section 4 and the authors' code): the whole model is trimmed at once, with every entry not smaller than the
    threshold kept; the election is unweighted; coordinates without a majority take the sign that most coordinates have;
    the mean counts agreeing non-zero entries. It has no weights.

    Use it where several fine-tunes of one base interfere; densities of 0.1 to 0.3 are usual.
    """

    weight: PerModel[Number] = (1.0,)
    density: PerModel[Density] = (1.0,)
    lambda_: Number = 1.0
    normalize: bool = True
    variant: Literal["mergekit", "paper"] = "mergekit"
    aggregate: Literal["mean", "sum", "max"] = "mean"
    int8_mask: bool = False
    compat_: bool = False
    models: ClassVar[tuple[int, int | None]] = (1, None)
    quirks: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.variant == "mergekit" and self.aggregate != "mean":
            raise ValueError(f"aggregate: {self.aggregate} belongs to variant: paper")
        if self.variant == "paper" and any(weight != 1 for weight in self.weight):
            raise ValueError("variant: paper has no weights; leave them at 1 and scale with lambda")
        if self.variant == "paper" and not self.normalize:
            raise ValueError("normalize: false belongs to variant: mergekit; variant: paper has aggregate: sum")

    def statistic(self) -> LargestMagnitudes | SignMajority:
        """The magnitude that divides kept from trimmed entries; for the paper also the majority sign."""
        if self.variant == "paper":
            return SignMajority(LargestMagnitudes(self.density, exact=False, scope="model"))
        return LargestMagnitudes(self.density, exact=True, scope="tensor")

    def combine(self, out: Array, piece: Slice, measured: Cut | tuple[Cut, int], scale: float) -> None:
        """The fused trim, election and disjoint mean of one slice."""
        cut, majority = (measured, 1) if isinstance(measured, Cut) else measured
        ties_combine(
            out,
            piece.against_base(),
            piece.inputs,
            self.weight,
            cut.thresholds,
            cut.cutoffs,
            piece.offset,
            scale=self.lambda_ * scale,
            vote="unweighted" if self.variant == "paper" else "weighted",
            divide=self._divisor(),
            zero_sign=majority,
        )

    def _divisor(self) -> Divide:
        if self.variant == "paper":
            return DIVISORS[self.aggregate]
        if not self.normalize:
            return "none"
        return "signed_weights" if self.compat_ else "weights"

"""Task vectors under masks: what DARE, DELLA and Model Breadcrumbs share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from graftwork.kernels.abs_sum import abs_sum
from graftwork.kernels.arrays import empty, zeros
from graftwork.kernels.sparse_combine import Divide, Mask, Vote, sparse_combine
from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.merge.slices.slices import GRAIN, Array, Slice
from graftwork.merge.slices.streams import stream_keys
from graftwork.merge.statistics.passes import Extent, Measuring, Pass, Scope, is_by_row

Factors = Sequence[float | None]
"""What each model's kept entries are multiplied by; None stands for one over the entry's probability of being kept."""
Parts = Iterable[tuple[slice, list[Mask]]]
SMALLEST_NORM = 1e-7
"""Below this L1 norm mergekit does not rescale."""


class Draw(Protocol):
    """A way to drop entries at random."""

    def measure(self, extent: Extent) -> Measuring[Any]:
        """What must be known of the whole tensor."""

    def masks(self, piece: Slice, measured: Any, factors: Factors) -> Iterator[tuple[slice, list[Mask]]]:
        """The slice in parts that follow one another, each with a mask for every model."""


@dataclass(frozen=True, slots=True)
class Bernoulli:
    """Each entry of a model is kept with one probability, independently."""

    density: tuple[float, ...]

    def measure(self, extent: Extent) -> Measuring[None]:
        """Nothing."""
        yield from ()

    def masks(self, piece: Slice, measured: None, factors: Factors) -> Iterator[tuple[slice, list[Mask]]]:
        """The slice as one part."""
        drawn = zip(self.density, stream_keys(piece), factors, strict=True)
        yield slice(0, piece.size), [Mask(chance=chance, key=key, factor=factor) for chance, key, factor in drawn]


@dataclass(frozen=True, slots=True)
class MatchedNorms:
    """mergekit's rescaling: one factor a model, the L1 norm of its task vector before over that after the draw."""

    draw: Draw
    scope: Scope = "tensor"

    def measure(self, extent: Extent) -> Measuring[tuple[Any, Factors]]:
        """The draw's passes, then one that adds up both norms; the result is the draw's and the factors."""
        measured = yield from self.draw.measure(extent)
        norms = np.zeros((extent.inputs, 2, -(-extent.numel // GRAIN)))

        def add(piece: Slice) -> None:
            first = piece.offset // GRAIN
            for position, sides in enumerate(self._sides(piece, measured)):
                for side, values in enumerate(sides):
                    sums = abs_sum(values)
                    norms[position, side, first : first + len(sums)] = sums

        yield Pass(add)
        totals = norms.sum(axis=2)
        return measured, tuple(
            1.0 if min(before, after) < SMALLEST_NORM else float(before / after) for before, after in totals
        )

    @property
    def by_row(self) -> bool:
        """As the draw."""
        return is_by_row(self.draw)

    @staticmethod
    def element_bytes(inputs: int) -> int:
        """Each model's difference before and after the draw, and zeros."""
        return 4 * (2 * inputs + 1)

    def _sides(self, piece: Slice, measured: Any) -> list[tuple[Array, Array]]:
        """Each model's differences before and after the draw."""
        base = piece.against_base()
        nothing = zeros((piece.size,), "F32", like=base)
        sides = [(empty((piece.size,), "F32", base), empty((piece.size,), "F32", base)) for _ in piece.inputs]
        for (before, _), x in zip(sides, piece.inputs, strict=True):
            weighted_sum(before, (x, base), (1.0, -1.0))
        for part, masks in self.draw.masks(piece, measured, [1.0] * len(sides)):
            for (before, after), mask in zip(sides, masks, strict=True):
                sparse_combine(after[part], nothing[part], [before[part]], [1.0], [mask], piece.offset + part.start)
        return sides


def combine_masked(
    out: Array,
    piece: Slice,
    parts: Parts,
    weights: Sequence[float],
    scale: float,
    *,
    vote: Vote,
    normalize: bool,
    signed: bool = False,
) -> None:
    """Write a slice: the base plus `scale` times the weighted sum of the masked task vectors.

    vote:      whether a sign is elected as TIES does, and only entries of that sign are added up
    normalize: divide by the sum of |weight| of the agreeing entries, or without a vote of all weights
    signed:    add up those weights with their signs, as mergekit does
    """
    total = sum(weights) if normalize and vote == "none" else 1.0
    divide: Divide = "none"
    if normalize and vote != "none":
        divide = "signed_weights" if signed else "weights"
    for part, masks in parts:
        sparse_combine(
            out[part],
            piece.against_base()[part],
            [x[part] for x in piece.inputs],
            [weight / total for weight in weights],
            masks,
            piece.offset + part.start,
            scale=scale,
            vote=vote,
            divide=divide,
        )


def check_weights(weights: Sequence[float], *, vote: Vote, normalize: bool) -> None:
    """Raises ValueError where a sum of weights must be divided by and is 0."""
    if normalize and vote == "none" and sum(weights) == 0:
        raise ValueError("the weights sum to 0 and cannot be normalised; set normalize: false")


def whole(piece: Slice, masks: list[Mask]) -> Parts:
    """The slice as one part."""
    return [(slice(0, piece.size), masks)]

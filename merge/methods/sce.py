"""SCE: select, calculate, erase."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graftwork.kernels.sparse_combine import Mask
from graftwork.merge.method import Fraction, merge_method
from graftwork.merge.slices.slices import Array, Slice
from graftwork.merge.statistics.disagreement import Disagreement, Disagreements
from graftwork.merge.statistics.masking import combine_masked, whole

SMALLEST_SUM = 1e-6
"""The sum of mean squares below which mergekit weighs all models alike."""


@merge_method("sce", space="delta", cites="https://arxiv.org/abs/2408.07990")
@dataclass(frozen=True, slots=True)
class Sce:
    """Keep the entries on which the models disagree most, weigh each model by its mean square, erase minority signs.

    select_topk: the fraction of entries that is kept, of those whose variance over the models is not 0
    int8_mask:   accepted and without effect: masks take no memory here

    Select: of a tensor's entries with a variance above 0, the int(select_topk * count) of largest variance are kept,
    equals by lowest index; with 1 all entries are. Calculate: model i has the weight w_i = mean(d_i^2), over all
    entries of the tensor with those not kept as 0. Erase: per entry the sign of sum d_i, unweighted, is elected, plus
    where it is 0; the result is base + sum w_i d_i / sum w_i over the models whose d_i has that sign.

    paper: FuseChat-3.0, section 3.3.
    mergekit: it weighs all models alike where the sum of the mean squares is under 1e-6, as it is for most fine-tunes
    with small learning rates. `compat: mergekit` does that.

    Use it to fuse chat models of one base; a select_topk around 0.1 is the paper's.
    """

    select_topk: Fraction = 1.0
    int8_mask: bool = False
    compat_: bool = False
    models: ClassVar[tuple[int, int | None]] = (1, None)
    quirks: ClassVar[bool] = True

    def statistic(self) -> Disagreements:
        """The variance that divides kept from dropped entries, and the mean squares."""
        return Disagreements(self.select_topk)

    def combine(self, out: Array, piece: Slice, measured: Disagreement, scale: float) -> None:
        """The masked, elected and weighted mean of one slice."""
        total = sum(measured.squares)
        alike = total < SMALLEST_SUM if self.compat_ else total == 0
        weights = [1.0 if alike else square / total for square in measured.squares]
        chances = measured.chances(piece)
        masks = [Mask() if chances is None else Mask(chance=chances) for _ in piece.inputs]
        combine_masked(out, piece, whole(piece, masks), weights, scale, vote="unweighted", normalize=True)

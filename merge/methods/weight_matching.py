"""Git Re-Basin: bring the units of models into one order, then average."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field

from graftwork.kernels.weighted_sum import weighted_sum
from graftwork.merge.method import Number, PerModel, merge_method
from graftwork.merge.slices.slices import Array, Slice


@merge_method("weight_matching", space="weight", cites="https://arxiv.org/abs/2209.04836")
@dataclass(frozen=True, slots=True)
class WeightMatching:
    """The weighted average of models whose units were first brought into the order of the first model's.

    weight:   the share of each model; the weights are divided by their sum
    ratio:    the share of each MLP's neurons that stay apart, each model's own; the output is larger by this share
    heads:    match attention heads too, and not only the neurons of MLPs
    residual: match the residual stream too (llama and its kin); all layers are then matched at once, in memory
    sweeps:   the most rounds over all groups of units

    Units are matched by their weights: of each group (an MLP's neurons; key and value heads with their query heads; the
    query heads of one key head among themselves; the residual stream) the permutation that maximises
    sum <w_1, P w_t> over the rows and columns that hold the group's units, group after group in an order drawn from the
    recipe's seed, until a sweep gains nothing. A permuted model computes what it did. The first model is the reference
    for all others. Units are declared for llama, mistral, qwen2, qwen3, gemma, gemma2, bert and its kin, and gpt2.

    paper: Git Re-Basin, algorithm 1, which stops as this does; units whose match gains nothing keep their places.
    PLeaS (arXiv:2407.02447), for `ratio` above 0: the int(ratio * n) neurons of each MLP whose weights have the
    smallest dot product with their counterpart's stay apart: [averaged | first model's | second model's]. The layer
    that reads them takes half of what either model's gives, and its bias is averaged; in the authors' code such columns
    are not halved in the last layer and some biases stay the first model's. Its least squares on activations are not
    part of this: it needs no data.
    mergekit: has no such method.

    Use it for models that were trained apart from different starts; fine-tunes of one base lie in its order already,
    and matching then changes little.
    """

    weight: PerModel[Number] = (1.0,)
    ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    heads: bool = True
    residual: bool = False
    sweeps: Annotated[int, Field(ge=1)] = 100
    models: ClassVar[tuple[int, int | None]] = (2, None)
    matched: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if sum(self.weight) == 0:
            raise ValueError("the weights sum to 0 and cannot be normalised")

    def statistic(self) -> None:
        """Nothing beyond what the matching finds."""

    def combine(self, out: Array, piece: Slice, measured: None, scale: float) -> None:
        """One weighted sum of the matched models."""
        total = sum(self.weight)
        weighted_sum(out, piece.inputs, [weight / total for weight in self.weight], None, scale)

"""PEFT's factor-wise TIES of adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graftwork.adapters.variants.lora import LoraFactors, RawFactors
from graftwork.merge.lora.factors import Election, Prune, combine_factors, common_rank, keep_largest
from graftwork.merge.method import Fraction, Number, PerModel, merge_method


@merge_method("lora_factors_ties", space="adapter", cites="https://arxiv.org/abs/2306.01708")
@dataclass(frozen=True, slots=True)
class LoraFactorsTies:
    """PEFT's `ties`: trim, elect and average the A and the B factors, each by itself.

    weight:               the weight of each adapter
    density:              the fraction of the entries of each factor that is kept
    majority_sign_method: `total` elects the sign of the sum, `frequency` the sign of most entries; a draw is plus

    Of each A_t and B_t the int(density * n) largest entries are kept; a sign is elected from the unweighted
    entries; those that agree, weighted by sqrt|w s| (for A with the sign of w s), are added and divided by their
    number.

    This is not a merge of the products: B A of the result holds the cross terms b_s a_t of different adapters,
    which none of them was trained with, and signs are elected among factors, whose units are in no common order.
    `ties` over adapters works on the products.
    PEFT: `add_weighted_adapter(combination_type="ties")`, bit for bit where no two magnitudes at the threshold are
    equal (equal ones are kept by lowest index here; torch.topk leaves that open). An adapter that lacks a module is
    left out there; all ranks of a module must be equal. A single adapter is neither trimmed nor elected.

    Use it only to get the weights that PEFT gives.
    """

    weight: PerModel[Number] = (1.0,)
    density: Fraction = 1.0
    majority_sign_method: Election = "total"
    models: ClassVar[tuple[int, int | None]] = (1, None)
    raw: ClassVar[bool] = True

    def rank(self, ranks: Sequence[int]) -> int:
        """The rank that all adapters have."""
        return common_rank(ranks)

    def prune(self) -> Prune:
        """What is kept of a factor."""
        return keep_largest(self.density)

    def merge(self, module: str, factors: Sequence[RawFactors | None], seed: int) -> LoraFactors:
        """A and B by themselves."""
        return combine_factors(
            factors,
            self.weight,
            module=module,
            seed=seed,
            prune=self.prune(),
            elect=self.majority_sign_method,
        )

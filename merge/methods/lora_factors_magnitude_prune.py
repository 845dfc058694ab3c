"""PEFT's factor-wise magnitude pruning of adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graftwork.adapters.variants.lora import LoraFactors, RawFactors
from graftwork.merge.lora.factors import Prune, combine_factors, common_rank, keep_largest
from graftwork.merge.method import Fraction, Number, PerModel, merge_method


@merge_method(
    "lora_factors_magnitude_prune",
    space="adapter",
    cites="https://huggingface.co/docs/peft/developer_guides/model_merging",
)
@dataclass(frozen=True, slots=True)
class LoraFactorsMagnitudePrune:
    """PEFT's `magnitude_prune`: keep the largest entries of the A and of the B factors and add them, each by itself.

    weight:  the weight of each adapter
    density: the fraction of the entries of each factor that is kept

    A = sum sign(w s) sqrt|w s| top(A_t) and B = sum sqrt|w s| top(B_t), top keeping the int(density * n) largest
    entries.

    This is not a merge of the products: B A of the result holds the cross terms b_s a_t of different adapters,
    which none of them was trained with, and small factors may make large changes. `ties` or `breadcrumbs` over
    adapters work on the products.
    PEFT: `add_weighted_adapter(combination_type="magnitude_prune")`, bit for bit where no two magnitudes at the
    threshold are equal (equal ones are kept by lowest index here; torch.topk leaves that open). An adapter that
    lacks a module is left out there; all ranks of a module must be equal. A single adapter is not pruned.

    Use it only to get the weights that PEFT gives.
    """

    weight: PerModel[Number] = (1.0,)
    density: Fraction = 1.0
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
        return combine_factors(factors, self.weight, module=module, seed=seed, prune=self.prune())

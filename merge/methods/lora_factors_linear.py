"""PEFT's factor-wise sum of adapters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graftwork.adapters.variants.lora import LoraFactors, RawFactors
from graftwork.merge.lora.factors import combine_factors, common_rank
from graftwork.merge.method import Number, PerModel, merge_method


@merge_method("lora_factors_linear", space="adapter", cites="https://arxiv.org/abs/2106.09685")
@dataclass(frozen=True, slots=True)
class LoraFactorsLinear:
    """PEFT's `linear`: weighted sums of the A and of the B factors, each by itself.

    weight: the weight of each adapter

    A = sum sign(w s) sqrt|w s| A_t and B = sum sqrt|w s| B_t, with each adapter's scale s.

    This is not a merge of the products: B A of the result holds the cross terms b_s a_t of different adapters,
    which none of them was trained with, so that it equals the sum of the changes for one adapter only. lora_cat is
    the exact sum.
    PEFT: `add_weighted_adapter(combination_type="linear")`, bit for bit, but for its error with rsLoRA (lora_cat
    tells). An adapter that lacks a module is left out there; all ranks of a module must be equal.

    Use it only to get the weights that PEFT gives.
    """

    weight: PerModel[Number] = (1.0,)
    models: ClassVar[tuple[int, int | None]] = (1, None)
    raw: ClassVar[bool] = True

    def rank(self, ranks: Sequence[int]) -> int:
        """The rank that all adapters have."""
        return common_rank(ranks)

    def merge(self, module: str, factors: Sequence[RawFactors | None], seed: int) -> LoraFactors:
        """A and B by themselves."""
        return combine_factors(factors, self.weight, module=module, seed=seed)

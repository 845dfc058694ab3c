"""PEFT's factor-wise DARE of adapters."""

from __future__ import annotations

from dataclasses import dataclass

from graftwork.merge.lora.factors import Prune, keep_random
from graftwork.merge.method import merge_method
from graftwork.merge.methods.lora_factors_magnitude_prune import LoraFactorsMagnitudePrune


@merge_method("lora_factors_dare_linear", space="adapter", cites="https://arxiv.org/abs/2311.03099")
@dataclass(frozen=True, slots=True)
class LoraFactorsDareLinear(LoraFactorsMagnitudePrune):
    """PEFT's `dare_linear`: drop random entries of the A and of the B factors, rescale and add them, each by itself.

    weight:  the weight of each adapter
    density: the probability with which an entry of a factor is kept

    A = sum sign(w s) sqrt|w s| A_t m / density and B = sum sqrt|w s| B_t m' / density, with random masks m and m'.

    This is not a merge of the products: B A of the result holds the cross terms b_s a_t of different adapters,
    which none of them was trained with, and what is dropped are factors, which changes whole rows and columns of
    the change. `dare_linear` over adapters works on the products.
    PEFT: `add_weighted_adapter(combination_type="dare_linear")` with other random numbers: here they are keyed by
    the seed, the factor's name and the adapter's position. An adapter that lacks a module is left out there; all
    ranks of a module must be equal. A single adapter is not pruned.

    Use it only to get the weights that PEFT gives.
    """

    def prune(self) -> Prune:
        """What is kept of a factor."""
        return keep_random(self.density)

"""PEFT's factor-wise DARE with TIES of adapters."""

from __future__ import annotations

from dataclasses import dataclass

from graftwork.merge.lora.factors import Prune, keep_random
from graftwork.merge.method import merge_method
from graftwork.merge.methods.lora_factors_ties import LoraFactorsTies


@merge_method("lora_factors_dare_ties", space="adapter", cites="https://arxiv.org/abs/2311.03099")
@dataclass(frozen=True, slots=True)
class LoraFactorsDareTies(LoraFactorsTies):
    """PEFT's `dare_ties`: drop random entries of the A and of the B factors, then elect and average, each by itself.

    weight:               the weight of each adapter
    density:              the probability with which an entry of a factor is kept
    majority_sign_method: `total` elects the sign of the sum, `frequency` the sign of most entries; a draw is plus

    Entries of each A_t and B_t are kept with probability density and divided by it; the rest as in
    lora_factors_ties.

    This is not a merge of the products: B A of the result holds the cross terms b_s a_t of different adapters,
    which none of them was trained with, and signs are elected among factors, whose units are in no common order.
    `dare_ties` over adapters works on the products.
    PEFT: `add_weighted_adapter(combination_type="dare_ties")` with other random numbers: here they are keyed by the
    seed, the factor's name and the adapter's position. An adapter that lacks a module is left out there; all ranks
    of a module must be equal. A single adapter is neither pruned nor elected.

    Use it only to get the weights that PEFT gives.
    """

    def prune(self) -> Prune:
        """What is kept of a factor."""
        return keep_random(self.density)

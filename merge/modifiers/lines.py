"""LiNeS (arXiv:2410.17146): scale a task vector linearly with depth."""

from __future__ import annotations

from dataclasses import dataclass

from graftwork.errors import InvalidRecipe
from graftwork.merge.models.layers import Block
from graftwork.merge.recipe.recipe import Recipe


@dataclass(frozen=True, slots=True)
class Lines:
    """The coefficient alpha + beta * l / (L - 1) of block l of L; alpha outside the blocks; alpha + beta where L = 1.

    alpha None stands for the paper's choice for merged vectors: (|sum_t tau_t|_1 / |tau_merged|_1) / T over the model.
    """

    alpha: float | None
    beta: float

    def coefficient(self, block: Block | None, alpha: float) -> float:
        """The factor of the merged delta of a tensor, with `alpha` given or measured."""
        return alpha if block is None else alpha + self.beta * block.depth


def find_lines(recipe: Recipe) -> Lines | None:
    """The recipe's `lines` modifier; raises InvalidRecipe when there are several."""
    entries = [entry.lines for entry in recipe.modifiers if entry.lines is not None]
    if len(entries) > 1:
        raise InvalidRecipe(where="modifiers[1]", reason="lines can be given once")
    if not entries:
        return None
    return Lines(None if entries[0].alpha == "auto" else entries[0].alpha, entries[0].beta)

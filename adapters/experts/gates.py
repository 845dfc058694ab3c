"""What multiplies the rank rows of a routed expert set, row by row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graftwork.adapters.experts.choice import Choice


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Which unit of the router each rank row takes its weight from; -1 stands for a weight of 1, always."""

    units: Tensor
    """[rank] int64; the constant 1 is at the number of units."""
    has_constant: bool

    @classmethod
    def of(cls, units: list[int], count: int, device: torch.device) -> Columns:
        """From the unit of every rank row, -1 for none of the `count` units."""
        placed = [count if unit < 0 else unit for unit in units]
        return cls(torch.tensor(placed, dtype=torch.int64, device=device), any(unit < 0 for unit in units))

    def spread(self, weights: Tensor) -> Tensor:
        """From the weights of the units [rows, units] to those of the rank rows [rows, rank]."""
        if self.has_constant:
            weights = torch.cat([weights, weights.new_ones((len(weights), 1))], dim=1)
        return weights.index_select(1, self.units)


@dataclass(frozen=True, slots=True, eq=False)
class TokenGate:
    """Routes every row by its own input: scores = x @ weight.T, or their absolute values (Arrow)."""

    weight: Tensor
    """[units, in] float32: a linear router, or a prototype for each unit."""
    bias: Tensor | None
    """[units] float32"""
    is_arrow: bool
    choice: Choice
    columns: Columns

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return self.weight.nbytes + self.columns.units.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def scores(self, x: Tensor) -> Tensor:
        """[rows, in] -> [rows, units] float32."""
        scores = x.float() @ self.weight.t()
        return scores.abs() if self.is_arrow else scores

    def settle(self, scores: Tensor) -> Tensor:
        """From scores [rows, units] to the factors of the rank rows [rows, rank]."""
        return self.columns.spread(self.choice.weigh(scores, self.bias))

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in] -> [rows, rank] float32."""
        return self.settle(self.scores(x))


@dataclass(frozen=True, slots=True, eq=False)
class SetRouter:
    """One router for all modules, of the prompt: Linear, LeakyReLU(0.01), ..., Linear (Twin-Merging, section 3.3)."""

    layers: tuple[tuple[Tensor, Tensor | None], ...]
    """weight [out, in] and bias [out], float32"""
    choice: Choice

    def weigh(self, hidden: Tensor) -> Tensor:
        """The weights [experts] for the mean of the last hidden states over the prompt, [in] float32."""
        values = hidden.float()[None]
        for weight, bias in self.layers[:-1]:
            values = torch.nn.functional.leaky_relu(torch.nn.functional.linear(values, weight, bias))
        weight, bias = self.layers[-1]
        return self.choice.weigh(torch.nn.functional.linear(values, weight, bias))[0]


@dataclass(frozen=True, slots=True, eq=False)
class SetGate:
    """A module's share of a set router's weights; until a prompt was routed, all experts have the same weight."""

    router: SetRouter
    columns: Columns

    @property
    def nbytes(self) -> int:
        """Bytes of its own tensors; the router is shared by all modules."""
        return self.columns.units.nbytes

    def settle(self, weights: Tensor) -> Tensor:
        """From the experts' weights [experts] to the factors of the rank rows [rank]."""
        return self.columns.spread(weights[None])[0]

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in] -> [rows, rank] float32."""
        count = self.router.layers[-1][0].shape[0]
        return self.settle(x.new_full((count,), 1 / count, dtype=torch.float32)).expand(len(x), -1)


@dataclass(frozen=True, slots=True, eq=False)
class FixedGate:
    """The same factors for every row."""

    factors: Tensor
    """[rank] float32"""

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return self.factors.nbytes

    def __call__(self, x: Tensor) -> Tensor:
        """[rows, in] -> [rows, rank] float32."""
        return self.factors.expand(len(x), -1)

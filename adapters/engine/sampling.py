"""From logits to the next token."""

from __future__ import annotations

from collections.abc import Sequence as Rows

import torch
from torch import Tensor

from graftwork.adapters.engine.sequence import Sampling


class Sampler:
    """Draws one sequence's tokens. Its random numbers are its own, so a seed gives the same tokens in any batch."""

    def __init__(self, sampling: Sampling) -> None:
        self.greedy = sampling.temperature == 0 or sampling.top_k == 1
        self._sampling = sampling
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(sampling.seed)

    def weights(self, logits: Tensor) -> Tensor:
        """Unnormalised probabilities: temperature, then top-k, then top-p (nucleus, arXiv:1904.09751), in that order.

        logits: [vocabulary], on any device -> [vocabulary] float64, on the CPU
        """
        weights = torch.softmax(logits.to("cpu", torch.float64) / self._sampling.temperature, dim=-1)
        return _keep_top_p(_keep_top_k(weights, self._sampling.top_k), self._sampling.top_p)

    def draw(self, logits: Tensor) -> int:
        """A token by its weight. logits: [vocabulary].

        The cumulative sum runs in vocabulary order and in float64: a rounding error in the logits then moves the choice
        only where the random number falls on a boundary.
        """
        weights = self.weights(logits)
        cumulative = weights.cumsum(0)
        point = torch.rand((), generator=self._generator, dtype=torch.float64) * cumulative[-1]
        return min(int(torch.searchsorted(cumulative, point, right=True)), int(weights.nonzero()[-1]))


def _keep_top_k(weights: Tensor, k: int) -> Tensor:
    if k == 0 or k >= weights.numel():
        return weights
    kept = torch.topk(weights, k)
    return torch.zeros_like(weights).scatter_(0, kept.indices, kept.values)


def _keep_top_p(weights: Tensor, p: float) -> Tensor:
    """The smallest set of the likeliest tokens whose share is at least `p`; the others get 0."""
    if p >= 1.0:
        return weights
    ordered, order = weights.sort(descending=True, stable=True)
    before = ordered.cumsum(0) - ordered
    ordered[before >= p * ordered.sum()] = 0.0
    return torch.zeros_like(weights).scatter_(0, order, ordered)


def choose(logits: Tensor, samplers: Rows[Sampler]) -> list[int | None]:
    """The next token of each row; None where the logits are not finite.

    logits: [rows, vocabulary]; a row's sampler is at its index.
    """
    best = logits.max(dim=-1)
    tokens: list[int | None] = best.indices.tolist()
    for row, finite in enumerate(best.values.isfinite().tolist()):
        if not finite:
            tokens[row] = None
        elif not samplers[row].greedy:
            tokens[row] = samplers[row].draw(logits[row])
    return tokens

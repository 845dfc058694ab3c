"""From logits to the next token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch
from torch import Tensor

from graftwork.adapters.engine.generation import Logprob
from graftwork.adapters.engine.sequence import Sampling


@dataclass(frozen=True, slots=True)
class Choice:
    """A sampled token."""

    token: int
    logprob: Logprob | None = None


class Sampler:
    """Draws one sequence's tokens. Its random numbers are its own, so a seed gives the same tokens in any batch."""

    def __init__(self, sampling: Sampling, index: int = 0, prompt: Rows[int] = ()) -> None:
        """`index`: which choice of its request; choice i draws what the seed plus i gives."""
        self.greedy = sampling.temperature == 0 or sampling.top_k == 1
        self.logprobs = sampling.logprobs
        self._sampling = sampling
        self._seen: Counter[int] = Counter()
        self._has_penalty = sampling.presence_penalty != 0 or sampling.frequency_penalty != 0
        self._repeatable: set[int] | None = set(prompt) if sampling.repetition_penalty != 1 else None
        self._generator = torch.Generator()
        if sampling.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed((sampling.seed + index + 2**63) % 2**64 - 2**63)

    @property
    def changes_logits(self) -> bool:
        """Whether `adjust` does anything."""
        return bool(self._sampling.logit_bias or self._repeatable) or (self._has_penalty and bool(self._seen))

    def record(self, token: int) -> None:
        """Count a generated token, which later ones may be penalised for."""
        if self._has_penalty:
            self._seen[token] += 1
        if self._repeatable is not None:
            self._repeatable.add(token)

    def adjust(self, logits: Tensor) -> Tensor:
        """A copy with repetitions made less likely, biases added and penalties taken away. [vocabulary] -> the same."""
        adjusted = logits.clone()
        if self._repeatable:
            known = torch.tensor(sorted(self._repeatable), device=logits.device)
            penalty = self._sampling.repetition_penalty
            adjusted[known] = torch.where(logits[known] < 0, logits[known] * penalty, logits[known] / penalty)
        if self._sampling.logit_bias:
            _add(adjusted, list(self._sampling.logit_bias), list(self._sampling.logit_bias.values()))
        if self._has_penalty and self._seen:
            presence, frequency = self._sampling.presence_penalty, self._sampling.frequency_penalty
            _add(adjusted, list(self._seen), [-presence - frequency * count for count in self._seen.values()])
        return adjusted

    def weights(self, logits: Tensor) -> Tensor:
        """Unnormalised probabilities: temperature, top-k, top-p (nucleus, arXiv:1904.09751), min-p (arXiv:2407.01082).

        In that order. logits: [vocabulary], on any device -> [vocabulary] float64, on the CPU
        """
        weights = torch.softmax(logits.to("cpu", torch.float64) / self._sampling.temperature, dim=-1)
        weights = _keep_top_p(_keep_top_k(weights, self._sampling.top_k), self._sampling.top_p)
        if self._sampling.min_p > 0:
            weights[weights < self._sampling.min_p * weights.max()] = 0.0
        return weights

    def draw(self, logits: Tensor) -> int:
        """A token by its weight. logits: [vocabulary].

        The cumulative sum runs in vocabulary order and in float64: a rounding error in the logits then moves the choice
        only where the random number falls on a boundary.
        """
        weights = self.weights(logits)
        cumulative = weights.cumsum(0)
        point = torch.rand((), generator=self._generator, dtype=torch.float64) * cumulative[-1]
        return min(int(torch.searchsorted(cumulative, point, right=True)), int(weights.nonzero()[-1]))


def _add(logits: Tensor, tokens: list[int], amounts: list[float]) -> None:
    added = torch.tensor(amounts, dtype=torch.float64).to(logits.device, logits.dtype)
    logits.index_add_(0, torch.tensor(tokens, device=logits.device), added)


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


def _logprob(logits: Tensor, token: int, top: int) -> Logprob:
    logs = torch.log_softmax(logits.float(), dim=-1)
    best = torch.topk(logs, min(top, logs.numel()))
    return Logprob(token, float(logs[token]), tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True)))


def choose(logits: Tensor, samplers: Rows[Rows[Sampler]]) -> list[list[Choice | None]]:
    """The next tokens of each row, one for each of its samplers; None where the logits are not finite.

    logits: [rows, vocabulary]; a row's samplers are at its index.
    """
    best = logits.max(dim=-1)
    finite, greedy = best.values.isfinite().tolist(), best.indices.tolist()
    return [
        [_choice(logits[row], greedy[row], sampler) if finite[row] else None for sampler in of_row]
        for row, of_row in enumerate(samplers)
    ]


def _choice(logits: Tensor, best: int, sampler: Sampler) -> Choice:
    adjusted = sampler.adjust(logits) if sampler.changes_logits else logits
    if sampler.greedy:
        best = best if adjusted is logits else int(adjusted.argmax())
    token = best if sampler.greedy else sampler.draw(adjusted)
    return Choice(token, None if sampler.logprobs is None else _logprob(logits, token, sampler.logprobs))

"""DoRA (arXiv:2402.09353): a magnitude for every output, and the direction of the base's weight changed by LoRA."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graftwork.adapters.variants.effect import Effect, Matrix, product
from graftwork.adapters.variants.factors import Factor, LoraFactors

ROWS = 4096
"""Rows of a change that are formed at a time."""


@dataclass(frozen=True, slots=True)
class Dora:
    """V = W0 + scale B A; the weight becomes m / |V| V, with the norm of each row (section 4.1, and PEFT's dora.py)."""

    pair: LoraFactors
    """The scale is part of b."""
    magnitude: Factor
    """[out]"""

    def delta(self, w0: Matrix) -> Matrix:
        """[out, in]"""
        changed = w0 + product(self.pair, w0)
        delta: Matrix = self._scale(w0)[:, None] * changed - w0
        return delta

    def factors(self, w0: Matrix | None) -> LoraFactors | None:
        """None: the change has full rank."""
        return None

    def effect(self, w0: Matrix, b0: Matrix | None) -> Effect:
        """Low rank, then a scale of the output without its bias."""
        return Effect(low_rank=self.pair, scale=self._scale(w0).astype(np.float32))

    def _scale(self, w0: Matrix) -> Matrix:
        """[out]: m / |V|"""
        norms = [
            np.linalg.norm(
                w0[at : at + ROWS] + product(LoraFactors(self.pair.a, self.pair.b[at : at + ROWS]), w0), axis=1
            )
            for at in range(0, len(w0), ROWS)
        ]
        scale: Matrix = self.magnitude.astype(w0.dtype) / np.concatenate(norms)
        return scale


@dataclass(frozen=True, slots=True)
class DoraEmbedding:
    """DoRA on an embedding: the norm of each of its dimensions, over the vocabulary (PEFT's DoraEmbeddingLayer)."""

    pair: LoraFactors
    """a [rank, vocabulary], b [dim, rank] with the scale."""
    magnitude: Factor
    """[dim]"""

    def delta(self, w0: Matrix) -> Matrix:
        """[vocabulary, dim]"""
        changed = w0 + self.pair.a.T.astype(w0.dtype) @ self.pair.b.T.astype(w0.dtype)
        delta: Matrix = self._scale(w0) * changed - w0
        return delta

    def factors(self, w0: Matrix | None) -> LoraFactors | None:
        """None: the change has full rank."""
        return None

    def effect(self, w0: Matrix, b0: Matrix | None) -> Effect:
        """Low rank of an embedding, then a scale of its output."""
        return Effect(embedding=self.pair, scale=self._scale(w0).astype(np.float32))

    def _scale(self, w0: Matrix) -> Matrix:
        """[dim]"""
        squares = np.zeros(w0.shape[1], w0.dtype)
        for at in range(0, len(w0), ROWS):
            rows = self.pair.a[:, at : at + ROWS].T.astype(w0.dtype)
            squares += ((w0[at : at + ROWS] + rows @ self.pair.b.T.astype(w0.dtype)) ** 2).sum(axis=0)
        scale: Matrix = self.magnitude.astype(w0.dtype) / np.sqrt(squares)
        return scale

"""From a router's scores to the weights of the experts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graftwork.registry.formats.experts import Router


@dataclass(frozen=True, slots=True)
class Choice:
    """How scores become weights; every field is one of `registry.formats.experts.Router`.

        s = scores / temperature                  (+ bias before, when the bias is of the logits)
        g = softmax(s) or sigmoid(s)              (+ bias, when the bias is of the gates: SMoRA as published)
        w = g on the top_k, 0 elsewhere           (ranked by g + bias, when the bias is of the selection)
        w = w / sum(w)                            when it renormalises
        weights = gate_scale * w

    Softmax with renormalisation is softmax over the chosen ones (MoLA, Arrow). All of it is in float32.
    """

    activation: str
    top_k: int | None
    temperature: float
    renormalise: bool
    gate_scale: float
    bias: str

    @classmethod
    def of(cls, router: Router) -> Choice:
        """The choice that a router makes."""
        return cls(
            router.activation, router.top_k, router.temperature, router.renormalise, router.gate_scale, router.bias
        )

    def weigh(self, scores: Tensor, bias: Tensor | None = None) -> Tensor:
        """The weights [rows, units] of scores [rows, units] and a bias [units]; of equal scores the first wins."""
        logits = scores.float()
        if bias is not None and self.bias == "logits":
            logits = logits + bias
        logits = logits / self.temperature
        gates = torch.softmax(logits, dim=-1) if self.activation == "softmax" else torch.sigmoid(logits)
        ranking = logits
        if bias is not None and self.bias != "logits":
            ranking = gates + bias
            gates = ranking if self.bias == "gates" else gates
        units = gates.shape[-1]
        if self.top_k is not None and self.top_k < units:
            best = ranking.sort(dim=-1, descending=True, stable=True).indices[..., : self.top_k]
            gates = torch.zeros_like(gates).scatter(-1, best, gates.gather(-1, best))
        if self.renormalise:
            total = gates.sum(dim=-1, keepdim=True)
            gates = gates / torch.where(total == 0, torch.ones_like(total), total)
        return gates * self.gate_scale

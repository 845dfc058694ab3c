"""A module whose parameters an adapter brings with it (PEFT's modules_to_save)."""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from graftwork.adapters.changes import Factors
from graftwork.adapters.forms.form import Passing


@dataclass(frozen=True, slots=True)
class Replaced(Passing):
    """The output of a module of the same kind with its own weight and bias: what the base computed is dropped."""

    module: nn.Module
    """A copy without hooks."""
    low_rank: Factors | None
    """Added anew, as it was added to what is dropped."""

    def after(self, x: Tensor, y: Tensor, low_rank_added: bool) -> Tensor:
        """x: [rows, in], or [rows] ids"""
        own: Tensor = self.module(x)
        return own if self.low_rank is None else own + (x @ self.low_rank.a.t()) @ self.low_rank.b


def replaced(module: nn.Module, weight: Tensor, bias: Tensor | None, low_rank: Factors | None) -> Replaced:
    """`module` with another `weight` (as in `Change.weight`), and another `bias` unless that is None."""
    if isinstance(module, Conv1D):
        weight = weight.t().contiguous()
    parameters = {"weight": weight} | ({} if bias is None else {"bias": bias})
    own = copy.copy(module)
    own.__dict__.pop("forward", None)
    own._forward_hooks, own._forward_pre_hooks = OrderedDict(), OrderedDict()
    own._parameters = {
        name: torch.nn.Parameter(parameters[name], requires_grad=False) if name in parameters else parameter
        for name, parameter in module._parameters.items()
    }
    return Replaced(own, low_rank)

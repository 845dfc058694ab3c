"""The parameters of a loaded transformers model, as adapters name them."""

from __future__ import annotations

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D


class ModelWeights:
    """`BaseWeights` of a model: every module by its path in `named_modules`."""

    def __init__(self, model: nn.Module) -> None:
        self._modules: dict[str, nn.Module] = dict(model.named_modules())

    def module(self, module: str) -> nn.Module:
        """The module itself. Raises KeyError."""
        return self._modules[module]

    def tied(self, module: str) -> tuple[str, ...]:
        """The other modules whose weight is the very same parameter."""
        weight = getattr(self._modules[module], "weight", None)
        return tuple(
            name
            for name, other in self._modules.items()
            if weight is not None and name != module and getattr(other, "weight", None) is weight
        )

    def weight(self, module: str) -> Tensor:
        """[out, in] of a linear layer (also of a Conv1D: a transposed view), [vocabulary, dim], or [dim] of a norm.

        Raises KeyError for a module that is not there or has no weight.
        """
        found = self._modules[module]
        weight = getattr(found, "weight", None)
        if not isinstance(weight, Tensor):
            raise KeyError(module)
        detached = weight.detach()
        return detached.t() if isinstance(found, Conv1D) else detached

    def takes_any_width(self, module: str) -> bool:
        """Never."""
        return False

    def bias(self, module: str) -> Tensor | None:
        """[out]; None for a module without a bias. Raises KeyError."""
        bias = getattr(self._modules[module], "bias", None)
        return bias.detach() if isinstance(bias, Tensor) else None

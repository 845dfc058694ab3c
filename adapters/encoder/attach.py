"""Adapters of an encoder, whose modules have two names: with the classification head around them, or without."""

from __future__ import annotations

from torch import Tensor, nn

from graftwork.adapters.attachment.attach import Attachments
from graftwork.adapters.encoder.checkpoint import POOLER, EncoderCheckpoint
from graftwork.adapters.encoder.heads import Heads, head_modules
from graftwork.registry.formats.encoders import TRUNKS


class EncoderAttachments(Attachments):
    """Takes `encoder.layer.0...` and `bert.encoder.layer.0...` for the same module, whichever the model has.

    What an adapter changes of a pooler that the model does not have is left out: no vector and no label comes from it.
    """

    def __init__(self, checkpoint: EncoderCheckpoint, heads: Heads, rows: int) -> None:
        super().__init__(checkpoint.model, rows, heads=head_modules(checkpoint).values())
        self._last = heads.last
        self._trunk = TRUNKS.get(str(checkpoint.model.config.model_type), checkpoint.model.base_model_prefix) + "."

    def module(self, module: str) -> nn.Module:
        """A module by either name. Raises KeyError."""
        return super().module(self._own(module))

    def tied(self, module: str) -> tuple[str, ...]:
        """By either name. Raises KeyError."""
        return super().tied(self._own(module))

    def weight(self, module: str) -> Tensor:
        """By either name. Raises KeyError."""
        return super().weight(self._own(module))

    def bias(self, module: str) -> Tensor | None:
        """By either name. Raises KeyError."""
        return super().bias(self._own(module))

    def takes_any_width(self, module: str) -> bool:
        """Whether it is the last layer of the head: adapters have labels of their own."""
        return self._own(module) == self._last

    def name_of(self, module: str) -> str | None:
        """The name that the model has it under; None for what is left out."""
        own = self._own(module)
        return own if own in self.modules or not self._is_pooler(own) else None

    def _own(self, module: str) -> str:
        other = module.removeprefix(self._trunk) if module.startswith(self._trunk) else self._trunk + module
        return other if module not in self.modules and other in self.modules else module

    def _is_pooler(self, module: str) -> bool:
        return module.removeprefix(self._trunk).split(".")[0] == POOLER

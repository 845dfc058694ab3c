"""Classification heads: the checkpoint's own, and those that adapters bring, each with labels of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from graftwork.adapters.attachment.resident import Resident
from graftwork.adapters.encoder.checkpoint import POOLER, EncoderCheckpoint


class Heads:
    """What can be classified with, and the logits of each text."""

    def __init__(self, checkpoint: EncoderCheckpoint) -> None:
        linears = {name: head for name, head in head_modules(checkpoint).items() if isinstance(head, nn.Linear)}
        outside = [name for name in linears if checkpoint.prefix and not name.startswith(checkpoint.prefix)]
        self.last = outside[-1] if outside else None
        """The path of the layer that has a row for each label; None in a model without a head."""
        self._missing = checkpoint.missing
        self._last = linears[self.last] if self.last is not None else None

    def labels(self, resident: Resident | None) -> int:
        """How many labels the adapter's head has, or the base's (None); 0 in a model without a head."""
        if self._last is None or self.last is None:
            return 0
        form = resident.forms.get(self.last) if resident is not None else None
        if form is None:
            return self._last.out_features
        weight = self._last.weight
        x, y = weight.new_zeros(1, self._last.in_features), weight.new_zeros(1, self._last.out_features)
        with torch.inference_mode():
            return form.after(x, y, low_rank_added=True).shape[-1]

    def missing(self, resident: Resident | None) -> list[str]:
        """The modules of the head that neither the checkpoint nor the adapter has weights for, sorted."""
        return sorted(self._missing - (resident.forms.keys() if resident is not None else frozenset()))

    def split(self, logits: Tensor, aside: Mapping[str, Mapping[int, Tensor]], slots: Sequence[int]) -> list[Tensor]:
        """The logits of each text, float32 [labels].

        logits: [texts, labels of the base]
        aside:  `Attachments.aside`: the logits of adapters that have another number of labels
        slots:  of each text
        """
        rows = list(logits.float().cpu())
        for slot, own in aside.get(self.last or "", {}).items():
            places = [place for place, other in enumerate(slots) if other == slot]
            for place, row in zip(places, own.float().cpu(), strict=True):
                rows[place] = row
        return rows


def head_modules(checkpoint: EncoderCheckpoint) -> Mapping[str, nn.Module]:
    """The modules that see a row a text and not a row a token, by path, in the order of the model."""
    prefix = checkpoint.prefix
    pooler = f"{prefix}{POOLER}"
    return {
        name: module
        for name, module in checkpoint.model.named_modules()
        if name
        and f"{name}." != prefix
        and ((prefix and not name.startswith(prefix)) or name == pooler or name.startswith(f"{pooler}."))
    }

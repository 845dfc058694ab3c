"""The model's forward over a packed batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from graftwork.adapters.attachment.attach import Attachments
from graftwork.adapters.attachment.gated import take_over_gated
from graftwork.adapters.attachment.norms import take_over_norms
from graftwork.adapters.attachment.rotary import take_over_rotary
from graftwork.adapters.engine import attention
from graftwork.adapters.engine.batch import Piece, pack
from graftwork.adapters.engine.cache import KeyValueCache


class Runner:
    """Runs one forward at a time over pieces of many sequences and adapters, on an unmodified transformers model."""

    def __init__(self, model: PreTrainedModel, cache: KeyValueCache, attachments: Attachments) -> None:
        """From here on the model's attention is packed attention, and its own `generate` is out of use."""
        self.model = model
        self.cache = cache
        self.attachments = attachments
        take_over_norms(model)
        take_over_gated(model)
        take_over_rotary(model)
        attention.register()
        model.set_attn_implementation(attention.NAME)

    def leave_threads_to_kernels(self) -> None:
        """Let torch, in this process, compute on one thread where the kernels' threads do the heavy part of a step.

        Two sets of threads, one of which spins while it waits, take each other's processors.
        """
        if self.attachments.multiplies_natively:
            torch.set_num_threads(1)

    @torch.inference_mode()
    def forward(self, pieces: Sequence[Piece]) -> Tensor:
        """The logits after the last token of each piece that wants them: [pieces that do, vocabulary].

        Pieces of the same adapter must stand side by side.
        """
        batch = pack(pieces, self.cache, self.attachments.device)
        with self.attachments.routed(batch.rows):
            output = self.model(
                input_ids=batch.input_ids,
                position_ids=batch.position_ids,
                use_cache=False,
                logits_to_keep=batch.logit_rows,
                cache_view=batch.cache_view,
            )
        logits: Tensor = output.logits[0]
        return logits

    def hidden(self, pieces: Sequence[Piece]) -> Tensor:
        """The last hidden states, before the output head, of every row of a forward over the pieces: [rows, hidden]."""
        seen: list[Tensor] = []
        inner = self.model.base_model
        hook = inner.register_forward_hook(lambda module, args, output: seen.append(output[0][0]))
        try:
            self.forward(pieces)
        finally:
            hook.remove()
        return seen[0]

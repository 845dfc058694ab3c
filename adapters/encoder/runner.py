"""The encoder's forward over a packed batch, and its classification head over the texts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graftwork.adapters.attachment.attach import Attachments
from graftwork.adapters.encoder import attention
from graftwork.adapters.encoder.attention import Spans
from graftwork.adapters.encoder.batch import Piece, pack
from graftwork.adapters.encoder.checkpoint import POOLER, EncoderCheckpoint
from graftwork.adapters.encoder.heads import Heads
from graftwork.adapters.encoder.positions import Positions


class Runner:
    """Runs one forward at a time over the texts of many requests and adapters, on an unmodified transformers model.

    A head (BERT's pooler, a classifier) wants the state of each text's first token, or their mean. Hooks keep the
    states of all rows and hand those on, as a batch of one-token texts: [texts, 1, width].
    """

    def __init__(
        self, checkpoint: EncoderCheckpoint, positions: Positions, attachments: Attachments, heads: Heads
    ) -> None:
        """From here on the model's attention is packed attention, and its own forward is out of use."""
        self.model = checkpoint.model
        self.positions = positions
        self.attachments = attachments
        self._pooling = checkpoint.pooling
        self._heads = heads
        self._accepted = set(inspect.signature(checkpoint.trunk.forward).parameters)
        attention.register()
        self.model.set_attn_implementation(attention.NAME)
        self._spans: Spans | None = None
        self._states: Tensor | None = None
        pooler = getattr(checkpoint.trunk, POOLER, None)
        if isinstance(pooler, nn.Linear):  # it is given the first row and not all of them
            checkpoint.trunk.get_submodule("encoder").register_forward_hook(self._keep)
        else:
            checkpoint.trunk.register_forward_hook(self._keep)
            if pooler is not None:
                pooler.register_forward_pre_hook(self._summarise)
        mean = getattr(self.model.config, "classifier_pooling", "cls") == "mean"
        self._summary: Callable[[Tensor, Spans], Tensor] = _means if mean else _firsts

    @torch.inference_mode()
    def forward(self, pieces: Sequence[Piece]) -> tuple[Tensor, list[Tensor] | None]:
        """The texts' vectors, float32 [pieces, width], and their logits, float32 [labels of the adapter or the base]
        each, all on the CPU; no logits from a model that has no head.
        """
        batch = pack(pieces, self.positions, self.attachments.device)
        inputs: dict[str, Any] = {"input_ids": batch.input_ids, "position_ids": batch.position_ids}
        if "token_type_ids" in self._accepted:
            inputs["token_type_ids"] = batch.token_type_ids
        self._spans = batch.spans
        try:
            with self.attachments.routed(batch.rows):
                output = self.model(**inputs, spans=batch.spans)
            assert self._states is not None  # noqa: S101  the hook has kept them
            packed = self._pooling.vectors(self._states, batch.spans).cpu()
        finally:
            self._spans = self._states = None
        back = torch.empty(len(batch.order), dtype=torch.long)
        back[torch.tensor(batch.order)] = torch.arange(len(batch.order))
        if not hasattr(output, "logits"):
            return packed[back], None
        logits = self._heads.split(output.logits, self.attachments.aside, batch.rows.head_slots.tolist())
        return packed[back], [logits[place] for place in back.tolist()]

    def _keep(self, module: nn.Module, args: object, output: Any) -> Any:
        if self._spans is None:
            return output
        states: Tensor = output.last_hidden_state[0]
        self._states = states
        output.last_hidden_state = self._summary(states, self._spans)[:, None]
        return output

    def _summarise(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        return None if self._spans is None else (self._summary(args[0][0], self._spans)[:, None], *args[1:])


def _firsts(states: Tensor, spans: Spans) -> Tensor:
    return states[spans.firsts]


def _means(states: Tensor, spans: Spans) -> Tensor:
    return torch.cat([states[run.rows].view(run.sequences, run.length, -1).mean(1) for run in spans.runs])

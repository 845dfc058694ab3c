"""A head and an embedding that are one tensor, and an adapter that changes them apart.

PEFT's adapters change what an embedding looks up or what a head computes, not the weight that the two share. So the
merged model needs a tensor for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from graftwork.merge.models.layers import HEAD, INPUT_EMBEDDING
from graftwork.merge.models.sources import Source, open_adapter
from graftwork.registry.formats.checkpoint import Located

USUAL_HEAD = "lm_head.weight"
CAUSAL = ("ForCausalLM", "LMHeadModel")
"""How the classes are called that have a head, tied to the embedding where none is stored."""


def untie(sources: Sequence[Source]) -> None:
    """Give the heads of all models tensors of their own, where the adapter of one changes head or embedding."""
    heads = {head for source in sources if (head := _adapted_head(source)) is not None}
    if len(heads) == 1 and all(_is_tied(source) for source in sources):
        for source in sources:
            _separate(source, *heads)


def _adapted_head(source: Source) -> str | None:
    """The tensor of the head, where the model's adapter changes it or the embedding."""
    if source.origin.adapter is None:
        return None
    parts = open_adapter(source.origin.adapter).parts.values()
    weights = [f"{part.module}.weight" for part in parts if part.tensors or any(r.endswith("weight") for r in part.own)]
    changed = [name for name in weights if HEAD.search(name) or INPUT_EMBEDDING.search(name)]
    return next((name for name in changed if HEAD.search(name)), USUAL_HEAD) if changed else None


def _is_tied(source: Source) -> bool:
    config: Mapping[str, Any] = source.layout.config or {}
    said = config.get("tie_word_embeddings")
    stores_a_head = any(HEAD.search(name) for name in source.layout.tensors)
    has_a_head = str((config.get("architectures") or [""])[0]).endswith(CAUSAL)
    return _embedding(source) is not None and (said is True or (said is None and has_a_head and not stores_a_head))


def _embedding(source: Source) -> Located | None:
    found = [at for name, at in source.layout.tensors.items() if INPUT_EMBEDDING.search(name)]
    return found[0] if len(found) == 1 else None


def _separate(source: Source, head: str) -> None:
    embedding, layout = _embedding(source), source.layout
    if embedding is not None:
        own = {head: replace(embedding, info=replace(embedding.info, name=head))}
        others = {name: at for name, at in layout.tensors.items() if not HEAD.search(name)}
        config = {**(layout.config or {}), "tie_word_embeddings": False}
        source.layout = replace(layout, tensors={**others, **own}, config=config)

"""Encoders as transformers saves them, and the names by which adapters know their modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from graftwork.registry.formats.adapters.layout import AdapterLayout

TRUNKS: Mapping[str, str] = {
    "albert": "albert",
    "bert": "bert",
    "camembert": "roberta",
    "data2vec-text": "data2vec_text",
    "distilbert": "distilbert",
    "electra": "electra",
    "ernie": "ernie",
    "eurobert": "model",
    "gte": "gte",
    "jina_embeddings_v3": "roberta",
    "modernbert": "model",
    "mpnet": "mpnet",
    "nomic_bert": "nomic_bert",
    "roberta": "roberta",
    "roberta-prelayernorm": "roberta_prelayernorm",
    "xlm-roberta": "roberta",
    "deberta": "deberta",
    "deberta-v2": "deberta",
}
"""By `model_type`: what the encoder is called inside a model with a head (transformers' `base_model_prefix`)."""
HEADS = frozenset({"classifier", "head", "pre_classifier", "score"})
"""What transformers calls the modules of classification heads. Adapters bring their own, with labels of their own."""
DECODERS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


class Shaped(Protocol):
    """Anything that has a tensor's shape."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes, outermost first."""


def is_encoder(config: Mapping[str, object]) -> bool:
    """Whether a checkpoint's `config.json` is of a model that reads a text in both directions."""
    architectures = config.get("architectures")
    named = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    return config.get("model_type") in TRUNKS and not config.get("is_decoder") and not named.endswith(DECODERS)


def names_for_adapters(
    adapter: AdapterLayout, tensors: Mapping[str, Shaped], config: Mapping[str, object]
) -> Mapping[str, Shaped]:
    """The tensors of a base by every name that an adapter may have for them.

    An encoder is saved with a head around it (`bert.encoder...`) or without (`encoder...`), and adapters are trained
    with or without; both names are in the result. A head that the adapter brings whole has the adapter's own shape.
    For a base that is no encoder the result is `tensors`.
    """
    if not is_encoder(config):
        return tensors
    trunk = TRUNKS[str(config["model_type"])] + "."
    known: dict[str, Shaped] = dict(tensors)
    for name, tensor in tensors.items():
        known.setdefault(name.removeprefix(trunk) if name.startswith(trunk) else trunk + name, tensor)
    for part in adapter.parts.values():
        if part.module.split(".")[0] in HEADS and not part.tensors:
            known.update({f"{part.module}.{role.removeprefix('base_layer.')}": info for role, info in part.own.items()})
    return known

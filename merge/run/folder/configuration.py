"""The config.json of the output: the donor's, with what the merge changed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graftwork.merge.models.tokens.vocabulary import Vocabulary, read_vocabulary
from graftwork.merge.plan.plan import Plan
from graftwork.merge.recipe.sections import DTYPES

CONFIG = "config.json"
GENERATION = "generation_config.json"
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
BY_LAYER = ("layer_types", "mlp_layer_types", "attention_layers", "no_rope_layers", "layers_block_type")
"""Lists with one entry a layer."""
TOKEN_NUMBERS = ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id", "decoder_start_token_id")
INNER = ("text_config",)
TIED = "tie_word_embeddings"
"""Becomes false where an adapter changes the embedding or the head alone."""
DTYPE_NAMES = {code: name for name, code in DTYPES.items()}


def configuration_of(plan: Plan, name: str) -> bytes | None:
    """The output's config.json or generation_config.json; None where the donor has none.

    The dtype is that of the tensors, where they are not stored as the donor's are. The number of layers, and lists
    with an entry a layer, are those of the slices. The size of the vocabulary, and the numbers of special tokens, are
    those of the tokenizer.
    """
    path = plan.donor.root / name
    if not path.is_file():
        return None
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if name == CONFIG:
        _set_dtype(settings, plan)
        if (plan.sources[0].layout.config or {}).get(TIED) is False:
            settings[TIED] = False
    for part in [settings, *(settings[key] for key in INNER if isinstance(settings.get(key), dict))]:
        if name == CONFIG:
            part.update({key: size for key, size in getattr(plan.sources[0], "changes", {}).items() if key in part})
        if name == CONFIG and plan.recipe.slices:
            _set_layers(part, plan)
        if name == CONFIG and plan.tokenizer.rows is not None and "vocab_size" in part:
            part["vocab_size"] = plan.tokenizer.rows
        _renumber_tokens(part, plan)
    return json.dumps(settings, indent=2).encode() + b"\n"


def _set_dtype(settings: dict[str, Any], plan: Plan) -> None:
    asked = plan.recipe.out_dtype or plan.recipe.dtype
    known = [key for key in ("dtype", "torch_dtype") if key in settings]
    if asked is not None:
        settings.update(dict.fromkeys(known or ["torch_dtype"], asked))
        return
    made = {tensor.dtype for tensor in plan.tensors if tensor.method is not None}
    stored = {tensor.operands[0].dtype for tensor in plan.tensors if tensor.method is not None}
    if known and len(made) == 1 and made != stored:
        settings.update(dict.fromkeys(known, DTYPE_NAMES[made.pop()]))


def _set_layers(part: dict[str, Any], plan: Plan) -> None:
    counts = [key for key in LAYER_COUNTS if isinstance(part.get(key), int)]
    if not counts:
        return
    before = part[counts[0]]
    for key in counts:
        part[key] = sum(section.length for section in plan.recipe.slices)
    for key in BY_LAYER:
        if isinstance(part.get(key), list) and len(part[key]) == before:
            part[key] = _by_layer(key, part[key], plan)


def _by_layer(key: str, donors: Sequence[Any], plan: Plan) -> list[Any]:
    """The entries of the layers that each slice takes from its first source."""
    configs = {source.label: source.layout.config or {} for source in plan.sources}
    entries: list[Any] = []
    for section in plan.recipe.slices:
        first, end = section.sources[0].layer_range
        config = configs.get(section.sources[0].model, {})
        own = _listed(config, key) or donors
        entries.extend(own[first:end] if len(own) >= end else donors[first:end])
    return entries


def _listed(config: Mapping[str, Any], key: str) -> Sequence[Any] | None:
    for part in (config, *(config.get(inner) for inner in INNER)):
        if isinstance(part, Mapping) and isinstance(part.get(key), list):
            listed: Sequence[Any] = part[key]
            return listed
    return None


def _renumber_tokens(part: dict[str, Any], plan: Plan) -> None:
    """Give special tokens the numbers that their texts have in the output's vocabulary."""
    wanted = plan.tokenizer.vocabulary
    donors = None if wanted is None else read_vocabulary(Path(plan.donor.root), plan.donor.label)
    if wanted is None or donors is None or donors.ids == wanted.ids:
        return
    for key in TOKEN_NUMBERS:
        value = part.get(key)
        if isinstance(value, list):
            part[key] = [_renumbered(number, donors, wanted) for number in value]
        elif value is not None:
            part[key] = _renumbered(value, donors, wanted)


def _renumbered(number: Any, donors: Vocabulary, wanted: Vocabulary) -> Any:
    token = next((token for token, known in donors.ids.items() if known == number), None)
    return wanted.ids.get(token, number) if token is not None else number

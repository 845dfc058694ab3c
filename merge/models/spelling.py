"""What models call their tensors: checkpoints of one architecture differ by the class and the release that saved them.

Some lack the prefix of the class with a head (`model.`, `bert.`, `transformer.`), some have the old names of a norm's
parameters, some hold buffers that are computed when a model is loaded, and some repeat a tied embedding as the head.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from graftwork.merge.models.layers import HEAD
from graftwork.merge.models.sources import Source
from graftwork.registry.formats.checkpoint import Located

OLD_NORM = re.compile(r"(?<=LayerNorm\.)(?:gamma|beta)$")
NEW_NORM = {"gamma": "weight", "beta": "bias"}
COMPUTED = re.compile(r"(?:^|\.)(?:rotary_emb\.inv_freq|position_ids|(?:attn|attention)\.masked_bias)$")
"""Buffers that releases of transformers have saved, and that all of them compute."""
CAUSAL_MASK = re.compile(r"(?:^|\.)(?:attn|attention)\.bias$")
"""Such a buffer where it is a table of all places by all places; elsewhere the bias of a layer."""


def agree(sources: Sequence[Source]) -> None:
    """Have every source call its tensors as the first does, and leave out what only some hold and none needs."""
    reference = sources[0].layout.tensors
    for source in sources[1:]:
        _rename(source, _names_by(reference, source.layout.tensors))
    shared = set.intersection(*(set(source.layout.tensors) for source in sources))
    heads_are_tied = _are_tied(sources)
    for source in sources:
        kept = {
            name: at
            for name, at in source.layout.tensors.items()
            if name in shared or not (_is_computed(at) or (heads_are_tied and HEAD.search(name)))
        }
        if len(kept) < len(source.layout.tensors):
            source.layout = replace(source.layout, tensors=kept)


def _names_by(reference: Mapping[str, Located], tensors: Mapping[str, Located]) -> Mapping[str, str]:
    """The reference's name of each tensor that it calls otherwise."""
    known = {_modern(name): name for name in reference}
    ours = {name: _modern(name) for name in tensors if name not in reference}
    if not ours:
        return {}
    modern = frozenset(ours.values())
    ahead, behind = _prefix(known.keys(), modern), _prefix(modern, known.keys())
    renamed = {}
    for name, plain in ours.items():
        wanted = known.get(plain) or known.get(ahead + plain) or known.get(plain.removeprefix(behind))
        if wanted is not None and wanted not in tensors:
            renamed[name] = wanted
    return renamed if len(set(renamed.values())) == len(renamed) else {}


def _rename(source: Source, names: Mapping[str, str]) -> None:
    if names:
        renamed = {names.get(name, name): at for name, at in source.layout.tensors.items()}
        tensors = {name: replace(at, info=replace(at.info, name=name)) for name, at in renamed.items()}
        source.layout = replace(source.layout, tensors=tensors)


def _modern(name: str) -> str:
    return OLD_NORM.sub(lambda match: NEW_NORM[match[0]], name)


def _prefix(longer: Collection[str], shorter: Collection[str]) -> str:
    """What stands before the names of `shorter` in `longer`, where it does before most of them; else nothing."""
    sample = max(shorter, key=len, default="")
    found = (name.removesuffix(sample) for name in longer if name.endswith(f".{sample}"))
    return next((prefix for prefix in found if 2 * sum(prefix + name in longer for name in shorter) > len(shorter)), "")


def _is_computed(tensor: Located) -> bool:
    name = tensor.info.name
    return COMPUTED.search(name) is not None or (len(tensor.info.shape) == 4 and CAUSAL_MASK.search(name) is not None)


def _are_tied(sources: Sequence[Source]) -> bool:
    """Whether the configurations say that the head is the embedding: transformers then passes over a stored one."""
    configs = [source.layout.config or {} for source in sources]
    said = {config.get("tie_word_embeddings") for config in configs}
    gemma = all(str(config.get("model_type")).startswith("gemma") for config in configs)
    return False not in said and (True in said or gemma)

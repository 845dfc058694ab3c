"""Whether two checkpoints are the same model with other weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from graftwork.errors import IncompatibleModels, InvalidCheckpoint
from graftwork.merge.models.layers import HEAD, INPUT_EMBEDDING, find_blocks
from graftwork.merge.models.readers import Reader, stored_dtype

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""The dtypes that are merged. Integers and booleans are copied, and must be the same everywhere."""
LAYERS = "num_hidden_layers"
ARCHITECTURE = (
    "model_type",
    "hidden_size",
    LAYERS,
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "rope_theta",
    "tie_word_embeddings",
    "hidden_act",
)
"""Keys of config.json that change what the weights mean; they are compared where both models say them."""
VOCABULARY_HINT = "; if their vocabularies differ, add a tokenizer section, such as tokenizer: {source: union}"


def check_same_model(reference: Reader, other: Reader, *, depth: bool = True) -> None:
    """Raise IncompatibleModels naming the first tensor, or the first setting, in which `other` differs.

    depth: whether the layers must be the same too; in a recipe of slices they are compared slice by slice
    """
    _check_configs(reference, other, depth=depth)
    ours, theirs = _compared(reference, depth=depth), _compared(other, depth=depth)
    for name in ours:
        if name not in other.layout.tensors:
            reason = f"it has no tensor {name!r}"
            raise IncompatibleModels(model=other.label, other=reference.label, reason=reason)
    for name in theirs:
        if name not in reference.layout.tensors:
            reason = f"its tensor {name!r} is missing there"
            raise IncompatibleModels(model=other.label, other=reference.label, reason=reason)


def check_same_tensor(reference: Reader, name: str, other: Reader, its_name: str) -> None:
    """Raise IncompatibleModels when two tensors that are merged differ in shape, or in more than the kind of float."""
    info, its = reference.layout.tensors[name].info, other.layout.tensors[its_name].info
    if info.shape != its.shape:
        of_tokens = INPUT_EMBEDDING.search(name) or HEAD.search(name)
        hint = VOCABULARY_HINT if info.shape[1:] == its.shape[1:] and of_tokens else ""
        reason = f"the tensor {name!r} is {list(info.shape)} in the one and {list(its.shape)} in the other{hint}"
        raise IncompatibleModels(model=other.label, other=reference.label, reason=reason)
    if info.dtype != its.dtype and not {info.dtype, its.dtype} <= FLOATS:
        reason = f"the tensor {name!r} is {info.dtype} in the one and {its.dtype} in the other"
        raise IncompatibleModels(model=other.label, other=reference.label, reason=reason)


def check_precision(reader: Reader) -> None:
    """Raise InvalidCheckpoint for 8-bit floats, whose scales this cannot know."""
    for name in reader.layout.tensors:
        dtype = stored_dtype(reader, name)
        if dtype.startswith("F8"):
            reason = f"the tensor {name!r} is {dtype}; merge the model in 16 or 32 bits"
            raise InvalidCheckpoint(path=reader.label, reason=reason)


def promoted(dtypes: Iterable[str]) -> str:
    """The smallest dtype that holds all of them: F32 for F16 and BF16 together. Others than floats are the first's."""
    found = list(dtypes)
    if found[0] not in FLOATS or len(set(found)) == 1:
        return found[0]
    return "F64" if "F64" in found else "F32"


def _compared(reader: Reader, *, depth: bool) -> Iterable[str]:
    names = reader.layout.tensors
    blocks = {} if depth else find_blocks(names)
    return [name for name in names if name not in blocks]


def _check_configs(reference: Reader, other: Reader, *, depth: bool) -> None:
    ours, theirs = _said(reference.layout.config or {}), _said(other.layout.config or {})
    for key in (key for key in ours if key in theirs):
        if key == LAYERS and not depth:
            continue
        if ours[key] != theirs[key]:
            reason = f"{key} is {ours[key]!r} in the one and {theirs[key]!r} in the other"
            raise IncompatibleModels(model=other.label, other=reference.label, reason=reason)


def _said(config: Mapping[str, object]) -> dict[str, object]:
    """What a configuration says of its architecture, its rotary embedding whichever way its release writes that.

    Up to transformers 4 it is `rope_theta` and `rope_scaling`, since 5 both are `rope_parameters`.
    """
    said = {key: config[key] for key in ARCHITECTURE if config.get(key) is not None}
    rope = config.get("rope_parameters", config.get("rope_scaling")) or {}
    if not isinstance(rope, Mapping) or any(isinstance(value, Mapping) for value in rope.values()):
        return {**said, "rope_parameters": rope}
    if rope or "rope_theta" in said:
        kind = rope.get("rope_type", rope.get("type", "default"))
        said["rope_type"] = "default" if kind == "mrope" else kind
    others = {key: value for key, value in rope.items() if key not in ("rope_type", "type") and value is not None}
    return {**said, **others}

"""Whether two checkpoints are the same model with other weights."""

from __future__ import annotations

from collections.abc import Iterable

from graftwork.errors import IncompatibleModels, InvalidCheckpoint
from graftwork.merge.models.layers import find_blocks
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
    "rope_parameters",
    "rope_scaling",
    "tie_word_embeddings",
    "hidden_act",
)
"""Keys of config.json that change what the weights mean; they are compared where both models have them."""
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
        hint = VOCABULARY_HINT if info.shape[1:] == its.shape[1:] and name not in find_blocks([name]) else ""
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
    ours, theirs = reference.layout.config or {}, other.layout.config or {}
    for key in ARCHITECTURE:
        if key == LAYERS and not depth:
            continue
        if key in ours and key in theirs and ours[key] != theirs[key]:
            reason = f"{key} is {ours[key]!r} in the one and {theirs[key]!r} in the other"
            raise IncompatibleModels(model=other.label, other=reference.label, reason=reason)

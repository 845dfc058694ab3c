"""Whether two checkpoints are the same model with other weights."""

from __future__ import annotations

from collections.abc import Mapping

from graftwork.errors import IncompatibleModels, InvalidCheckpoint
from graftwork.merge.sources import Source
from graftwork.registry.formats.checkpoint import Located

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
"""The dtypes that are merged. Integers and booleans are copied, and must be the same everywhere."""
ARCHITECTURE = (
    "model_type",
    "hidden_size",
    "num_hidden_layers",
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


def check_same_model(reference: Source, other: Source) -> None:
    """Raise IncompatibleModels naming the first tensor, or the first setting, in which `other` differs.

    InvalidCheckpoint for 8-bit floats, whose scales this cannot know.
    """
    _check_configs(reference, other)
    ours, theirs = reference.layout.tensors, other.layout.tensors
    _check_names(reference, other, ours, theirs)
    for name, tensor in ours.items():
        info, its = tensor.info, theirs[name].info
        if info.shape != its.shape:
            reason = f"the tensor {name!r} is {list(info.shape)} in the one and {list(its.shape)} in the other"
            raise IncompatibleModels(model=other.label, other=reference.label, reason=reason)
        if info.dtype != its.dtype and not {info.dtype, its.dtype} <= FLOATS:
            reason = f"the tensor {name!r} is {info.dtype} in the one and {its.dtype} in the other"
            raise IncompatibleModels(model=other.label, other=reference.label, reason=reason)
        if info.dtype.startswith("F8"):
            reason = f"the tensor {name!r} is {info.dtype}; merge the model in 16 or 32 bits"
            raise InvalidCheckpoint(path=reference.label, reason=reason)


def _check_configs(reference: Source, other: Source) -> None:
    ours, theirs = reference.layout.config or {}, other.layout.config or {}
    for key in ARCHITECTURE:
        if key in ours and key in theirs and ours[key] != theirs[key]:
            reason = f"{key} is {ours[key]!r} in the one and {theirs[key]!r} in the other"
            raise IncompatibleModels(model=other.label, other=reference.label, reason=reason)


def _check_names(reference: Source, other: Source, ours: Mapping[str, Located], theirs: Mapping[str, Located]) -> None:
    for name in ours:
        if name not in theirs:
            reason = f"it has no tensor {name!r}"
            raise IncompatibleModels(model=other.label, other=reference.label, reason=reason)
    for name in theirs:
        if name not in ours:
            reason = f"its tensor {name!r} is missing there"
            raise IncompatibleModels(model=other.label, other=reference.label, reason=reason)

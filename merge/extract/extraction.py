"""What taking a fine-tune apart will give, found from headers and configurations alone."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from graftwork.adapters.algebra.lowrank import is_exact, working_bytes
from graftwork.errors import InvalidRequest, InvalidSetting
from graftwork.merge.extract.modules import adaptable_modules
from graftwork.merge.models.compatibility import FLOATS, check_same_model
from graftwork.merge.models.layers import HEAD
from graftwork.merge.models.sources import Origin, Source, open_source
from graftwork.merge.models.spelling import agree
from graftwork.merge.output.shards import Shard, split_into_shards, tensor_bytes
from graftwork.merge.plan.task_vector import task_vector_of
from graftwork.merge.slices.slices import GRAIN
from graftwork.registry.formats.checkpoint import CheckpointLayout, Located
from graftwork.registry.formats.safetensors import DTYPE_BYTES
from graftwork.settings import Settings

Role = Literal["delta", "low_rank", "left", "copied"]
"""What becomes of a tensor: its difference is stored; or brought to a rank; or only measured; or it is no float, and
must be the same in both models."""

SLICE = 16 * GRAIN
SHARD_BYTES = 5_000_000_000
DELTA_DTYPES: Mapping[str, str | None] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "model": None}
EMBEDDING = re.compile(r"embed|(?:^|\.)(?:wte|wpe|shared)\.weight$|relative_attention_bias")
TRANSPOSED = frozenset({"gpt2", "openai-gpt", "imagegpt", "decision_transformer"})
"""Model types whose linear layers are Conv1D, with weights of [in, out]."""


@dataclass(frozen=True, slots=True)
class TensorPart:
    """One tensor of the fine-tune and what becomes of it."""

    name: str
    role: Role
    model: Located
    base: Located
    rank: int = 0
    module: str = ""
    """What PEFT calls the linear layer whose weight it is."""

    @property
    def numel(self) -> int:
        """Number of elements."""
        return self.model.info.numel


@dataclass(frozen=True, slots=True)
class Extraction:
    """A task vector, or a LoRA of a rank, to be taken from a fine-tune. `close` it when it is no longer needed."""

    model: Source
    base: Source
    parts: tuple[TensorPart, ...]
    rank: int | None
    dtype: str | None
    transposed: bool
    seed: int

    @property
    def shards(self) -> tuple[Shard, ...]:
        """The files of a dense task vector."""
        described = [(part.name, self.stored_dtype(part), part.model.info.shape) for part in self.parts]
        return split_into_shards(described, SHARD_BYTES)

    @property
    def output_bytes(self) -> int:
        """Bytes of what is written."""
        if self.rank is None:
            return sum(tensor_bytes(self.stored_dtype(part), part.model.info.shape) for part in self.parts)
        return sum(4 * part.rank * sum(part.model.info.shape) for part in self.parts if part.role == "low_rank")

    def stored_dtype(self, part: TensorPart) -> str:
        """The dtype in which a tensor of a dense task vector is stored."""
        return part.model.info.dtype if part.role == "copied" or self.dtype is None else self.dtype

    def close(self) -> None:
        """Close the sources' files."""
        self.model.close()
        self.base.close()


def plan_extraction(
    model: Origin, base: Origin, *, rank: int | None, dtype: str, seed: int, settings: Settings
) -> Extraction:
    """Pair the tensors of two models of one architecture. Without a `rank` the task vector is dense.

    Raises IncompatibleModels, InvalidCheckpoint and its kin, InvalidRequest for a dtype or where no layer is linear,
    InvalidSetting for a memory limit that does not hold a matrix.
    """
    if dtype not in DELTA_DTYPES:
        raise InvalidRequest(field="dtype", reason=f"it is {dtype!r}; accepted are {', '.join(DELTA_DTYPES)}")
    for origin in (model, base):
        if getattr(origin, "adapter", None) is not None:
            reason = f"{origin.label} has an adapter merged in as it is read; merge it into a folder first"
            raise InvalidRequest(field="model", reason=reason)
        if task_vector_of(origin) is not None:
            raise InvalidRequest(field="model", reason=f"{origin.label} is a task vector, and not a model")
    ours, theirs = open_source(model), open_source(base)
    agree([theirs, ours])
    check_same_model(theirs, ours)
    config = ours.layout.config or {}
    modules = _modules(ours.layout, tied=config.get("tie_word_embeddings") is True) if rank is not None else {}
    parts = tuple(
        _part(name, located, theirs.layout.tensors[name], rank, modules.get(name))
        for name, located in ours.layout.tensors.items()
    )
    transposed = config.get("model_type") in TRANSPOSED
    found = Extraction(ours, theirs, parts, rank, DELTA_DTYPES[dtype], transposed, seed)
    if rank is not None:
        _check_rank(found, rank)
        _check_memory(found, settings)
    return found


def is_linear(name: str, shape: tuple[int, ...], *, tied: bool) -> bool:
    """Whether a tensor is the weight of a linear layer that an adapter can change: no head `tied` to an embedding."""
    if len(shape) != 2 or not name.endswith(".weight") or EMBEDDING.search(name):
        return False
    return not (tied and HEAD.search(name))


def _modules(layout: CheckpointLayout, *, tied: bool) -> Mapping[str, str]:
    """The linear layer of each tensor that can become a LoRA; by names alone in a model not known to transformers."""
    known = adaptable_modules(layout)
    if known is None:
        shapes = {name: located.info.shape for name, located in layout.tensors.items()}
        return {name: name.removesuffix(".weight") for name, at in shapes.items() if is_linear(name, at, tied=tied)}
    return known


def _part(name: str, model: Located, base: Located, rank: int | None, module: str | None) -> TensorPart:
    info = model.info
    if info.dtype not in FLOATS:
        return TensorPart(name, "copied", model, base)
    if rank is None:
        return TensorPart(name, "delta", model, base)
    if info.numel and module is not None:
        return TensorPart(name, "low_rank", model, base, min(rank, *info.shape), module)
    return TensorPart(name, "left", model, base)


def _check_rank(found: Extraction, rank: int) -> None:
    ranks = [part.rank for part in found.parts if part.role == "low_rank"]
    if not ranks:
        reason = f"{found.model.label} has no linear layer; take its dense task vector"
        raise InvalidRequest(field="rank", reason=reason)
    if max(ranks) < rank:
        raise InvalidRequest(field="rank", reason=f"it is {rank}, and no layer can have more than {max(ranks)}")


def _check_memory(found: Extraction, settings: Settings) -> None:
    for part in found.parts:
        if part.role != "low_rank":
            continue
        shape = part.model.info.shape
        stored = DTYPE_BYTES[part.model.info.dtype] + DTYPE_BYTES[part.base.info.dtype]
        needed = 4 * part.numel + min(SLICE, part.numel) * stored + working_bytes(shape, part.rank)
        if needed > settings.memory:
            expected = f"at least {needed} bytes for the matrix {part.name}"
            raise InvalidSetting(name="memory", value=settings.memory, expected=expected)


def describe(part: TensorPart) -> dict[str, Any]:
    """How a layer is brought to its rank."""
    return {"rank": part.rank, "svd": "exact" if is_exact(part.model.info.shape, part.rank) else "randomised"}

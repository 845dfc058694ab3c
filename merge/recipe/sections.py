"""The sections of a recipe, with mergekit's keys and a few more."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from graftwork.settings import parse_size

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "float64": "F64"}
DEFAULT_SHARD_SIZE = "5GB"


def _flat_reference(value: Any) -> Any:
    """mergekit's long form, {model: {path, revision}, lora: {path, revision}}, as PATH@REVISION+PATH@REVISION."""
    if not isinstance(value, Mapping) or "kind" in value:
        return value
    if value.get("override_architecture") is not None:
        raise ValueError("override_architecture is not supported")
    parts = [_flat_path(value[key]) for key in ("model", "lora") if value.get(key) is not None]
    if not parts or not all(isinstance(part, str) for part in parts):
        raise ValueError("a model is a reference, or {model: {path, revision}, lora: {path, revision}}")
    return "+".join(parts)


def _flat_path(value: Any) -> Any:
    if not isinstance(value, Mapping):
        return value
    return value.get("path") if value.get("revision") is None else f"{value.get('path')}@{value['revision']}"


def _without_torch(value: Any) -> Any:
    return value.removeprefix("torch.") if isinstance(value, str) else value


Finite = Annotated[float, Field(allow_inf_nan=False)]
Reference = Annotated[str, BeforeValidator(_flat_reference)]
"""A model: a path, a registry reference, a Hub id, or one of these with `+` and an adapter."""
DtypeName = Annotated[Literal["float32", "float16", "bfloat16", "float64"], BeforeValidator(_without_torch)]
Parameters = dict[str, Any]


class Section(BaseModel):
    """A part of a recipe; a key that it does not know is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class ModelEntry(Section):
    """One model to merge and the parameters that hold for it alone."""

    model: Reference
    parameters: Parameters = {}

    @field_validator("parameters", mode="before")
    @classmethod
    def _may_be_left_empty(cls, value: Any) -> Any:
        return {} if value is None else value


class SourceEntry(ModelEntry):
    """Layers `layer_range[0]` up to, and without, `layer_range[1]` of one model."""

    layer_range: tuple[int, int]

    @field_validator("layer_range", mode="before")
    @classmethod
    def _is_a_pair(cls, value: Any) -> Any:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise ValueError("expected [first, end], such as [0, 16]")
        return value

    @field_validator("layer_range")
    @classmethod
    def _is_a_range(cls, value: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= value[0] < value[1]:
            raise ValueError("expected [first, end] with 0 <= first < end")
        return value


class SliceEntry(Section):
    """Layers of the output: as many as each of its sources gives, merged layer by layer."""

    sources: tuple[SourceEntry, ...] = Field(min_length=1)
    base_model: Reference | None = None
    parameters: Parameters = {}

    @field_validator("parameters", mode="before")
    @classmethod
    def _may_be_left_empty(cls, value: Any) -> Any:
        return {} if value is None else value

    @model_validator(mode="after")
    def _is_of_one_length(self) -> SliceEntry:
        lengths = [source.layer_range[1] - source.layer_range[0] for source in self.sources]
        if len(set(lengths)) > 1:
            raise ValueError(f"the sources of a slice give the same number of layers; these give {lengths}")
        return self

    @property
    def length(self) -> int:
        """How many layers it makes."""
        return self.sources[0].layer_range[1] - self.sources[0].layer_range[0]


class ZeroToken(Section):
    """A row of zeros."""

    kind: Literal["zero"]


class ModelToken(Section):
    """The row of another token, or of a row number, of one of the merged models."""

    kind: Literal["model_token"]
    model: Reference
    token_id: int | None = Field(default=None, ge=0)
    token: str | None = None

    @model_validator(mode="after")
    def _names_one(self) -> ModelToken:
        if (self.token is None) == (self.token_id is None):
            raise ValueError("model_token takes either token or token_id")
        return self


class TokenEntry(Section):
    """What a token's row is in models that lack the token; in all models with `force`."""

    source: ModelToken | ZeroToken | Reference | None = None
    force: bool = False


class TokenizerEntry(Section):
    """The tokenizer of the output, and how the rows of embeddings are found for its tokens."""

    source: Reference = "union"
    tokens: dict[str, TokenEntry] = {}
    pad_to_multiple_of: int | None = Field(default=None, ge=1)

    @field_validator("tokens", mode="before")
    @classmethod
    def _may_be_left_empty(cls, value: Any) -> Any:
        return {} if value is None else value


class LinesModifier(Section):
    """LiNeS: the merged delta of block l of L is scaled by alpha + beta * l / (L - 1); outside the blocks by alpha."""

    alpha: Finite | Literal["auto"]
    beta: Finite


class ConsensusModifier(Section):
    """Consensus: what is left of the merged delta is what at least min_agree models' TALL masks agree on."""

    min_agree: Annotated[int, Field(ge=0, strict=True)] = 2
    mask_lambda: Annotated[Finite, Field(ge=0)] = 0.4


class ModifierEntry(Section):
    """One change to the merged delta, made after the method and before it is added to the base."""

    lines: LinesModifier | None = None
    consensus: ConsensusModifier | None = None

    @model_validator(mode="after")
    def _is_one(self) -> ModifierEntry:
        if (self.lines is None) == (self.consensus is None):
            raise ValueError("a modifier is either lines or consensus")
        return self


class Output(Section):
    """How the result is named and cut into files, and the rank of a merged adapter (`full` loses nothing)."""

    name: str | None = None
    aliases: tuple[str, ...] = ()
    shard_size: str | int = DEFAULT_SHARD_SIZE
    rank: Annotated[int, Field(ge=1, strict=True)] | Literal["full"] | None = None

    @field_validator("shard_size")
    @classmethod
    def _is_a_size(cls, value: str | int) -> str | int:
        if parse_size(str(value)) <= 0:
            raise ValueError("a size such as 5GB")
        return value

    @property
    def shard_bytes(self) -> int:
        """The size a file may reach before the next one begins, in bytes."""
        return parse_size(str(self.shard_size))

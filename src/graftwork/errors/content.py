"""The bytes that were given cannot be accepted."""

from __future__ import annotations

from graftwork.errors.error import GraftworkError


class InvalidContent(GraftworkError):
    """The content cannot be accepted."""

    code = "invalid_content"


class UnsafeFile(InvalidContent):
    """{path} is refused: {reason}."""

    code = "unsafe_file"


class InvalidSafetensors(InvalidContent):
    """{path} is not a valid safetensors file: {reason}."""

    code = "invalid_safetensors"


class InvalidCheckpoint(InvalidContent):
    """{path} cannot be used: {reason}."""

    code = "invalid_checkpoint"


class InvalidAdapter(InvalidContent):
    """{path} is not an adapter that can be used: {reason}."""

    code = "invalid_adapter"


class InvalidExpertSet(InvalidContent):
    """{path} is not an expert set that can be used: {reason}."""

    code = "invalid_expert_set"


class InvalidDataset(InvalidContent):
    """{path} is not a dataset: {reason}."""

    code = "invalid_dataset"


class UnservableAdapter(InvalidContent):
    """The adapter {adapter} cannot be served by {engine}: {reason}."""

    code = "unservable_adapter"


class IncompatibleAdapter(InvalidContent):
    """The adapter {adapter} does not fit the base {base}: {reason}."""

    code = "incompatible_adapter"


class IncompatibleModels(InvalidContent):
    """{model} does not go with {other}: {reason}."""

    code = "incompatible_models"


class NonFiniteTensor(InvalidContent):
    """The tensor {tensor!r} of {path} holds {count} NaN or infinite values; only finite weights are accepted."""

    code = "non_finite_tensor"


class DigestMismatch(InvalidContent):
    """{what} has SHA-256 {actual}, and {expected} was declared; send it again as it was declared."""

    code = "digest_mismatch"


class TooLarge(InvalidContent):
    """{what} has {actual}; at most {limit} is accepted."""

    code = "too_large"

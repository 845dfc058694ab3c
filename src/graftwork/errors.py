"""Every failure Graftwork reports to a user.

    GraftworkError
    ├── InvalidInput                 what was asked for cannot be done as asked
    │   ├── InvalidName
    │   ├── InvalidReference
    │   ├── InvalidSetting
    │   ├── InvalidRequest
    │   ├── InvalidSweep
    │   └── InvalidRecipe
    │       ├── UnknownMethod
    │       ├── UnknownParameter
    │       └── InvalidParameter
    ├── InvalidContent               the bytes that were given cannot be accepted
    │   ├── UnsafeFile
    │   ├── InvalidSafetensors
    │   ├── InvalidCheckpoint
    │   ├── InvalidAdapter
    │   ├── IncompatibleAdapter
    │   ├── IncompatibleModels
    │   ├── NonFiniteTensor
    │   └── TooLarge
    ├── NotFound
    │   ├── SourceNotFound
    │   ├── ArtifactNotFound
    │   ├── RevisionNotFound
    │   ├── AliasNotFound
    │   ├── JobNotFound
    │   └── ModelNotFound
    ├── Conflict
    │   ├── AliasConflict
    │   ├── KindConflict
    │   ├── OutputExists
    │   └── OutputBusy
    ├── Unauthorized
    ├── Overloaded
    │   └── NoAdapterCapacity
    ├── Cancelled
    └── OperationFailed
        ├── CorruptBlob
        ├── InputChanged
        ├── StorageFull
        ├── HubUnavailable
        ├── AdapterProbeFailed
        ├── LeaseLost
        └── ServerUnavailable

A class's docstring is its message: the fields in braces are the keyword arguments it is raised with.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass


class GraftworkError(Exception):
    """Graftwork could not go on."""

    code = "error"

    def __init__(self, **fields: object) -> None:
        self.fields = fields
        template = inspect.cleandoc(type(self).__doc__ or "").replace("\n", " ")
        super().__init__(template.format(**fields))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.fields)


def _rebuild(kind: type[GraftworkError], fields: dict[str, object]) -> GraftworkError:
    return kind(**fields)


class InvalidInput(GraftworkError):
    """The request cannot be carried out as written."""

    code = "invalid_input"


class InvalidName(InvalidInput):
    """{value!r} is not a valid {what}: {expected}."""

    code = "invalid_name"


class InvalidReference(InvalidInput):
    """{value!r} is not a reference: {expected}."""

    code = "invalid_reference"


class InvalidSetting(InvalidInput):
    """The setting {name} is {value!r}: expected {expected}."""

    code = "invalid_setting"


class InvalidRequest(InvalidInput):
    """{field}: {reason}."""

    code = "invalid_request"


class InvalidSweep(InvalidInput):
    """The sweep is not valid at {where}: {reason}."""

    code = "invalid_sweep"


class InvalidRecipe(InvalidInput):
    """The recipe is not valid at {where}: {reason}."""

    code = "invalid_recipe"


class UnknownMethod(InvalidRecipe):
    """There is no merge method {method!r}; there is {known}."""

    code = "unknown_method"


class UnknownParameter(InvalidRecipe):
    """{method} has no parameter {parameter!r} (at {where}); it takes {known}."""

    code = "unknown_parameter"


class InvalidParameter(InvalidRecipe):
    """The parameter {parameter!r} at {where} is {value!r}: {expected}."""

    code = "invalid_parameter"


class InvalidContent(GraftworkError):
    """The content cannot be accepted."""

    code = "invalid_content"


class UnsafeFile(InvalidContent):
    """{path} is refused: {reason}; weights are accepted as .safetensors only."""

    code = "unsafe_file"


class InvalidSafetensors(InvalidContent):
    """{path} is not a valid safetensors file: {reason}."""

    code = "invalid_safetensors"


class InvalidCheckpoint(InvalidContent):
    """{path} is not a complete checkpoint: {reason}."""

    code = "invalid_checkpoint"


class InvalidAdapter(InvalidContent):
    """{path} is not an adapter that can be used: {reason}."""

    code = "invalid_adapter"


class IncompatibleAdapter(InvalidContent):
    """The adapter {adapter} does not fit the base {base}: {reason}."""

    code = "incompatible_adapter"


class IncompatibleModels(InvalidContent):
    """{model} cannot be merged with {other}: {reason}."""

    code = "incompatible_models"


class NonFiniteTensor(InvalidContent):
    """The tensor {tensor!r} of {path} holds {count} NaN or infinite values; only finite weights are accepted."""

    code = "non_finite_tensor"


class TooLarge(InvalidContent):
    """{what} has {actual}; at most {limit} is accepted."""

    code = "too_large"


class NotFound(GraftworkError):
    """It does not exist."""

    code = "not_found"


class SourceNotFound(NotFound):
    """There is nothing at {source!r}: expected {expected}."""

    code = "source_not_found"


class ArtifactNotFound(NotFound):
    """There is no artifact {name} in the registry."""

    code = "artifact_not_found"


class RevisionNotFound(NotFound):
    """{name} has no alias or version {revision!r}; it has {known}."""

    code = "revision_not_found"


class AliasNotFound(NotFound):
    """{name} has no alias {alias!r}; it has {known}."""

    code = "alias_not_found"


class JobNotFound(NotFound):
    """There is no job {id!r}."""

    code = "job_not_found"


class ModelNotFound(NotFound):
    """The model {model!r} cannot be served: {reason}."""

    code = "model_not_found"


class Conflict(GraftworkError):
    """It conflicts with what is already there."""

    code = "conflict"


class AliasConflict(Conflict):
    """The alias {alias!r} of {name} is at {actual}, not at {expected}: someone moved it first."""

    code = "alias_conflict"


class KindConflict(Conflict):
    """{name} is {actual} and cannot take a version that is {offered}."""

    code = "kind_conflict"


class OutputExists(Conflict):
    """{path} already exists and is not empty: name a folder that does not exist yet."""

    code = "output_exists"


class OutputBusy(Conflict):
    """Another process is writing {path}: wait for it or name another folder."""

    code = "output_busy"


class Unauthorized(GraftworkError):
    """{reason}."""

    code = "unauthorized"


class Overloaded(GraftworkError):
    """The server is at capacity: {reason}; try again in a moment."""

    code = "overloaded"


class NoAdapterCapacity(Overloaded):
    """The adapter {adapter} needs {needed} rank rows; {free} are free and the rest ({total} in all) are in use."""

    code = "no_adapter_capacity"


class Cancelled(GraftworkError):
    """{what} was cancelled."""

    code = "cancelled"


class OperationFailed(GraftworkError):
    """{what} failed: {reason}."""

    code = "operation_failed"


class CorruptBlob(OperationFailed):
    """The stored file {path} has SHA-256 {actual}, not {expected}: restore it from its source."""

    code = "corrupt_blob"


class InputChanged(OperationFailed):
    """{path} changed while it was being read; run the same command again."""

    code = "input_changed"


class StorageFull(OperationFailed):
    """{path} needs {needed} bytes and its disk has {available}: free some space or name another disk."""

    code = "storage_full"


class HubUnavailable(OperationFailed):
    """{source} could not be fetched from the Hub: {reason}."""

    code = "hub_unavailable"


class AdapterProbeFailed(OperationFailed):
    """The adapter {adapter} was loaded but its probe failed ({reason}); what served before still serves."""

    code = "adapter_probe_failed"


class LeaseLost(OperationFailed):
    """The job {id} is no longer held by this worker: another one took it over."""

    code = "lease_lost"


class ServerUnavailable(OperationFailed):
    """The server could not be started on {address}: {reason}."""

    code = "server_unavailable"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a failure is told to a caller: the HTTP status and the exit code of the command line."""

    status: int
    exit_code: int


OUTCOMES: dict[type[GraftworkError], Outcome] = {
    GraftworkError: Outcome(500, 1),
    InvalidInput: Outcome(422, 2),
    InvalidContent: Outcome(422, 1),
    TooLarge: Outcome(413, 1),
    NotFound: Outcome(404, 3),
    Conflict: Outcome(409, 4),
    Unauthorized: Outcome(401, 5),
    Overloaded: Outcome(429, 1),
    Cancelled: Outcome(499, 1),
    OperationFailed: Outcome(500, 1),
    StorageFull: Outcome(507, 1),
    HubUnavailable: Outcome(502, 1),
}


def outcome(error: GraftworkError) -> Outcome:
    """The outcome of the nearest class in the error's ancestry that the table names."""
    return next(OUTCOMES[kind] for kind in type(error).__mro__ if kind in OUTCOMES)

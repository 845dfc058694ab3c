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
    │   ├── InvalidExpertSet
    │   ├── UnservableAdapter
    │   ├── IncompatibleAdapter
    │   ├── IncompatibleModels
    │   ├── NonFiniteTensor
    │   ├── DigestMismatch
    │   └── TooLarge
    ├── NotFound
    │   ├── SourceNotFound
    │   ├── ArtifactNotFound
    │   ├── RevisionNotFound
    │   ├── VersionWithdrawn
    │   ├── AliasNotFound
    │   ├── JobNotFound
    │   ├── TokenNotFound
    │   ├── UploadNotFound
    │   └── ModelNotFound
    ├── Conflict
    │   ├── AliasConflict
    │   ├── VersionQuarantined
    │   ├── VersionInUse
    │   ├── KindConflict
    │   ├── UploadConflict
    │   ├── OutputExists
    │   └── OutputBusy
    ├── Unauthorized
    ├── Forbidden
    ├── Overloaded
    │   ├── NoAdapterCapacity
    │   ├── QueueFull
    │   └── EngineUnavailable
    ├── Cancelled
    ├── DeadlineExceeded
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

from graftwork.errors.access import (
    EngineUnavailable,
    Forbidden,
    NoAdapterCapacity,
    Overloaded,
    QueueFull,
    Unauthorized,
)
from graftwork.errors.conflicts import (
    AliasConflict,
    Conflict,
    KindConflict,
    OutputBusy,
    OutputExists,
    UploadConflict,
    VersionInUse,
    VersionQuarantined,
)
from graftwork.errors.content import (
    DigestMismatch,
    IncompatibleAdapter,
    IncompatibleModels,
    InvalidAdapter,
    InvalidCheckpoint,
    InvalidContent,
    InvalidExpertSet,
    InvalidSafetensors,
    NonFiniteTensor,
    TooLarge,
    UnsafeFile,
    UnservableAdapter,
)
from graftwork.errors.error import GraftworkError
from graftwork.errors.inputs import (
    InvalidInput,
    InvalidName,
    InvalidParameter,
    InvalidRecipe,
    InvalidReference,
    InvalidRequest,
    InvalidSetting,
    InvalidSweep,
    UnknownMethod,
    UnknownParameter,
)
from graftwork.errors.lookup import (
    AliasNotFound,
    ArtifactNotFound,
    JobNotFound,
    ModelNotFound,
    NotFound,
    RevisionNotFound,
    SourceNotFound,
    TokenNotFound,
    UploadNotFound,
    VersionWithdrawn,
)
from graftwork.errors.operations import (
    AdapterProbeFailed,
    Cancelled,
    CorruptBlob,
    DeadlineExceeded,
    HubUnavailable,
    InputChanged,
    LeaseLost,
    OperationFailed,
    ServerUnavailable,
    StorageFull,
)
from graftwork.errors.outcomes import OUTCOMES, Outcome, outcome

__all__ = [
    "DigestMismatch",
    "UploadConflict",
    "UploadNotFound",
    "OUTCOMES",
    "AdapterProbeFailed",
    "AliasConflict",
    "AliasNotFound",
    "ArtifactNotFound",
    "Cancelled",
    "Conflict",
    "CorruptBlob",
    "DeadlineExceeded",
    "EngineUnavailable",
    "Forbidden",
    "GraftworkError",
    "HubUnavailable",
    "IncompatibleAdapter",
    "IncompatibleModels",
    "InputChanged",
    "InvalidAdapter",
    "InvalidCheckpoint",
    "InvalidContent",
    "InvalidExpertSet",
    "InvalidInput",
    "InvalidName",
    "InvalidParameter",
    "InvalidRecipe",
    "InvalidReference",
    "InvalidRequest",
    "InvalidSafetensors",
    "InvalidSetting",
    "InvalidSweep",
    "JobNotFound",
    "KindConflict",
    "LeaseLost",
    "ModelNotFound",
    "NoAdapterCapacity",
    "NonFiniteTensor",
    "NotFound",
    "OperationFailed",
    "Outcome",
    "OutputBusy",
    "OutputExists",
    "Overloaded",
    "QueueFull",
    "RevisionNotFound",
    "ServerUnavailable",
    "SourceNotFound",
    "StorageFull",
    "TokenNotFound",
    "TooLarge",
    "Unauthorized",
    "UnknownMethod",
    "UnknownParameter",
    "UnsafeFile",
    "UnservableAdapter",
    "VersionInUse",
    "VersionQuarantined",
    "VersionWithdrawn",
    "outcome",
]

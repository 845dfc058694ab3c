"""Every failure Graftwork reports to a user.

    GraftworkError
    ├── InvalidInput                 what was asked for cannot be done as asked
    │   ├── InvalidName
    │   ├── InvalidReference
    │   ├── InvalidSetting
    │   ├── InvalidRequest
    │   │   └── ContextLengthExceeded
    │   ├── IdempotencyKeyReused
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
    │   ├── InvalidDataset
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
    │   ├── EntryNotFound
    │   ├── JobNotFound
    │   ├── ScheduleNotFound
    │   ├── TokenNotFound
    │   ├── UploadNotFound
    │   ├── ArrivalNotFound
    │   └── ModelNotFound
    ├── Conflict
    │   ├── AliasConflict
    │   ├── VersionQuarantined
    │   ├── VersionInUse
    │   ├── ScheduleExists
    │   ├── PromotionRefused
    │   ├── KindConflict
    │   ├── RepositoryExists
    │   ├── StaleCommit
    │   ├── UploadConflict
    │   ├── OutputExists
    │   ├── OutputBusy
    │   └── RequestInFlight
    ├── Unauthorized
    ├── Forbidden
    │   └── QuotaExceeded
    ├── Overloaded
    │   ├── NoAdapterCapacity
    │   ├── QueueFull
    │   ├── RateLimited
    │   └── EngineUnavailable
    ├── Cancelled
    ├── DeadlineExceeded
    └── OperationFailed
        ├── CorruptBlob
        ├── InputChanged
        ├── StorageFull
        ├── StorageUnavailable
        ├── DatabaseUnavailable
        ├── HubUnavailable
        ├── AdapterProbeFailed
        ├── LeaseLost
        ├── ServerUnavailable
        └── ServerUnreachable

A class's docstring is its message: the fields in braces are the keyword arguments it is raised with.
"""

from __future__ import annotations

from graftwork.errors.access import (
    EngineUnavailable,
    Forbidden,
    NoAdapterCapacity,
    Overloaded,
    QueueFull,
    QuotaExceeded,
    RateLimited,
    Unauthorized,
)
from graftwork.errors.conflicts import (
    AliasConflict,
    Conflict,
    KindConflict,
    OutputBusy,
    OutputExists,
    PromotionRefused,
    RepositoryExists,
    RequestInFlight,
    ScheduleExists,
    StaleCommit,
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
    InvalidDataset,
    InvalidExpertSet,
    InvalidSafetensors,
    NonFiniteTensor,
    TooLarge,
    UnsafeFile,
    UnservableAdapter,
)
from graftwork.errors.error import GraftworkError
from graftwork.errors.inputs import (
    ContextLengthExceeded,
    IdempotencyKeyReused,
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
    ArrivalNotFound,
    ArtifactNotFound,
    EntryNotFound,
    JobNotFound,
    ModelNotFound,
    NotFound,
    RevisionNotFound,
    ScheduleNotFound,
    SourceNotFound,
    TokenNotFound,
    UploadNotFound,
    VersionWithdrawn,
)
from graftwork.errors.operations import (
    AdapterProbeFailed,
    Cancelled,
    CorruptBlob,
    DatabaseUnavailable,
    DeadlineExceeded,
    HubUnavailable,
    InputChanged,
    LeaseLost,
    OperationFailed,
    ServerUnavailable,
    ServerUnreachable,
    StorageFull,
    StorageUnavailable,
)
from graftwork.errors.outcomes import OUTCOMES, Outcome, outcome

__all__ = [
    "OUTCOMES",
    "AdapterProbeFailed",
    "AliasConflict",
    "AliasNotFound",
    "ArrivalNotFound",
    "ArtifactNotFound",
    "Cancelled",
    "Conflict",
    "ContextLengthExceeded",
    "CorruptBlob",
    "DatabaseUnavailable",
    "DeadlineExceeded",
    "DigestMismatch",
    "EngineUnavailable",
    "EntryNotFound",
    "Forbidden",
    "GraftworkError",
    "HubUnavailable",
    "IdempotencyKeyReused",
    "IncompatibleAdapter",
    "IncompatibleModels",
    "InputChanged",
    "InvalidAdapter",
    "InvalidCheckpoint",
    "InvalidContent",
    "InvalidDataset",
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
    "PromotionRefused",
    "QueueFull",
    "QuotaExceeded",
    "RateLimited",
    "RepositoryExists",
    "RequestInFlight",
    "RevisionNotFound",
    "ScheduleExists",
    "ScheduleNotFound",
    "ServerUnavailable",
    "ServerUnreachable",
    "SourceNotFound",
    "StaleCommit",
    "StorageFull",
    "StorageUnavailable",
    "TokenNotFound",
    "TooLarge",
    "Unauthorized",
    "UnknownMethod",
    "UnknownParameter",
    "UnsafeFile",
    "UnservableAdapter",
    "UploadConflict",
    "UploadNotFound",
    "VersionInUse",
    "VersionQuarantined",
    "VersionWithdrawn",
    "outcome",
]

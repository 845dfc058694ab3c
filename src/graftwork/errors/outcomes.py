"""How each failure is told: the HTTP status and the exit code."""

from __future__ import annotations

from dataclasses import dataclass

from graftwork.errors.access import EngineUnavailable, Forbidden, Overloaded, Unauthorized
from graftwork.errors.conflicts import Conflict, StaleCommit
from graftwork.errors.content import InvalidContent, TooLarge
from graftwork.errors.error import GraftworkError
from graftwork.errors.inputs import InvalidInput
from graftwork.errors.lookup import NotFound, VersionWithdrawn
from graftwork.errors.operations import (
    AdapterProbeFailed,
    Cancelled,
    DatabaseUnavailable,
    DeadlineExceeded,
    HubUnavailable,
    OperationFailed,
    StorageFull,
    StorageUnavailable,
)


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
    VersionWithdrawn: Outcome(410, 3),
    Conflict: Outcome(409, 4),
    StaleCommit: Outcome(412, 4),
    Unauthorized: Outcome(401, 5),
    Forbidden: Outcome(403, 5),
    Overloaded: Outcome(429, 1),
    EngineUnavailable: Outcome(503, 1),
    Cancelled: Outcome(499, 1),
    DeadlineExceeded: Outcome(504, 1),
    OperationFailed: Outcome(500, 1),
    AdapterProbeFailed: Outcome(422, 1),
    StorageFull: Outcome(507, 1),
    StorageUnavailable: Outcome(503, 1),
    DatabaseUnavailable: Outcome(503, 1),
    HubUnavailable: Outcome(502, 1),
}


def outcome(error: GraftworkError) -> Outcome:
    """The outcome of the nearest class in the error's ancestry that the table names."""
    return next(OUTCOMES[kind] for kind in type(error).__mro__ if kind in OUTCOMES)

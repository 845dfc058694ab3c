"""Failures as the Hub's clients expect them: `X-Error-Code` and `X-Error-Message`, from which they make exceptions."""

from __future__ import annotations

from http import HTTPStatus

from fastapi.responses import JSONResponse

from graftwork.errors import (
    ArtifactNotFound,
    EntryNotFound,
    Forbidden,
    GraftworkError,
    InvalidInput,
    InvalidName,
    InvalidReference,
    RevisionNotFound,
    Unauthorized,
    VersionWithdrawn,
    outcome,
)

INVALID_TOKEN = "Invalid credentials in Authorization header"  # noqa: S105 (what clients compare the message with)
SHOWN = 1000


def failure(error: GraftworkError, *, has_token: bool = False, revision: str | None = None) -> JSONResponse:
    """The response that tells `error`.

    has_token: whether the request carried a token, which then was not good if the error is Unauthorized
    revision: the commit at which a file was not found; clients remember that it is not there
    """
    message = str(error)
    headers = {"X-Error-Message": INVALID_TOKEN if isinstance(error, Unauthorized) and has_token else _plain(message)}
    if code := _code(error):
        headers["X-Error-Code"] = code
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    if revision is not None:
        headers["X-Repo-Commit"] = revision
    if retry_after := error.fields.get("retry_after"):
        headers["Retry-After"] = str(retry_after)
    return JSONResponse({"error": message}, _status(error), headers=headers)


def refused(status: HTTPStatus, message: str, code: str | None = None) -> JSONResponse:
    """A failure that is no error of the registry's."""
    headers = {"X-Error-Message": _plain(message)} | ({} if code is None else {"X-Error-Code": code})
    return JSONResponse({"error": message}, status, headers=headers)


def _status(error: GraftworkError) -> int:
    match error:
        case InvalidName() | InvalidReference():
            return HTTPStatus.NOT_FOUND
        case InvalidInput():
            return HTTPStatus.BAD_REQUEST
    return outcome(error).status


def _code(error: GraftworkError) -> str | None:
    match error:
        case ArtifactNotFound() | InvalidName():
            return "RepoNotFound"
        case RevisionNotFound() | VersionWithdrawn() | InvalidReference():
            return "RevisionNotFound"
        case EntryNotFound():
            return "EntryNotFound"
        case Forbidden():
            return "Forbidden"
    return None


def _plain(message: str) -> str:
    """`message` as it can stand in a header."""
    return "".join(letter if " " <= letter <= "~" else "?" for letter in message[:SHOWN])

"""Failures as HTTP responses: problem details (RFC 9457) everywhere, OpenAI's error object under `/v1`."""

from __future__ import annotations

import difflib
import re
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from graftwork.api.schemas.problem import InferenceError, InferenceProblem, Problem
from graftwork.context import request_id
from graftwork.errors import GraftworkError, InvalidInput, InvalidRequest, Unauthorized, outcome
from graftwork.errors.wording import UNKNOWN_KEY, first_problem, in_words

INFERENCE_PREFIX = "/v1"
REQUEST_ID_HEADER = "X-Request-Id"
RETRY_AFTER_SECONDS = 1
SHOWN = 3
"""Fields with something wrong that are named beside the first one."""
COMES_BACK = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
INFERENCE_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def install(app: FastAPI) -> None:
    """Answer every failure of `app` in one of the two shapes."""
    app.add_exception_handler(GraftworkError, _graftwork_error)
    app.add_exception_handler(RequestValidationError, _invalid_request)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(Exception, _unexpected)


def problem(error: GraftworkError, *, status: int | None = None) -> Problem:
    """Problem details of `error`, with the error's own fields beside the standard members."""
    fields: dict[str, Any] = {name: _plain(value) for name, value in error.fields.items()}
    return Problem(
        **{
            **fields,
            "type": f"urn:graftwork:problem:{error.code}",
            "title": _title(error.code),
            "status": status or outcome(error).status,
            "detail": str(error),
            "code": error.code,
        }
    )


def inference_problem(error: GraftworkError) -> InferenceProblem:
    """`error` as OpenAI's clients expect it."""
    status = inference_status(error)
    param = error.fields.get("field")
    return InferenceProblem(
        error=InferenceError(
            message=str(error),
            type=_inference_type(status),
            param=None if param is None else str(param),
            code=error.code,
        )
    )


def inference_status(error: GraftworkError) -> int:
    """The status under `/v1`: OpenAI's clients expect 400 where `/api` answers 422 to a request it cannot read."""
    return HTTPStatus.BAD_REQUEST if isinstance(error, InvalidInput) else outcome(error).status


def respond(request: Request, error: GraftworkError, *, status: int | None = None) -> Response:
    """The response that tells `error` to the client that sent `request`; `status` overrides the table under `/api`."""
    headers = _headers(error)
    if _is_inference(request):
        return JSONResponse(inference_problem(error).model_dump(), status_code=inference_status(error), headers=headers)
    body = problem(error, status=status)
    return JSONResponse(
        body.model_dump(), status_code=body.status, headers=headers, media_type="application/problem+json"
    )


def _headers(error: GraftworkError) -> dict[str, str] | None:
    if outcome(error).status in COMES_BACK:
        return {"Retry-After": str(error.fields.get("retry_after", RETRY_AFTER_SECONDS))}
    return {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthorized) else None


async def _graftwork_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, GraftworkError)  # noqa: S101
    return respond(request, error)


async def _invalid_request(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    problems = list(error.errors())
    if any(problem["loc"][0] == "body" for problem in problems) and not is_json(request):
        return respond(request, InvalidRequest(field="Content-Type", reason="expected application/json"))
    first = first_problem(problems)
    field = "body" if first["type"] == "json_invalid" else _location(first["loc"])
    reason = in_words(first) + _hint(request, first)
    if others := {_location(problem["loc"]): None for problem in problems if problem["loc"] != first["loc"]}:
        reason += f" (there is more at {', '.join(list(others)[:SHOWN])})"
    return respond(request, InvalidRequest(field=field, reason=reason))


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    if isinstance(error.__cause__, ValueError | RecursionError):  # what parsing a body failed of
        return respond(request, InvalidRequest(field="body", reason=f"it cannot be read as JSON ({error.__cause__})"))
    phrase = HTTPStatus(error.status_code).phrase
    detail = f"{request.method} {request.url.path}: {phrase.lower()}."
    return _plain_failure(request, error.status_code, phrase, detail, error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    phrase = HTTPStatus.INTERNAL_SERVER_ERROR.phrase
    detail = "The server failed in a way it did not expect; its log tells more."
    headers = {REQUEST_ID_HEADER: request_id.get() or ""}  # nothing else passes here on the way out
    return _plain_failure(request, HTTPStatus.INTERNAL_SERVER_ERROR, phrase, detail, headers)


def _plain_failure(request: Request, status: int, phrase: str, detail: str, headers: Any) -> Response:
    code = phrase.lower().replace(" ", "_")
    if _is_inference(request):
        failure = InferenceProblem(error=InferenceError(message=detail, type=_inference_type(status), code=code))
        return JSONResponse(failure.model_dump(), status_code=status, headers=headers)
    body = Problem(type=f"urn:graftwork:problem:{code}", title=phrase, status=status, detail=detail, code=code)
    return JSONResponse(body.model_dump(), status, headers, media_type="application/problem+json")


def _is_inference(request: Request) -> bool:
    return request.url.path == INFERENCE_PREFIX or request.url.path.startswith(INFERENCE_PREFIX + "/")


def _inference_type(status: int) -> str:
    return INFERENCE_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")


def _title(code: str) -> str:
    return code.replace("_", " ").capitalize()


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _location(parts: tuple[int | str, ...]) -> str:
    """`("body", "models", 0, "model")` as `models[0].model`."""
    path = ".".join(str(part) for part in (parts[1:] if parts[0] in ("body", "header") and len(parts) > 1 else parts))
    return re.sub(r"\.(\d+)(?=\.|$)", r"[\1]", path)


def is_json(request: Request) -> bool:
    """Whether the request says that its body is JSON, or has none."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_empty = request.headers.get("content-length", "0") == "0" and "transfer-encoding" not in request.headers
    return kind == "application/json" or kind.endswith("+json") or is_empty


def _hint(request: Request, problem: Any) -> str:
    """What a missing header looks like, or which key of the body one that is not known may be a misspelling of."""
    route, (place, *below) = request.scope["route"].dependant, problem["loc"]
    if place == "header" and problem["type"] == "missing":
        told = next(param.field_info for param in route.header_params if param.alias == below[0])
        return f": {told.description}, such as {told.examples[0]}"
    if problem["type"] != UNKNOWN_KEY or len(below) != 1 or len(route.body_params) != 1:
        return ""
    known = getattr(route.body_params[0].field_info.annotation, "model_fields", {})
    close = difflib.get_close_matches(str(below[0]), known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""

"""The OpenAPI document: what the routes say of themselves, and here, in one place, how each of them can fail.

    python -m graftwork.api.application.openapi docs/openapi.json

writes the document of a server with an embedded engine.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from graftwork import errors
from graftwork.api.application.examples import error_of, example_of
from graftwork.api.middleware.errors import INFERENCE_PREFIX, inference_problem, inference_status, problem
from graftwork.api.schemas.problem import InferenceProblem, Problem
from graftwork.errors import GraftworkError, outcome

Kinds = Sequence[type[GraftworkError]]

METHODS = ("get", "put", "post", "delete", "head", "patch")
PUBLIC = ("/healthz", "/readyz")
PLAIN = ("/metrics",)
TAGS = {
    "aliases": "Names that move: compare-and-set, with the history of every move.",
    "artifacts": "What the registry holds: named lines of immutable versions, and their files.",
    "audit": "Who changed what, and when.",
    "evaluations": "How good versions are, measured on datasets.",
    "health": "Whether the server lives and is ready, and its metrics.",
    "inference": "OpenAI's dialect: completions, chat, embeddings and classes by any version of any adapter.",
    "jobs": "Work that goes on after its request was answered.",
    "lineage": "What was made from what.",
    "marks": "Versions that are quarantined or withdrawn.",
    "merges": "Merge methods, merges and sweeps over their parameters.",
    "quotas": "How much a namespace may hold.",
    "rebuilds": "Making descendants again without an input that was withdrawn.",
    "residents": "Adapters that engines hold.",
    "schedules": "Work that is done again and again.",
    "tags": "Labels of artifacts.",
    "tokens": "Bearer tokens and what they grant.",
    "uploads": "Models on their way in: whole, or in parts that can be resumed.",
}
SECURITY = {
    "bearer": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token that `graft tokens` or POST /api/v1/tokens made.",
    }
}

ANY: Kinds = (errors.Unauthorized, errors.Forbidden, errors.RateLimited, errors.InvalidRequest, errors.OperationFailed)
"""What every route of `/api/v1` can answer."""
BY_PARAMETER: dict[str, Kinds] = {
    "name": (errors.ArtifactNotFound, errors.InvalidName),
    "revision": (errors.RevisionNotFound, errors.InvalidReference, errors.VersionWithdrawn),
    "alias": (errors.AliasNotFound,),
    "job_id": (errors.JobNotFound,),
    "token_id": (errors.TokenNotFound,),
    "upload_id": (errors.UploadNotFound,),
    "method": (errors.UnknownMethod,),
    "namespace": (errors.InvalidName,),
    "path": (errors.SourceNotFound, errors.StorageUnavailable),
}
"""What follows from a parameter of the path."""
BODY: Kinds = (errors.TooLarge, errors.IdempotencyKeyReused, errors.RequestInFlight, errors.StorageFull)
"""What every request that changes something can be answered."""
NAMING: Kinds = (
    errors.ArtifactNotFound,
    errors.RevisionNotFound,
    errors.InvalidReference,
    errors.VersionQuarantined,
    errors.VersionWithdrawn,
)
"""What a request that names versions in its body can be answered."""
CONTENT: Kinds = (
    errors.UnsafeFile,
    errors.InvalidSafetensors,
    errors.InvalidCheckpoint,
    errors.InvalidAdapter,
    errors.IncompatibleAdapter,
    errors.NonFiniteTensor,
    errors.KindConflict,
    errors.QuotaExceeded,
    errors.StorageUnavailable,
)
"""What the gate can answer."""
PLANNING: Kinds = (
    *NAMING,
    errors.InvalidRecipe,
    errors.UnknownParameter,
    errors.InvalidParameter,
    errors.IncompatibleModels,
    errors.SourceNotFound,
    errors.KindConflict,
    errors.HubUnavailable,
    errors.StorageUnavailable,
)
SERVING: Kinds = (
    errors.Unauthorized,
    errors.Forbidden,
    errors.InvalidRequest,
    errors.ModelNotFound,
    errors.ArtifactNotFound,
    errors.VersionQuarantined,
    errors.VersionWithdrawn,
    errors.TooLarge,
    errors.UnservableAdapter,
    errors.RateLimited,
    errors.QueueFull,
    errors.NoAdapterCapacity,
    errors.OperationFailed,
    errors.EngineUnavailable,
    errors.DeadlineExceeded,
)
"""What a route of `/v1` can answer."""
BY_PATH: tuple[tuple[str, Kinds], ...] = (
    (r"post /api/v1/(adapters|checkpoints)", (*NAMING, *CONTENT, errors.InvalidName, errors.AdapterProbeFailed)),
    (
        r"post /api/v1/uploads",
        (*NAMING, errors.InvalidName, errors.UnsafeFile, errors.KindConflict, errors.QuotaExceeded),
    ),
    (r"put /api/v1/uploads/.*", (errors.UploadConflict, errors.DigestMismatch, errors.SourceNotFound)),
    (
        r"post /api/v1/uploads/.*/arrived",
        (errors.ArrivalNotFound, errors.UploadConflict, errors.DigestMismatch, errors.StorageUnavailable),
    ),
    (r"post /api/v1/uploads/.*/complete", (*NAMING, *CONTENT, errors.UploadConflict, errors.DigestMismatch)),
    (r"delete /api/v1/uploads/.*", (errors.UploadConflict,)),
    (
        r"put .*/aliases/.*",
        (errors.AliasConflict, errors.VersionQuarantined, errors.NoAdapterCapacity, errors.QueueFull),
    ),
    (r"(post|put|delete) .*/schedules.*", (errors.ScheduleExists, *PLANNING)),
    (r".*/schedules/.*", (errors.ScheduleNotFound,)),
    (r"post /api/v1/(merges|jobs|evaluations|rebuilds.*|sweeps)", (*PLANNING, errors.InvalidSweep, errors.InvalidName)),
    (r"get /api/v1/jobs", (errors.JobNotFound,)),
    (r"delete .*/versions/\{revision\}", (errors.VersionInUse,)),
    (r"put .*/residents/.*", (errors.ModelNotFound, errors.NoAdapterCapacity, errors.UnservableAdapter)),
)
"""What follows from what a route does, by a pattern of its method and path."""
CONDITIONAL = r"(put|delete) .*/aliases/\{alias\}"
"""Routes that answer 412 to a header that does not hold."""


def install(app: FastAPI) -> None:
    """Make `app` describe itself with this document; its routes must be there."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = build(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def build(app: FastAPI) -> dict[str, Any]:
    """The document of the app's routes."""
    found: dict[str, Any] = get_openapi(
        title=app.title, version=app.version, summary=app.summary, routes=app.routes, openapi_version="3.1.0"
    )
    schemas = found.setdefault("components", {}).setdefault("schemas", {})
    for model in (Problem, InferenceProblem):
        described = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(described.pop("$defs", {}))
        schemas[model.__name__] = described
    examples = found["components"].setdefault("examples", {})
    for path, item in found["paths"].items():
        for method in METHODS:
            if method in item:
                _complete(item[method], method, path, schemas, examples)
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    found["components"]["securitySchemes"] = SECURITY
    found["security"] = [{"bearer": []}, {}]
    used = {tag for item in found["paths"].values() for operation in item.values() for tag in operation.get("tags", ())}
    found["tags"] = [{"name": tag, "description": TAGS[tag]} for tag in sorted(used) if tag in TAGS]
    return found


def errors_of(method: str, path: str) -> Iterator[type[GraftworkError]]:
    """How the route can fail, each class once or more."""
    if path in (*PUBLIC, *PLAIN):
        return
    if path.startswith(INFERENCE_PREFIX + "/"):
        yield from SERVING
        return
    yield from ANY
    for parameter in re.findall(r"\{(\w+)\}", path):
        if not (parameter == "name" and "/schedules/" in path):
            yield from BY_PARAMETER.get(parameter, ())
    if method in ("post", "put", "delete", "patch"):
        yield from BODY
    for pattern, kinds in BY_PATH:
        if re.fullmatch(pattern, f"{method} {path}"):
            yield from kinds


def _complete(
    operation: dict[str, Any], method: str, path: str, schemas: dict[str, Any], examples: dict[str, Any]
) -> None:
    """Failures, examples, and a short id."""
    suffix = re.sub(r"\W", "_", f"{path}_{method}")
    operation["operationId"] = operation["operationId"].removesuffix(suffix).rstrip("_")
    responses: dict[str, Any] = operation["responses"]
    if responses.get("422", {}).get("description") == "Validation Error":
        del responses["422"]
    if path in PUBLIC:
        operation["security"] = []
    by_status: dict[int, dict[str, type[GraftworkError]]] = defaultdict(dict)
    inference = path.startswith(INFERENCE_PREFIX + "/")
    for kind in errors_of(method, path):
        error = error_of(kind)
        by_status[inference_status(error) if inference else outcome(error).status][kind.code] = kind
    if re.fullmatch(CONDITIONAL, f"{method} {path}"):
        by_status[412] = {errors.AliasConflict.code: errors.AliasConflict}
    for status, kinds in sorted(by_status.items()):
        responses[str(status)] = _failure(status, kinds, examples, inference=inference)
    for code, response in responses.items():
        if code < "400" or path in PUBLIC:
            _exemplify(response.get("content", {}), schemas, whole=True)
    _exemplify(operation.get("requestBody", {}).get("content", {}), schemas, whole=False)
    operation["responses"] = dict(sorted(responses.items()))


def _failure(
    status: int, kinds: dict[str, type[GraftworkError]], examples: dict[str, Any], *, inference: bool
) -> dict[str, Any]:
    shown = {}
    for code, kind in sorted(kinds.items()):
        error = error_of(kind)
        body = inference_problem(error).model_dump() if inference else problem(error, status=status).model_dump()
        key = f"{code}_{status}{'_inference' if inference else ''}"
        examples[key] = {"value": body}
        shown[code] = {"$ref": f"#/components/examples/{key}"}
    name, media = ("InferenceProblem", "application/json") if inference else ("Problem", "application/problem+json")
    described: dict[str, Any] = {
        "description": HTTPStatus(status).phrase,
        "content": {media: {"schema": {"$ref": f"#/components/schemas/{name}"}, "examples": shown}},
    }
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        described["headers"] = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}
    if status == HTTPStatus.UNAUTHORIZED:
        described["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return described


def _exemplify(content: dict[str, Any], schemas: dict[str, Any], *, whole: bool) -> None:
    for media, described in content.items():
        if media == "application/json" and not {"example", "examples"} & described.keys():
            schema = described.get("schema", {})
            described["examples"] = {"example": {"value": example_of(schema, schemas, whole=whole)}}


def text_of(document: dict[str, Any]) -> str:
    """The document as it is kept in docs/openapi.json."""
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def main(arguments: Sequence[str]) -> None:
    """Write the document to the file that is named."""
    from graftwork.api.application.app import create_app
    from graftwork.settings import Settings

    Path(arguments[0]).write_text(text_of(create_app(Settings(home=Path("unused"))).openapi()))


if __name__ == "__main__":
    main(sys.argv[1:])

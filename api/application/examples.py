"""Examples for the OpenAPI document: made from schemas, with values that read like the real ones."""

from __future__ import annotations

import inspect
import string
from collections.abc import Mapping
from typing import Any

from graftwork.errors import GraftworkError

DIGEST = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
OTHER = "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752"
MOMENT = "2026-05-04T12:00:00Z"
MAX_DEPTH = 30

VALUES: Mapping[str, Any] = {
    "action": "alias.move", "actor": "ada", "after": DIGEST, "alias": "prod", "aliases": ["prod"], "attempt": 1,
    "available": "12884901888", "base": OTHER, "before": OTHER, "child": DIGEST, "code": "artifact_not_found",
    "content": "Yes.", "created": 1777896000, "cron": "0 3 * * *", "detail": "There is no artifact acme/x.",
    "digest": DIGEST, "dtype": "bfloat16", "error": None, "expires_at": None, "finish_reason": "stop",
    "finished_at": None, "id": "6f1c2f0f9a5e4f4f8f3b6f0f5a1d2c3e", "kind": "adapter", "limit": 100,
    "max_attempts": 3, "message": "There is no artifact acme/x.", "method": "ties", "model": "acme/support@prod",
    "name": "acme/support", "namespace": "acme", "number": 3, "object": "list", "owned_by": "acme", "owner": "ada",
    "parent": OTHER, "parts": 297, "path": "adapter_model.safetensors", "position": 0, "progress": 0.25,
    "reason": "uploaded v3", "ref": "acme/support@v3", "relation": "adapter_of", "revision": DIGEST[:40],
    "root": "acme/support@v3", "secret": "gw_Qm9v...", "sha256": DIGEST, "size": 16777216, "source": "acme/llama",
    "space": "delta", "state": "running", "status": 404, "tag": "nightly", "tags": ["nightly"],
    "target": "acme/support",
    "text": "Yes.", "time_zone": "Europe/Berlin", "title": "Artifact not found", "token": "gw_Qm9v...",
    "type": "urn:graftwork:problem:artifact_not_found", "version": DIGEST, "versions": 3, "weight": 0.5,
}  # fmt: skip
"""By the name of a property."""

MERGE = {
    "merge_method": "ties",
    "base_model": "acme/llama",
    "models": [{"model": "acme/support@prod", "parameters": {"weight": 0.5}}, {"model": "acme/legal@v3"}],
    "parameters": {"density": 0.5},
}
REQUESTS: Mapping[str, Any] = {
    "AliasTarget": {"digest": DIGEST, "expected": OTHER, "reason": "passed the evaluation"},
    "ChatRequest": {
        "model": "acme/llama+acme/support@prod",
        "messages": [{"role": "user", "content": "Is my parcel on its way?"}],
        "max_tokens": 64,
    },
    "ClassifyRequest": {"model": "acme/topics@prod", "input": ["My parcel is late."]},
    "CompletionRequest": {"model": "acme/support@prod", "prompt": "My parcel", "max_tokens": 16},
    "EmbeddingsRequest": {"model": "acme/encoder", "input": ["My parcel is late."]},
    "MergeRequest": {"recipe": MERGE, "name": "acme/both"},
    "SweepRequest": {
        "name": "acme/both",
        "recipe": MERGE,
        "grid": {"parameters.density": [0.3, 0.5, 0.7]},
        "evaluate": {"dataset": "acme/questions", "metric": "accuracy"},
    },
    "ScheduleRequest": {
        "name": "acme/nightly",
        "cron": "0 3 * * *",
        "time_zone": "Europe/Berlin",
        "kind": "merge",
        "payload": {"recipe": MERGE, "name": "acme/both"},
    },
    "UploadRequest": {
        "name": "acme/llama",
        "kind": "base",
        "aliases": ["prod"],
        "files": [
            {"path": "config.json", "size": 654},
            {"path": "model.safetensors", "size": 4976698672, "sha256": DIGEST},
        ],
    },
}
"""Whole requests whose members depend on each other, by the name of the schema."""


def example_of(
    schema: Mapping[str, Any], components: Mapping[str, Any], *, name: str = "", whole: bool = True, depth: int = 0
) -> Any:
    """A value that `schema` accepts. With `whole` it has every property, otherwise those that a request needs."""
    if "$ref" in schema:
        key = str(schema["$ref"]).rpartition("/")[2]
        if not whole and key in REQUESTS:
            return REQUESTS[key]
        return example_of(components[key], components, name=name, whole=whole, depth=depth + 1)
    for member in ("examples", "const", "enum"):
        if member in schema:
            return schema[member] if member == "const" else schema[member][0]
    options = [option for option in schema.get("anyOf", schema.get("oneOf", ())) if option.get("type") != "null"]
    if name in VALUES and depth <= MAX_DEPTH and _suits(VALUES[name], schema):
        return VALUES[name]
    if options:
        return example_of(options[0], components, name=name, whole=whole, depth=depth + 1)
    if "allOf" in schema:
        return example_of(schema["allOf"][0], components, name=name, whole=whole, depth=depth + 1)
    return _of_type(schema, components, name, whole, depth)


def _of_type(schema: Mapping[str, Any], components: Mapping[str, Any], name: str, whole: bool, depth: int) -> Any:
    if "default" in schema and schema["default"] is not None:
        return schema["default"]
    kind = schema.get("type")
    if kind == "object":
        return _object(schema, components, whole, depth)
    if kind == "array":
        items = schema.get("items")
        if items is None or depth > MAX_DEPTH or items.get("$ref") == schema.get("$id"):
            return []
        return [example_of(items, components, name=name.removesuffix("s"), whole=whole, depth=depth + 1)]
    plain: Mapping[Any, Any] = {
        "integer": int(schema.get("minimum", 1)),
        "number": schema.get("minimum", 0.5),
        "boolean": False,
        "null": None,
        "string": MOMENT
        if schema.get("format") == "date-time"
        else DIGEST
        if "0-9a-f" in schema.get("pattern", "")
        else "text",
    }
    return plain.get(kind, {})


def _object(schema: Mapping[str, Any], components: Mapping[str, Any], whole: bool, depth: int) -> dict[str, Any]:
    required = schema.get("required", ())
    shown = {
        key: value
        for key, value in schema.get("properties", {}).items()
        if depth <= MAX_DEPTH and (whole or key in required or "examples" in value)
    }
    found = {key: example_of(value, components, name=key, whole=whole, depth=depth + 1) for key, value in shown.items()}
    more = schema.get("additionalProperties")
    if not found and isinstance(more, Mapping) and more and depth <= MAX_DEPTH:
        found = {"prod": example_of(more, components, name="digest", whole=whole, depth=depth + 1)}
    return found


def _suits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a value by name is of the schema's type."""
    kinds = {schema.get("type"), *(option.get("type") for option in schema.get("anyOf", ()))}
    if value is None:
        return "null" in kinds
    if isinstance(value, str) and {"format", "pattern"} & schema.keys():
        return schema.get("pattern") is not None and "0-9a-f" in schema["pattern"] and value == DIGEST
    if any({"format", "pattern"} & option.keys() for option in schema.get("anyOf", ())):
        return False
    if isinstance(value, list) and schema.get("items", {}).get("type") != "string":
        return False
    names = {int: "integer", float: "number", str: "string", list: "array"}
    return names[type(value)] in kinds and "additionalProperties" not in schema


FIELDS: Mapping[str, Any] = {
    "actual": OTHER, "adapter": "acme/support@v3", "alias": "prod", "available": 1024, "base": "acme/llama@v1",
    "count": 2, "expected": DIGEST, "field": "name", "free": 8, "id": "6f1c2f0f9a5e4f4f8f3b6f0f5a1d2c3e",
    "key": "3d6c", "known": "latest, v1", "limit": "4000000000 bytes", "name": "acme/support", "needed": 16,
    "namespace": "acme", "offered": "adapter", "owner": "ada", "path": "adapter_model.safetensors",
    "ref": "acme/support@v3",
    "reason": "it is not as it was declared", "retry_after": 1, "revision": "v9", "scope": "write", "seconds": 60,
    "source": "config.json", "tensor": "model.norm.weight", "total": 1024, "users": "acme/both@v1",
    "value": "nonsense",
    "waiting": 1024, "what": "The upload", "where": "models[0]", "model": "acme/support", "method": "tie",
}  # fmt: skip


def error_of(kind: type[GraftworkError]) -> GraftworkError:
    """An error of this class as somebody could meet it."""
    template = inspect.cleandoc(kind.__doc__ or "")
    names = [name for _, name, _, _ in string.Formatter().parse(template) if name]
    return kind(**{name: FIELDS.get(name, "what was given") for name in names})

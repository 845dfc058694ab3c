"""A request to a Graftwork server as a value: what to send, and how to read the answer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

from pydantic import TypeAdapter

from graftwork.registry.refs import Name, Ref

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")
API = "/api/v1"

File = tuple[str, tuple[str, Path]]
"""The form field and the name of a file, and where it is."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A request whose answer is read by `read`. A client sends it: `client(call)`."""

    method: str
    path: str
    read: Callable[[httpx.Response], T]
    query: Mapping[str, Any] | None = None
    json: Any = None
    form: Mapping[str, str] | None = None
    files: Sequence[File] = ()
    content: bytes | None = None
    headers: Mapping[str, str] | None = None


Steps = Generator[Call[Any], Any, T]
"""Calls one after another, each of which is answered before the next: `client(steps)` gives what they return."""


def call(
    method: str,
    path: str,
    answer: type[T],
    *,
    query: Mapping[str, Any] | None = None,
    json: Any = None,
    content: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Call[T]:
    """A request below `/api/v1` that is answered with JSON of the type `answer`; None is left out of `query`."""
    adapter: TypeAdapter[T] = TypeAdapter(answer)
    given = {name: value for name, value in (query or {}).items() if value is not None}
    return Call(
        method,
        API + path,
        lambda response: adapter.validate_json(response.content),
        given,
        json,
        content=content,
        headers=headers,
    )


def silent(method: str, path: str, *, query: Mapping[str, Any] | None = None) -> Call[None]:
    """A request below `/api/v1` that is answered with nothing."""
    return Call(method, API + path, lambda response: None, query)


def artifact_path(name: str, *rest: str) -> str:
    """The path of the artifact `ns/name`, or of what is below it; each part of `rest` is one segment."""
    parsed = Name.parse(name)
    return "/artifacts/" + "/".join(quote(part, safe="") for part in (parsed.namespace, parsed.name, *rest))


def version_path(ref: str, *rest: str) -> str:
    """The path of the version that `ns/name`, `@alias`, `@v3` or `@` and a digest means, or of what is below it."""
    parsed = Ref.parse(ref)
    return artifact_path(str(parsed.name), "versions", parsed.revision or "latest", *rest)

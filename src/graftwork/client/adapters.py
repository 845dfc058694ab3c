"""Calls about adapters."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from graftwork.api.schemas.versions import RegisteredOut
from graftwork.client.call import API, Call
from graftwork.errors import SourceNotFound


def upload(name: str, folder: str | Path, *, base: str | None = None, alias: str | None = None) -> Call[RegisteredOut]:
    """Register the PEFT adapter in `folder` as a version of `ns/name`; the same content again is the same version.

    base:  its base's reference; needed unless its configuration names it
    alias: an alias to point at it, once a running server has loaded and probed it
    """
    place = Path(folder)
    files = sorted(path for path in place.iterdir() if path.is_file()) if place.is_dir() else []
    if not files:
        raise SourceNotFound(source=str(folder), expected="a folder with an adapter's files")
    form = {"name": name, "base": base, "alias": alias}
    reader = TypeAdapter(RegisteredOut)
    return Call(
        "POST",
        f"{API}/adapters",
        lambda response: reader.validate_json(response.content),
        form={field: value for field, value in form.items() if value is not None},
        files=[("files", (path.name, path)) for path in files],
    )

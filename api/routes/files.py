"""`/api/v1/artifacts/{namespace}/{name}/versions/{revision}/files/...`: the bytes of a version, as they were given."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, RedirectResponse, Response

from graftwork.api.dependencies.services import NameDep, RegistryDep
from graftwork.errors import SourceNotFound
from graftwork.registry.refs import Ref
from graftwork.registry.transfer.snapshots import stored_file

router = APIRouter(prefix="/artifacts/{namespace}/{name}/versions/{revision}/files", tags=["artifacts"])

FOREVER = "public, max-age=31536000, immutable"
AGAIN = "no-cache"
BYTES = "application/octet-stream"
REDIRECT_SECONDS = 900
REDIRECT: dict[int | str, dict[str, Any]] = {307: {"description": "The object storage has the bytes: GET them there."}}


@router.get("/{path:path}", response_class=FileResponse, responses=REDIRECT)
@router.head("/{path:path}", include_in_schema=False)
def get_file(name: NameDep, revision: str, path: str, request: Request, registry: RegistryDep) -> Response:
    """One file, whole or in ranges; the ETag is its SHA-256. Under a full digest it may be cached forever.

    Where blobs are in an object storage, the answer redirects to it, with a URL that holds for a while.
    """
    version = registry.catalog.resolve(Ref.parse(f"{name}@{revision}"))
    file = next((file for file in version.files if file.path == path), None)
    if file is None:
        files = ", ".join(file.path for file in version.files)
        raise SourceNotFound(source=f"{version.ref}/{path}", expected=f"one of {files}")
    etag = f'"{file.sha256}"'
    headers = {"ETag": etag, "Cache-Control": FOREVER if revision == version.digest else AGAIN}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    if request.method == "HEAD" and registry.blobs.remote:
        size = {"Accept-Ranges": "bytes", "Content-Length": str(file.size)}
        return Response(headers={**headers, **size}, media_type=BYTES)
    url = registry.blobs.presign(file.sha256, file.generation, seconds=REDIRECT_SECONDS)
    if url is not None:
        return RedirectResponse(url, status_code=307, headers={"ETag": etag, "Cache-Control": "no-store"})
    return FileResponse(stored_file(registry, version, file), headers=headers, media_type=BYTES)

"""`/api/v1/artifacts/{namespace}/{name}/versions/{revision}/files/...`: the bytes of a version, as they were given."""

from __future__ import annotations

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response

from graftwork.api.deps import NameDep, RegistryDep
from graftwork.errors import SourceNotFound
from graftwork.registry.refs import Ref

router = APIRouter(prefix="/artifacts/{namespace}/{name}/versions/{revision}/files", tags=["artifacts"])

FOREVER = "public, max-age=31536000, immutable"
AGAIN = "no-cache"


@router.get("/{path:path}", response_class=FileResponse)
@router.head("/{path:path}", include_in_schema=False)
def get_file(name: NameDep, revision: str, path: str, request: Request, registry: RegistryDep) -> Response:
    """One file, whole or in ranges; the ETag is its SHA-256. Under a full digest it may be cached forever."""
    version = registry.catalog.resolve(Ref.parse(f"{name}@{revision}"))
    file = next((file for file in version.files if file.path == path), None)
    if file is None:
        files = ", ".join(file.path for file in version.files)
        raise SourceNotFound(source=f"{version.ref}/{path}", expected=f"one of {files}")
    etag = f'"{file.sha256}"'
    headers = {"ETag": etag, "Cache-Control": FOREVER if revision == version.digest else AGAIN}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return FileResponse(registry.blobs.path(file.sha256), headers=headers, media_type="application/octet-stream")

"""Reading repositories: what is in them at a revision, and the bytes of their files."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import quote, urlencode

from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response

from graftwork.api.hub.bodies import parse_form
from graftwork.api.hub.call import Call
from graftwork.api.hub.card import card_data
from graftwork.api.hub.entries import Entry, described, entries, folder, sibling
from graftwork.api.streams.bodies import parse_object
from graftwork.errors import ArtifactNotFound, EntryNotFound, InvalidRequest
from graftwork.registry.arrivals.repositories import COMMIT, View
from graftwork.registry.versions.version import Version

PAGE = 1000
MAX_PATHS = 1000
PRESIGNED_SECONDS = 3600
FOREVER = "private, max-age=31536000, immutable"
AGAIN = "no-cache"


def info(call: Call) -> Response:
    """`GET /api/models/NAMESPACE/NAME[/revision/REVISION]`."""
    view = _view(call)
    detailed = call.flag("blobs")
    siblings = [sibling(entry, detailed=detailed) for entry in entries(call.registry, view).values()]
    return JSONResponse({**summary(call, view), "siblings": siblings, "spaces": []})


def summary(call: Call, view: View) -> dict[str, Any]:
    """What is said of a model in `info` and in lists, without its files."""
    repository = call.registry.repositories.find(view.name)
    data = {"tags": ["graftwork", "draft"]} if view.version is None else card_data(call.registry, view.version)
    tags = [*data["tags"], *_tags(call, view)]
    library = data.get("library_name")
    for base in _listed(data.get("base_model")):
        tags += [f"base_model:{base}", f"base_model:{data['base_model_relation']}:{base}"]
    return {
        "_id": view.revision[:24],
        "id": str(repository.name),
        "modelId": str(repository.name),
        "author": repository.name.namespace,
        "sha": view.revision,
        "private": repository.private,
        "gated": False,
        "disabled": False,
        "downloads": 0,
        "likes": 0,
        "tags": list(dict.fromkeys(tags if library is None else [library, *tags])),
        **({} if library is None else {"library_name": library}),
        "cardData": data,
        "createdAt": iso(repository.created_at),
        "lastModified": iso(view.since),
        "usedStorage": sum(file.size for file in view.files),
    }


def tree(call: Call) -> Response:
    """`GET .../tree/REVISION[/FOLDER]`, a page at a time."""
    view = _view(call)
    found = entries(call.registry, view)
    prefix = f"{call.place.path.strip('/')}/" if call.place.path else ""
    inside = {path: entry for path, entry in found.items() if path.startswith(prefix)}
    if prefix and not inside:
        raise EntryNotFound(name=view.name, path=call.place.path, revision=view.revision)
    items = _items(inside, prefix, recursive=call.flag("recursive"))
    after = call.request.query_params.get("cursor", "")
    items = [item for item in items if item["path"] > after]
    page = items[:PAGE]
    headers = {}
    if len(items) > PAGE:
        query = urlencode({**call.request.query_params, "cursor": page[-1]["path"]})
        place = call.request.scope["raw_path"].decode("ascii")
        headers["Link"] = f'<{call.url}{place}?{query}>; rel="next"'
    return JSONResponse(page, headers=headers)


def paths_info(call: Call) -> Response:
    """`POST .../paths-info/REVISION`: the files and folders among the paths of the body; others are left out."""
    view = _view(call)
    if call.request.headers.get("content-type", "").startswith("application/json"):
        given = parse_object(call.body).get("paths")
        paths = given if isinstance(given, list) else [given]
    else:
        paths = list(parse_form(call.body).get("paths", []))
    if len(paths) > MAX_PATHS or not all(isinstance(path, str) for path in paths):
        raise InvalidRequest(field="paths", reason=f"it must be at most {MAX_PATHS} paths")
    found = entries(call.registry, view)
    folders = _folders(found)
    items = [described(found[path]) if path in found else folder(path) for path in paths if path in {*found, *folders}]
    return JSONResponse(items)


def refs(call: Call) -> Response:
    """`GET .../refs`: `main` is the branch; aliases and versions are tags."""
    call.repository()
    head = call.registry.repositories.view(call.name)
    tags: list[dict[str, str]] = []
    try:
        versions = call.registry.catalog.versions(call.name)
        known = {version.digest: version for version in versions}
        aliases = call.registry.aliases.get(call.name)
    except ArtifactNotFound:
        versions, known, aliases = [], {}, {}
    tags += [_tag(entry.alias, known[entry.digest]) for entry in aliases.values() if entry.digest in known]
    tags += [_tag(f"v{version.number}", version) for version in versions]
    branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": head.revision}
    body: dict[str, Any] = {"branches": [branch], "converts": [], "tags": tags}
    return JSONResponse(body | ({"pullRequests": []} if call.flag("include_prs") else {}))


def commits(call: Call) -> Response:
    """`GET .../commits/REVISION`: the versions up to the one at the revision, newest first, as commits."""
    view = _view(call)
    items = [] if view.version is not None else [_commit(view.revision, "", view.since, "draft")]
    try:
        versions = call.registry.catalog.versions(call.name)
    except ArtifactNotFound:
        versions = []
    newest = view.version.number if view.version is not None else len(versions)
    for version in versions:
        if version.number <= newest:
            title = str(version.metadata.get("message") or f"v{version.number}")
            items.append(_commit(version.revision, version.ref, version.created_at, title))
    return JSONResponse(items)


def resolve(call: Call) -> Response:
    """`GET` or `HEAD /NAMESPACE/NAME/resolve/REVISION/PATH`: the bytes of a file, whole or in ranges."""
    view = _view(call)
    path = call.place.path
    if path not in (found := {file.path: Entry(file) for file in view.files}):
        found = entries(call.registry, view)
    if (entry := found.get(path)) is None:
        raise EntryNotFound(name=view.name, path=path, revision=view.revision)
    file = entry.file
    headers = {
        "X-Repo-Commit": view.revision,
        "ETag": f'"{file.sha256}"',
        "X-Linked-ETag": f'"{file.sha256}"',
        "X-Linked-Size": str(file.size),
        "Cache-Control": FOREVER if COMMIT.fullmatch(call.place.revision) else AGAIN,
        "Content-Disposition": f"inline; filename*=UTF-8''{quote(path.rpartition('/')[2])}",
        "X-Content-Type-Options": "nosniff",
    }
    if call.request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    if entry.content is not None:
        return Response(entry.content, headers=headers, media_type="text/plain; charset=utf-8")
    blobs = call.registry.blobs
    if blobs.remote and (away := blobs.presign(file.sha256, file.generation, seconds=PRESIGNED_SECONDS)) is not None:
        return RedirectResponse(away, 302, headers=headers | {"Cache-Control": "no-store"})
    place = blobs.path(file.sha256, file.generation)
    return FileResponse(place, headers=headers, media_type="application/octet-stream")


def iso(time: datetime) -> str:
    """A time as the Hub writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.") + f"{time.microsecond // 1000:03d}Z"


def _view(call: Call) -> View:
    call.repository()
    return call.registry.repositories.view(call.name, call.place.revision)


def _tags(call: Call, view: View) -> list[str]:
    try:
        return call.registry.tags.get(view.name)
    except ArtifactNotFound:
        return []


def _listed(value: Any) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _items(inside: dict[str, Entry], prefix: str, *, recursive: bool) -> list[dict[str, Any]]:
    items = {path: described(entry) for path, entry in inside.items() if recursive or "/" not in path[len(prefix) :]}
    for path in _folders(inside):
        if path.startswith(prefix) and (recursive or "/" not in path[len(prefix) :]):
            items[path] = folder(path)
    return [items[path] for path in sorted(items)]


def _folders(found: dict[str, Entry]) -> set[str]:
    parts = (path.split("/") for path in found)
    return {"/".join(part[:end]) for part in parts for end in range(1, len(part))}


def _tag(name: str, version: Version) -> dict[str, str]:
    return {"name": name, "ref": f"refs/tags/{name}", "targetCommit": version.revision}


def _commit(revision: str, message: str, date: datetime, title: str) -> dict[str, Any]:
    return {"id": revision, "title": title, "message": message, "authors": [], "date": iso(date)}

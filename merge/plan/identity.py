"""What tells one merge from another: a partial output is continued only by the merge that began it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from pathlib import Path

from graftwork import __version__
from graftwork.merge.models.readers import Reader
from graftwork.merge.plan.local_files import file_stamps
from graftwork.merge.plan.plan import Plan
from graftwork.merge.recipe.recipe import digest


def identity(plan: Plan) -> str:
    """SHA-256 of everything the output's bytes follow from, 64 hex digits.

    The recipe; every input, by digest where it is a version of the registry, else by path, size, time of change and
    header; the code; the layout of the output. Neither threads nor memory: they change no byte.
    """
    layout = [[shard.file, [list(map(str, tensor)) for tensor in shard.tensors]] for shard in plan.shards]
    parts = {
        "recipe": digest(plan.recipe),
        "method": plan.method.name,
        "inputs": [_of_source(source) for source in plan.sources],
        "files": file_stamps(plan.recipe, plan.method),
        "layout": layout,
        "code": [__version__, *_of_code()],
    }
    return sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _of_source(source: Reader) -> Mapping[str, object]:
    origin, root = source.origin, source.layout.root
    headers = sha256(repr([(name, header.tensors) for name, header in source.layout.headers.items()]).encode())
    if origin.version is not None and (origin.adapter is None or origin.adapter.version is not None):
        adapter = None if origin.adapter is None or origin.adapter.version is None else origin.adapter.version.digest
        return {"digest": origin.version.digest, "adapter": adapter, "headers": headers.hexdigest()}
    stamps = {name: [stamp.size, stamp.modified_ns, stamp.inode] for name, stamp in source.stamps.items()}
    statuses = {name: (root / name).stat() for name in source.layout.files}
    files = {name: [status.st_size, status.st_mtime_ns] for name, status in statuses.items()}
    return {"path": str(root.resolve()), "stamps": stamps, "files": files, "headers": headers.hexdigest()}


@cache
def _of_code() -> list[object]:
    """The files that compute, by content: an installation that was edited or upgraded is another."""
    root = Path(__file__).parents[1]
    files = [path for path in (*root.rglob("*.py"), *root.with_name("kernels").glob("*.so")) if path.is_file()]
    return [[path.name, sha256(path.read_bytes()).hexdigest()] for path in sorted(files)]

"""Commits to repositories: applied to the tree they were made for, examined, and registered once their tree is whole.

A tree is whole when nothing that a model of its sort needs is missing. Then it passes the importer's gate and is a
version, or the commit is refused with the gate's reason. Until then it is a draft; what can never be part of a version
is refused at once.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy.orm import Session

from graftwork.errors import EntryNotFound, GraftworkError, OperationFailed, StaleCommit, UnsafeFile
from graftwork.registry.arrivals.repositories import Proposal, View
from graftwork.registry.formats.config import read_json, refuse_code
from graftwork.registry.formats.folder import is_taken, list_files
from graftwork.registry.formats.peft import CONFIG_FILE, parse_lora_config
from graftwork.registry.formats.safetensors import read_header
from graftwork.registry.refs import Name
from graftwork.registry.registry import Registry
from graftwork.registry.storage.blobs import StagedBlob
from graftwork.registry.transfer.importer import import_source
from graftwork.registry.transfer.wholeness import Origin, missing_from, origin_of
from graftwork.registry.versions.manifest import FileEntry
from graftwork.registry.versions.version import Version

ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Addition:
    """A file to put at a path, in place of what is there."""

    path: str
    blob: StagedBlob


@dataclass(frozen=True, slots=True)
class Reuse:
    """A file whose bytes the repository holds already, to put at a path."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Deletion:
    """A file to take away, or a folder with all that is in it."""

    path: str
    is_folder: bool


Operation = Addition | Reuse | Deletion


@dataclass(frozen=True, slots=True)
class Change:
    """A commit as it was sent. `parent` is the start of the revision it was made for, if that was said."""

    operations: Sequence[Operation]
    message: str
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a commit has become: `missing` says why it is a draft; None when it is a version."""

    view: View
    missing: str | None


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A tree in a folder: hard links to blobs, and the files that are new."""

    head: View
    tree: Mapping[str, FileEntry]
    fresh: Mapping[str, StagedBlob]
    folder: Path


def commit(registry: Registry, name: Name, change: Change, *, actor: str) -> Outcome:
    """Apply a commit to `main` and record it. One that changes nothing is answered with what is there.

    Raises StaleCommit when `main` has moved on since the commit's parent, EntryNotFound for a deletion of what is not
    there, ArtifactNotFound, Forbidden, and InvalidContent of every sort for a tree that can never be a version.
    """
    for turn in range(ATTEMPTS):
        head = registry.repositories.view(name)
        tree, fresh = _apply(head, change.operations)
        if tree == head.tree and _follows(head, change.parent):
            return Outcome(head, None if head.version is not None else "it is the draft that was there")
        if change.parent is not None and not head.revision.startswith(change.parent):
            raise StaleCommit(name=name, actual=head.revision, expected=change.parent)
        try:
            with _laid_out(registry, head, tree, fresh) as attempt:
                return _record(registry, change, attempt, actor)
        except StaleCommit:
            if change.parent is not None or turn == ATTEMPTS - 1:
                raise
    raise AssertionError("unreachable")


def _follows(head: View, parent: str | None) -> bool:
    """Whether a commit that changes nothing was made for `head`, or is the one that made it, sent again."""
    return parent is None or head.revision.startswith(parent) or (head.parent or "").startswith(parent)


def _apply(head: View, operations: Sequence[Operation]) -> tuple[dict[str, FileEntry], dict[str, StagedBlob]]:
    tree, fresh = head.tree, {}
    held = {file.sha256: file for file in head.files}
    for operation in operations:
        match operation:
            case Addition(path, blob) if is_taken(path):
                tree[path] = FileEntry(path, blob.sha256, blob.size)
                fresh[path] = blob
            case Reuse(path, sha256) if is_taken(path):
                if sha256 not in held:
                    raise EntryNotFound(name=head.name, path=sha256, revision=head.revision)
                tree[path] = replace(held[sha256], path=path)
                fresh.pop(path, None)
            case Deletion(path, is_folder):
                gone = [known for known in tree if known == path or (is_folder and known.startswith(f"{path}/"))]
                if not gone:
                    raise EntryNotFound(name=head.name, path=path, revision=head.revision)
                for known in gone:
                    del tree[known]
                    fresh.pop(known, None)
    return tree, fresh


@contextmanager
def _laid_out(
    registry: Registry, head: View, tree: Mapping[str, FileEntry], fresh: Mapping[str, StagedBlob]
) -> Iterator[_Attempt]:
    with registry.blobs.scratch() as scratch:
        folder = scratch / "tree"
        folder.mkdir()
        for path, entry in tree.items():
            target = folder / path
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                stored = fresh[path].path if path in fresh else registry.blobs.path(entry.sha256, entry.generation)
                _link(stored, target)
            except (FileExistsError, NotADirectoryError):
                raise UnsafeFile(path=path, reason="another file has the name of its folder, or its own name") from None
        try:
            yield _Attempt(head, tree, fresh, folder)
        except GraftworkError as error:
            raise error.naming(folder, "The repository") from error


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileExistsError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def _record(registry: Registry, change: Change, attempt: _Attempt, actor: str) -> Outcome:
    list_files(attempt.folder)
    head = attempt.head
    missing = missing_from(attempt.folder, attempt.tree)
    origin = origin_of(registry, head.name, attempt.folder, attempt.tree)
    files = tuple(sorted(attempt.tree.values(), key=lambda file: file.path))
    proposal = Proposal(head.name, head.revision, files, change.message, actor)
    if missing is not None:
        return Outcome(_draft(registry, proposal, attempt), missing)
    return Outcome(_publish(registry, proposal, attempt, origin), None)


def _publish(registry: Registry, proposal: Proposal, attempt: _Attempt, origin: Origin) -> View:
    views: list[View] = []

    def also(session: Session, version: Version) -> None:
        registered = replace(proposal, files=version.files)
        views.append(registry.repositories.propose(session, registered, version))

    import_source(
        registry,
        attempt.folder,
        proposal.name,
        kind=origin.kind,
        base=origin.base,
        metadata={"message": proposal.message} if proposal.message else {},
        actor=proposal.actor,
        also=also,
        move=True,
    )
    return views[-1]


def _draft(registry: Registry, proposal: Proposal, attempt: _Attempt) -> View:
    for path in attempt.fresh:
        _refuse_hopeless(attempt.folder, path)
    sizes = {file.sha256: file.size for file in proposal.files}
    for _ in range(ATTEMPTS):
        reserved = registry.deposits.store(attempt.fresh.values())
        try:
            with registry.database.write() as session:
                registry.database.share(session, proposal.name.key)
                if registry.deposits.confirm(session, reserved) is not None:
                    held = registry.deposits.reserve(sizes, session)
                    files = tuple(replace(file, generation=held[file.sha256].generation) for file in proposal.files)
                    return registry.repositories.propose(session, replace(proposal, files=files), None)
        except BaseException:
            registry.deposits.release(reserved)
            raise
    raise OperationFailed(what=f"Storing {proposal.name}", reason="garbage collection took its files again and again")


def _refuse_hopeless(folder: Path, path: str) -> None:
    """Raise InvalidContent for a file that could be part of no version, whatever else comes."""
    if path.lower().endswith("config.json"):
        refuse_code(read_json(folder / path, path), path)
    if path == CONFIG_FILE:
        parse_lora_config(folder / path)
    if path.endswith(".safetensors"):
        read_header(folder / path, label=path)

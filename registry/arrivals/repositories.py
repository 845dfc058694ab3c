"""Repositories: artifacts as the Hub's clients see them, with commits that are not versions yet.

A commit holds a tree of files. Once its tree is whole it is registered as a version; before, it is a draft that only
those who may write in its namespace get to see. `main` is what happened last: a commit, or a version that came through
another door.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, delete, exists, insert, select, update
from sqlalchemy.orm import Session

from graftwork.errors import ArtifactNotFound, InvalidRequest, RepositoryExists, RevisionNotFound, StaleCommit
from graftwork.registry.access.access import access, require
from graftwork.registry.access.audit import record
from graftwork.registry.access.grants import Scope
from graftwork.registry.db import Database, clock, moment
from graftwork.registry.refs import Name, Ref
from graftwork.registry.tables import ArtifactRow, CommitRow, RepositoryRow, VersionRow
from graftwork.registry.versions.manifest import FileEntry
from graftwork.registry.versions.resolution import find_version
from graftwork.registry.versions.rows import not_withdrawn, versions_of
from graftwork.registry.versions.version import Version

MAIN = "main"
SPELLINGS = frozenset({MAIN, f"refs/heads/{MAIN}", "latest"})
COMMIT = re.compile(r"[0-9a-f]{40}")
MESSAGE = 1024
ENTRY = ("sha256", "size", "generation")


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository; `id` is None for an artifact to which nobody ever committed."""

    id: int | None
    name: Name
    private: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class View:
    """The files of a repository at one revision: those of a version, or of a draft."""

    name: Name
    revision: str
    files: tuple[FileEntry, ...]
    version: Version | None
    parent: str | None
    since: datetime

    @property
    def tree(self) -> dict[str, FileEntry]:
        """The files by their paths."""
        return {file.path: file for file in self.files}


@dataclass(frozen=True, slots=True)
class Proposal:
    """A commit that is to be recorded: made for `parent`, in a repository that is made where it is missing."""

    name: Name
    parent: str
    files: tuple[FileEntry, ...]
    message: str
    actor: str


class Repositories:
    """The repositories of a registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: Name, *, private: bool, actor: str = "") -> Repository:
        """A new repository with an empty first commit. Raises RepositoryExists, Forbidden."""
        require(Scope.WRITE, name.namespace)
        with self._database.write() as session:
            self._database.share(session, name.key)
            if _row(session, name) is not None or _artifact(session, name) is not None:
                raise RepositoryExists(name=name)
            row = _add(session, name, private)
            _commit(session, row, draft_revision(name, None, ()), None, (), None, "initial commit")
            record(session, actor, "repository.create", str(name), {"private": private})
            return Repository(row.id, name, private, moment(row.created_at))

    def find(self, name: Name) -> Repository:
        """The repository or the artifact of that name. Raises ArtifactNotFound."""
        with self._database.read() as session:
            return _find(session, name)

    def drafts(self, limit: int) -> list[Repository]:
        """At most `limit` repositories that have no version yet and in whose namespace one may write, newest first."""
        published = exists().where(ArtifactRow.key == RepositoryRow.key)
        query = select(RepositoryRow).where(~published).order_by(RepositoryRow.id.desc()).limit(limit)
        with self._database.read() as session:
            rows = session.scalars(query).all()
        found = [Repository(row.id, Name(row.namespace, row.name), row.private, moment(row.created_at)) for row in rows]
        return [repository for repository in found if _may_write(repository.name)]

    def view(self, name: Name, revision: str = MAIN) -> View:
        """The files at a revision: `main`, an alias, `v3`, the start of a version's digest, or a draft's 40 digits.

        Drafts are there for whoever may write. Raises ArtifactNotFound, RevisionNotFound, VersionWithdrawn,
        InvalidReference.
        """
        with self._database.read() as session:
            _find(session, name)
            if revision in SPELLINGS:
                return _main(session, name)
            if COMMIT.fullmatch(revision) and _may_write(name) and (draft := _draft(session, name, revision)):
                return draft
            if _artifact(session, name) is None:
                raise RevisionNotFound(name=name, revision=revision, known=f"its draft, {MAIN}")
            return _of_version(find_version(session, Ref(name, revision)))

    def propose(self, session: Session, proposal: Proposal, version: Version | None) -> View:
        """Record a commit, in the transaction that registers its version if it has one.

        Drafts that came before a version are forgotten. Raises Forbidden, and StaleCommit when `main` is not where the
        commit was made for any more.
        """
        name = proposal.name
        require(Scope.WRITE, name.namespace)
        self._database.share(session, name.key)
        before = _main(session, name, but=version)
        if before.revision != proposal.parent:
            raise StaleCommit(name=name, actual=before.revision, expected=proposal.parent)
        row = _row(session, name)
        if row is None:
            artifact = _artifact(session, name)
            row = _add(session, name, artifact is not None and artifact.private)
        if version is None:
            revision, digest = draft_revision(name, proposal.parent, proposal.files), None
        else:
            revision, digest = version.revision, version.digest
            mine = CommitRow.repository_id == row.id
            session.execute(delete(CommitRow).where(mine, CommitRow.digest.is_(None)))
            if version.number == 1 and row.private:  # the artifact may have been made in this transaction
                _hide(session, name, True)
        since = _commit(session, row, revision, proposal.parent, proposal.files, digest, proposal.message)
        details = {"revision": revision, "digest": digest, "message": proposal.message[:MESSAGE]}
        record(session, proposal.actor, "repository.commit", str(name), details)
        return View(name, revision, proposal.files, version, proposal.parent, moment(since))

    def set_private(self, name: Name, private: bool, *, actor: str = "", session: Session | None = None) -> None:
        """Hide an artifact or a repository from whoever may not read in its namespace, or show it to all.

        session: the transaction in which, such as that of its first version. Raises ArtifactNotFound, Forbidden.
        """
        with self._database.write(session) as opened:
            _find(opened, name)
            require(Scope.WRITE, name.namespace)
            opened.execute(update(RepositoryRow).where(RepositoryRow.key == name.key).values(private=private))
            _hide(opened, name, private)
            record(opened, actor, "artifact.private", str(name), {"private": private})

    def delete(self, name: Name, *, actor: str = "") -> None:
        """Forget a repository of which no version is left; the withdrawn ones go on saying that they were.

        Raises ArtifactNotFound, Forbidden, InvalidRequest if it has a version.
        """
        with self._database.write() as session:
            self._database.share(session, name.key)
            _find(session, name)
            require(Scope.WRITE, name.namespace)
            if (newest := _newest(session, name, None)) is not None:
                reason = (
                    f"{name} has versions, and others may build on them; withdraw each one first, beginning with "
                    f"DELETE /api/v1/artifacts/{name}/versions/v{newest.number}"
                )
                raise InvalidRequest(field="name", reason=reason)
            if (row := _row(session, name)) is not None:
                session.execute(delete(CommitRow).where(CommitRow.repository_id == row.id))
                session.execute(delete(RepositoryRow).where(RepositoryRow.id == row.id))
            record(session, actor, "repository.delete", str(name), {})


def draft_revision(name: Name, parent: str | None, files: Iterable[FileEntry]) -> str:
    """40 hexadecimal digits that name a draft: the same tree on the same parent has the same ones."""
    content = [name.key, parent, sorted([file.path, file.sha256] for file in files)]
    return hashlib.sha256(json.dumps(content, separators=(",", ":")).encode()).hexdigest()[:40]


def read_tree(tree: Mapping[str, Any]) -> tuple[FileEntry, ...]:
    """The files in the column `tree` of a commit: `{path: {"sha256": ..., "size": ..., "generation": ...}}`."""
    return tuple(FileEntry(path, *(entry[key] for key in ENTRY)) for path, entry in sorted(tree.items()))


def _row(session: Session, name: Name) -> RepositoryRow | None:
    return session.scalar(select(RepositoryRow).where(RepositoryRow.key == name.key))


def _artifact(session: Session, name: Name) -> ArtifactRow | None:
    return session.scalar(select(ArtifactRow).where(ArtifactRow.key == name.key))


def _find(session: Session, name: Name) -> Repository:
    row, artifact = _row(session, name), _artifact(session, name)
    there = artifact or row
    hidden = there is not None and there.private and not access.get().sees(there.namespace)
    if there is None or hidden or (artifact is None and not _may_write(name)):
        raise ArtifactNotFound(name=name)
    return Repository(
        id=None if row is None else row.id,
        name=Name(there.namespace, there.name),
        private=there.private,
        created_at=moment(there.created_at),
    )


def _add(session: Session, name: Name, private: bool) -> RepositoryRow:
    row = RepositoryRow(key=name.key, namespace=name.namespace, name=name.name, private=private, created_at=clock())
    session.add(row)
    session.flush()
    session.refresh(row)
    return row


def _commit(
    session: Session,
    row: RepositoryRow,
    revision: str,
    parent: str | None,
    files: Iterable[FileEntry],
    digest: str | None,
    message: str,
) -> float:
    tree = {file.path: {key: getattr(file, key) for key in ENTRY} for file in files}
    query = insert(CommitRow).values(
        repository_id=row.id,
        branch=MAIN,
        revision=revision,
        parent=parent,
        tree=tree,
        digest=digest,
        message=message[:MESSAGE],
        created_at=clock(),
    )
    return session.scalars(query.returning(CommitRow.created_at)).one()


def _hide(session: Session, name: Name, private: bool) -> None:
    session.execute(update(ArtifactRow).where(ArtifactRow.key == name.key).values(private=private))


def _may_write(name: Name) -> bool:
    return access.get().grants.allow(Scope.WRITE, name.namespace)


def _main(session: Session, name: Name, *, but: Version | None = None) -> View:
    """The newer one of the last commit that may be seen and the newest version, of which `but` is left out."""
    newest = _newest(session, name, but)
    head = session.scalar(_commits(name).order_by(CommitRow.id.desc()).limit(1))
    if head is not None and (newest is None or head.created_at >= newest.created_at):
        if head.digest is None:
            return _of_draft(name, head)
        shown = _registered(session, name, head.digest)
        if shown is not None:
            return _of_version(Version.from_row(shown), head)
    if newest is not None:
        return _of_version(Version.from_row(newest))
    if _may_write(name):  # whatever was here was withdrawn, or there is nothing yet
        return View(name, draft_revision(name, None, ()), (), None, None, _since(session, name))
    return _of_version(find_version(session, Ref(name)))  # says what is missing


def _since(session: Session, name: Name) -> datetime:
    there = _artifact(session, name) or _row(session, name)
    return moment(0.0 if there is None else there.created_at)


def _newest(session: Session, name: Name, but: Version | None) -> VersionRow | None:
    artifact = _artifact(session, name)
    if artifact is None:
        return None
    query = versions_of(artifact).where(not_withdrawn())
    if but is not None:
        query = query.where(VersionRow.number != but.number)
    return session.scalar(query.order_by(VersionRow.number.desc()).limit(1))


def _registered(session: Session, name: Name, digest: str) -> VersionRow | None:
    artifact = _artifact(session, name)
    if artifact is None:
        return None
    return session.scalar(versions_of(artifact).where(VersionRow.digest == digest, not_withdrawn()))


def _draft(session: Session, name: Name, revision: str) -> View | None:
    here = _commits(name).where(CommitRow.revision == revision, CommitRow.digest.is_(None))
    row = session.scalar(here.limit(1))
    return None if row is None else _of_draft(name, row)


def _commits(name: Name) -> Select[CommitRow]:
    """Those to `main` that may be seen: drafts only by whoever may write."""
    query = select(CommitRow).join(RepositoryRow, RepositoryRow.id == CommitRow.repository_id)
    query = query.where(RepositoryRow.key == name.key, CommitRow.branch == MAIN)
    return query if _may_write(name) else query.where(CommitRow.digest.is_not(None))


def _of_draft(name: Name, row: CommitRow) -> View:
    return View(name, row.revision, read_tree(row.tree), None, row.parent, moment(row.created_at))


def _of_version(version: Version, commit: CommitRow | None = None) -> View:
    parent, since = (None, version.created_at) if commit is None else (commit.parent, moment(commit.created_at))
    return View(version.name, version.revision, version.files, version, parent, since)

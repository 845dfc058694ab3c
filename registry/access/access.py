"""Whom the work at hand is done for: what it may see and do, wherever it goes.

A request sets `access` before anything else runs, and a job that came with a request sets it again in its own process.
The registry asks it for every artifact that it finds and for every version that it takes in, so that nobody who adds a
query or a route has to think of it. Work that nobody asked for over the network (the command line, the worker between
jobs) may do everything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, exists, or_, true

from graftwork.errors import Forbidden
from graftwork.registry.access.grants import ALL, EVERYWHERE, Grants, Scope
from graftwork.registry.tables import ArtifactRow, JobRow, VersionRow

READING = frozenset({Scope.READ})
USING = frozenset({Scope.READ, Scope.INFER})
"""Whoever may have a private model answer knows that it is there, and need not be able to fetch its weights."""


@dataclass(frozen=True, slots=True)
class Access:
    """Somebody, and what was granted to them. Private artifacts are seen with any of the scopes `seeing`."""

    owner: str
    grants: Grants
    seeing: frozenset[Scope] = READING

    @property
    def visible(self) -> frozenset[str] | None:
        """The namespaces whose private artifacts are there, in lower case; None for all of them."""
        return self.grants.where(self.seeing)

    @classmethod
    def of(cls, owner: str, grants: Mapping[str, Any] | None) -> Access:
        """Whom `as_json` wrote down: everything is granted where that is None."""
        return cls(owner, ALL if grants is None else Grants.parse(grants))

    def as_json(self) -> dict[str, Any] | None:
        """The grants as they are kept with a job; None for everything."""
        return None if self.grants is ALL else self.grants.as_json()

    def sees(self, namespace: str) -> bool:
        """Whether the private artifacts of a namespace are there."""
        return any(self.grants.allow(scope, namespace) for scope in self.seeing)

    def require(self, scope: Scope, namespace: str) -> None:
        """Raise Forbidden unless `scope` is granted in the namespace."""
        if not self.grants.allow(scope, namespace):
            raise Forbidden(owner=self.owner, scope=scope, namespace=namespace)


UNASKED = Access("", ALL)
access: ContextVar[Access] = ContextVar("access", default=UNASKED)
"""Whom the work at hand is done for."""


@contextmanager
def acting_for(somebody: Access) -> Iterator[None]:
    """Do what is in the block for somebody."""
    token = access.set(somebody)
    try:
        yield
    finally:
        access.reset(token)


def doer(otherwise: str = "") -> str:
    """Whom the work at hand is done for, as the audit log names them; `otherwise` where nobody asked for it."""
    return access.get().owner or otherwise


def require(scope: Scope, namespace: str) -> None:
    """Raise Forbidden unless whom this is done for has `scope` in the namespace."""
    access.get().require(scope, namespace)


def shown() -> ColumnElement[bool]:
    """The condition that an artifact of a query is there for whom this is done."""
    visible = access.get().visible
    if visible is None:
        return true()
    return or_(ArtifactRow.private.is_(False), ArtifactRow.namespace_key.in_(visible))


def shown_version() -> ColumnElement[bool]:
    """The condition that the artifact of a version of a query is there for whom this is done."""
    if access.get().visible is None:
        return true()
    return exists().where(ArtifactRow.id == VersionRow.artifact_id, shown())


def shown_job() -> ColumnElement[bool]:
    """The condition that a job of a query is one's own, or that one may read everywhere."""
    somebody = access.get()
    return true() if somebody.grants.allow(Scope.READ, EVERYWHERE) else JobRow.owner == somebody.owner

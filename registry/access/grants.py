"""What somebody may do: scopes, by namespace."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from graftwork.errors import InvalidRequest
from graftwork.registry.refs import PART, PART_EXPECTED

EVERYWHERE = "*"


class Scope(StrEnum):
    """One thing that may be done in a namespace. `admin` includes all others."""

    READ = "read"
    WRITE = "write"
    INFER = "infer"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Grants:
    """Scopes by namespace, in lower case; those of `*` hold in every one."""

    scopes: Mapping[str, frozenset[Scope]]

    @classmethod
    def parse(cls, given: Mapping[str, Sequence[str]]) -> Grants:
        """Grants as they are written: `{"acme": ["read", "infer"]}`. Raises InvalidRequest."""
        scopes: dict[str, frozenset[Scope]] = {}
        for namespace, names in given.items():
            if namespace != EVERYWHERE and PART.fullmatch(namespace) is None:
                reason = f"{namespace!r} is not a namespace: * or {PART_EXPECTED}"
                raise InvalidRequest(field="grants", reason=reason)
            unknown = [name for name in names if name not in tuple(Scope)]
            if unknown or not names:
                reason = f"{namespace} is given {unknown or 'nothing'}; a scope is one of {', '.join(Scope)}"
                raise InvalidRequest(field="grants", reason=reason)
            scopes[namespace.lower()] = frozenset(Scope(name) for name in names)
        if not scopes:
            raise InvalidRequest(field="grants", reason="there are none; name a namespace and its scopes")
        return cls(scopes)

    def as_json(self) -> dict[str, Any]:
        """What `parse` reads."""
        return {namespace: sorted(scopes) for namespace, scopes in sorted(self.scopes.items())}

    def allow(self, scope: Scope, namespace: str) -> bool:
        """Whether `scope` holds in the namespace. Whoever may write there may read there."""
        held = self.scopes.get(EVERYWHERE, frozenset()) | self.scopes.get(namespace.lower(), frozenset())
        return scope in held or Scope.ADMIN in held or (scope is Scope.READ and Scope.WRITE in held)

    def where(self, scopes: Collection[Scope]) -> frozenset[str] | None:
        """The namespaces, in lower case, in which any of `scopes` holds; None for all of them."""
        if any(self.allow(scope, EVERYWHERE) for scope in scopes):
            return None
        return frozenset(named for named in self.scopes if any(self.allow(scope, named) for scope in scopes))


ALL = Grants({EVERYWHERE: frozenset({Scope.ADMIN})})
"""Everything, everywhere."""

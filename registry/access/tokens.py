"""Bearer tokens. Their secrets are shown once and kept nowhere: the registry knows their SHA-256."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import insert, or_, select, update

from graftwork.errors import InvalidName, TokenNotFound
from graftwork.registry.access.audit import record
from graftwork.registry.access.grants import Grants
from graftwork.registry.db import Database, clock, moment
from graftwork.registry.refs import PART, PART_EXPECTED
from graftwork.registry.tables import TokenRow

PREFIX = "gw_"
SECRET_BYTES = 32
USE_SECONDS = 60.0
"""How exactly the time of the last use is known."""


@dataclass(frozen=True, slots=True)
class Token:
    """What is known of a token. `owner` is whom its actions are put down to."""

    id: int
    name: str
    owner: str
    grants: Grants
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None

    @classmethod
    def from_row(cls, row: TokenRow) -> Token:
        """The token that a row of the database describes."""
        times = (row.expires_at, row.revoked_at, row.last_used_at)
        expires, revoked, used = (None if time is None else moment(time) for time in times)
        return cls(
            id=row.id,
            name=row.name,
            owner=row.owner,
            grants=Grants.parse(row.grants),
            created_at=moment(row.created_at),
            expires_at=expires,
            revoked_at=revoked,
            last_used_at=used,
        )


class Tokens:
    """The tokens of a registry."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self, owner: str, grants: Grants, *, name: str = "", seconds: float | None = None, actor: str = ""
    ) -> tuple[str, Token]:
        """A new token: its secret, which nobody can read again, and what is known of it.

        seconds: how long it is good for; None for as long as it is not revoked

        Raises InvalidName for an owner that is not a plain name.
        """
        if PART.fullmatch(owner) is None:
            raise InvalidName(value=owner, what="owner", expected=PART_EXPECTED)
        secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        query = insert(TokenRow).values(
            sha256=_hash(secret),
            name=name[:96],
            owner=owner,
            grants=grants.as_json(),
            created_at=clock(),
            expires_at=None if seconds is None else clock() + seconds,
        )
        with self._database.write() as session:
            token = Token.from_row(session.scalars(query.returning(TokenRow)).one())
            details = {"name": token.name, "owner": owner, "grants": grants.as_json()}
            record(session, actor, "token.create", f"token/{token.id}", details)
        return secret, token

    def authenticate(self, secret: str) -> Token | None:
        """The token of that secret, if it is good now."""
        fresh = or_(TokenRow.expires_at.is_(None), TokenRow.expires_at > clock())
        query = select(TokenRow).where(TokenRow.sha256 == _hash(secret), TokenRow.revoked_at.is_(None), fresh)
        with self._database.read() as session:
            row = session.scalar(query)
            token = None if row is None else Token.from_row(row)
        if token is not None:
            self._note_use(token)
        return token

    def list(self, owner: str | None = None) -> list[Token]:
        """The tokens, newest first; those of one owner, if given."""
        query = select(TokenRow).order_by(TokenRow.id.desc())
        if owner is not None:
            query = query.where(TokenRow.owner == owner)
        with self._database.read() as session:
            return [Token.from_row(row) for row in session.scalars(query)]

    def revoke(self, id: int, *, actor: str = "") -> Token:  # noqa: A002
        """End a token at once. Raises TokenNotFound."""
        query = update(TokenRow).where(TokenRow.id == id, TokenRow.revoked_at.is_(None)).values(revoked_at=clock())
        with self._database.write() as session:
            changed = session.scalar(query.returning(TokenRow.id))
            row = session.get(TokenRow, id, populate_existing=True)
            if row is None:
                raise TokenNotFound(id=id)
            if changed is not None:
                record(session, actor, "token.revoke", f"token/{id}", {"name": row.name, "owner": row.owner})
            return Token.from_row(row)

    def _note_use(self, token: Token) -> None:
        stale = or_(TokenRow.last_used_at.is_(None), TokenRow.last_used_at < clock() - USE_SECONDS)
        query = select(TokenRow.id).where(TokenRow.id == token.id, stale)
        with self._database.read() as session:
            is_stale = session.scalar(query) is not None
        if is_stale:
            with self._database.write() as session:
                session.execute(update(TokenRow).where(TokenRow.id == token.id, stale).values(last_used_at=clock()))


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()

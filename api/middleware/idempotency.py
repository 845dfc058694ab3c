"""Idempotency-Key: a POST under `/api/v1` that is sent again gets the answer that it got the first time.

Keys belong to their owner and are kept for a day. An answer that says that something went wrong with the server is not
kept: sending the request again then does it again. Forms are not covered, because uploads are idempotent by their
content, nor are tokens, whose secrets are kept nowhere.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass

from fastapi import FastAPI, Request, Response
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import delete, select, update
from sqlalchemy.dialects import postgresql, sqlite
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from graftwork.errors import IdempotencyKeyReused, InvalidRequest, RequestInFlight
from graftwork.registry.db import Database, clock
from graftwork.registry.tables import IdempotencyRow

HEADER = "Idempotency-Key"
KEY = re.compile(r"[\x21-\x7e]{1,128}")
PREFIX = "/api/v1/"
NOT_COVERED = "/api/v1/tokens"
KEPT_SECONDS = 86_400.0
ABANDONED_SECONDS = 600.0
"""After which a request that was not answered is taken for one whose server died."""
MOST_BYTES = 1_000_000
PASSED_ON = ("content-type", "location", "etag")
REPLAYED = "Idempotency-Replayed"


class Answered(Exception):
    """The request was answered before; not a failure, but the way past the route."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


@dataclass(slots=True)
class Pending:
    """A request whose answer is to be kept."""

    database: Database
    owner: str
    key: str

    def keep(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Keep the answer, or forget the request if sending it again should do it again."""
        mine = (IdempotencyRow.owner == self.owner, IdempotencyRow.key == self.key)
        with self.database.write() as session:
            if status >= 500 or status in (401, 403, 408, 409, 429) or len(body) > MOST_BYTES:
                session.execute(delete(IdempotencyRow).where(*mine))
                return
            told = {"status": status, "headers": headers, "body": base64.b64encode(body).decode()}
            session.execute(update(IdempotencyRow).where(*mine).values(response=told))


async def begin(request: Request, database: Database, owner: str) -> None:
    """Note that a request with a key is being answered.

    Raises Answered when it was before, RequestInFlight while it is being answered, IdempotencyKeyReused when the key
    came with another request, InvalidRequest for a malformed key.
    """
    key = request.headers.get(HEADER)
    path = request.url.path
    covered = request.method == "POST" and path.startswith(PREFIX) and not path.startswith(NOT_COVERED)
    if key is None or not covered or not request.headers.get("content-type", "").startswith("application/json"):
        return
    if KEY.fullmatch(key) is None:
        raise InvalidRequest(field=HEADER, reason="expected 1 to 128 visible ASCII characters")
    target = f"{request.method} {path}?{request.url.query}\n".encode()
    digest = hashlib.sha256(target + await request.body()).hexdigest()
    answer = await run_in_threadpool(_claim, database, owner, key, digest)
    if answer is not None:
        raise Answered(answer)
    request.state.idempotent = Pending(database, owner, key)


class Keeping:
    """Keeps the answers to requests that `begin` noted."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request and keep the answer before it is sent."""
        status, headers, body = 500, {}, bytearray()

        async def sent(message: Message) -> None:
            nonlocal status, headers
            pending = _pending(scope)
            if pending is not None and message["type"] == "http.response.start":
                status = message["status"]
                told = {name.decode(): value.decode("latin-1") for name, value in message["headers"]}
                headers = {name: told[name] for name in PASSED_ON if name in told}
            elif pending is not None and len(body) <= MOST_BYTES:
                body.extend(message.get("body", b""))
                if not message.get("more_body", False):
                    scope["state"]["idempotent"] = None
                    await run_in_threadpool(pending.keep, status, headers, bytes(body))
            await send(message)

        try:
            await self._app(scope, receive, sent)
        finally:
            if (pending := _pending(scope)) is not None:
                await run_in_threadpool(pending.keep, 500, {}, b"")


def install(app: FastAPI) -> None:
    """Let `app` answer what `begin` finds."""
    app.add_exception_handler(Answered, _answer)


async def _answer(request: Request, answered: Exception) -> Response:
    assert isinstance(answered, Answered)  # noqa: S101
    return answered.response


def _pending(scope: Scope) -> Pending | None:
    found: Pending | None = scope.get("state", {}).get("idempotent")
    return found


def _claim(database: Database, owner: str, key: str, digest: str) -> Response | None:
    """None when the request is to be answered now."""
    dialect = postgresql if database.engine.dialect.name == "postgresql" else sqlite
    mine = (IdempotencyRow.owner == owner, IdempotencyRow.key == key)
    unanswered = IdempotencyRow.response.is_(None) & (IdempotencyRow.created_at < clock() - ABANDONED_SECONDS)
    with database.write() as session:
        session.execute(delete(IdempotencyRow).where(unanswered | (IdempotencyRow.created_at < clock() - KEPT_SECONDS)))
        values = {"owner": owner, "key": key, "request": digest, "created_at": clock()}
        made = dialect.insert(IdempotencyRow).values(**values).on_conflict_do_nothing()
        if session.execute(made.returning(IdempotencyRow.key)).scalar() is not None:
            return None
        row = session.scalars(select(IdempotencyRow).where(*mine)).one()
        if row.request != digest:
            raise IdempotencyKeyReused(key=key)
        if row.response is None:
            raise RequestInFlight(key=key)
        told = row.response
    headers = {**told["headers"], REPLAYED: "true"}
    return Response(base64.b64decode(told["body"]), told["status"], headers)

"""What engines hold, over HTTP: kept adapters, and what is left when a move fails or its server dies."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import httpx
import pytest
from sqlalchemy import select

from graftwork.errors import AdapterProbeFailed
from graftwork.registry.catalog.watch import INTENT
from graftwork.registry.refs import Name
from graftwork.registry.tables import AuditRow

if TYPE_CHECKING:
    from tests.api.conftest import Server

ALIAS = "/api/v1/artifacts/tiny/a/aliases/swapped"
KEPT = "/api/v1/residents/kept"


def occupants(client: httpx.Client) -> dict[str, dict[str, object]]:
    return {each["digest"]: each for each in client.get("/api/v1/residents").json()}


def test_what_is_kept_follows_its_alias_and_is_let_go(server: Server, client: httpx.Client) -> None:
    assert server.residency is not None
    assert client.put(ALIAS, json={"version": 1}).is_success
    one, two = (server.digest(f"tiny/a@v{number}") for number in (1, 2))
    assert client.put(f"{KEPT}/tiny/a/swapped").json() == {"ref": "tiny/a@swapped", "digest": one}
    assert occupants(client)[one]["kept"] is True
    assert client.put(ALIAS, json={"version": 2}).is_success
    now = occupants(client)
    assert (now[one]["kept"], now[two]["kept"]) == (False, True)
    assert now[two]["rank_rows"] == 5
    assert client.get(KEPT).json() == [{"ref": "tiny/a@swapped", "digest": two}]
    assert client.delete(f"{KEPT}/tiny/a/swapped").status_code == 204
    assert client.delete(f"{KEPT}/tiny/a/swapped").status_code == 404
    assert occupants(client)[two]["kept"] is False


def test_a_move_that_dies_between_intent_and_flip_leaves_the_alias(
    server: Server, client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert client.put(ALIAS, json={"version": 1}).is_success
    history = len(client.get(f"{ALIAS}/history").json())

    def fail(*args: object, **options: object) -> None:
        raise AdapterProbeFailed(adapter="tiny/a@v3", reason="the power went")

    with monkeypatch.context() as patched:
        patched.setattr(server.app.state.services.host, "prepare", fail)
        assert client.put(ALIAS, json={"version": 3}).status_code == 422
    assert server.digest("tiny/a@swapped") == server.digest("tiny/a@v1")
    assert len(client.get(f"{ALIAS}/history").json()) == history
    with server.registry.database.read() as session:
        intents = select(AuditRow).where(AuditRow.action == INTENT).order_by(AuditRow.id.desc()).limit(1)
        assert session.scalars(intents).one().details["after"] == server.digest("tiny/a@v3")
    assert client.put(ALIAS, json={"version": 3}).is_success


def test_a_move_by_another_process_is_followed(server: Server, client: httpx.Client) -> None:
    assert client.put(ALIAS, json={"version": 1}).is_success
    two = server.digest("tiny/a@v2")
    server.residency.retire(two)
    server.registry.aliases.set(Name.parse("tiny/a"), "swapped", two, actor="another", reason="test")
    arrived = threading.Event()
    for _ in range(200):
        if two in server.residency.digests:
            arrived.set()
            break
        threading.Event().wait(0.05)
    assert arrived.is_set()

"""A client of the HTTP API in a few lines of the standard library."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

from graftwork.errors import OperationFailed

TIMEOUT = 120.0
LONGEST_ANSWER = 8


@dataclass(frozen=True, slots=True)
class Reply:
    """What was answered, by which version, and when: seconds of `time.perf_counter`."""

    model: str
    prompt: str
    text: str
    version: str
    sent: float
    answered: float


@dataclass(frozen=True, slots=True)
class Client:
    """Talks to the server at `url`; every call opens its own connection, so that threads can share a client."""

    url: str

    def complete(self, model: str, prompt: str) -> Reply:
        """The greedy completion of `prompt`. Raises OperationFailed for an answer that is not 200."""
        body = {"model": model, "prompt": prompt, "max_tokens": LONGEST_ANSWER, "temperature": 0}
        sent = time.perf_counter()
        answer, headers = self._send("POST", "/v1/completions", body)
        version = headers["x-graftwork-version"]
        return Reply(model, prompt, answer["choices"][0]["text"], version, sent, time.perf_counter())

    def move_alias(self, name: str, alias: str, digest: str, *, expected: str | None, reason: str) -> None:
        """Point `alias` of the artifact `name` at `digest`, if it is at `expected` now (None: if it does not exist)."""
        body = {"digest": digest, "expected": expected, "reason": reason}
        self._send("PUT", f"/api/v1/artifacts/{name}/aliases/{alias}", body)

    def _send(self, method: str, path: str, body: object) -> tuple[Any, dict[str, str]]:
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=TIMEOUT)
        try:
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
            if response.status != 200:
                raise OperationFailed(what=f"{method} {path}", reason=f"{response.status} {content.decode()}")
            return json.loads(content), {name.lower(): value for name, value in response.getheaders()}
        finally:
            connection.close()

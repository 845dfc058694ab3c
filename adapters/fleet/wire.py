"""Talking to one vLLM server: the health check, what it serves, and the probe of an adapter."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import httpx

from graftwork.errors import OperationFailed

CHECK_TIMEOUT = httpx.Timeout(5.0)
PROBE_TIMEOUT = httpx.Timeout(180.0, connect=5.0)
"""A probe waits for the adapter to be pulled and loaded."""
ANSWER_TIMEOUT = httpx.Timeout(None, connect=5.0)
"""A completion takes as long as it takes; a server that hangs is found by its health check."""
PROBE_PROMPT = [1]


def credentials(key: str) -> dict[str, str]:
    """The headers that a server with an API key asks for."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def served_base(client: httpx.Client, url: str) -> str:
    """The name under which the server at `url` serves its base, after a passed health check. Raises OperationFailed."""
    try:
        health = client.get(f"{url}/health", timeout=CHECK_TIMEOUT)
        if health.status_code != HTTPStatus.OK:
            raise OperationFailed(what=f"The health check of {url}", reason=f"it answered {health.status_code}")
        listing = client.get(f"{url}/v1/models", timeout=CHECK_TIMEOUT)
        listing.raise_for_status()
        cards: list[dict[str, Any]] = listing.json()["data"]
        return next(str(card["id"]) for card in cards if not card.get("parent"))
    except (httpx.HTTPError, ValueError, KeyError, StopIteration) as error:
        raise OperationFailed(what=f"The health check of {url}", reason=said(error)) from error


def probe(client: httpx.Client, url: str, model: str) -> str | None:
    """One real completion of `model` on the server at `url`: None when it came, else what the server said.

    Log-probabilities are asked for because vLLM fails to write those that are not finite. Raises httpx.HTTPError when
    the server cannot be reached.
    """
    asked = {"model": model, "prompt": PROBE_PROMPT, "max_tokens": 1, "temperature": 0, "logprobs": 1}
    answer = client.post(f"{url}/v1/completions", json=asked, timeout=PROBE_TIMEOUT)
    if answer.status_code == HTTPStatus.OK and answer.json().get("choices"):
        return None
    return f"{url} answers {answer.status_code}, {message(answer.content)}"


def message(body: bytes) -> str:
    """What an error's body says, on one line."""
    try:
        told = httpx.Response(200, content=body).json()
        text = str(told["error"]["message"])
    except (ValueError, KeyError, TypeError):
        text = body.decode(errors="replace")
    return " ".join(text.split())[:500]


def said(error: Exception) -> str:
    """What an exception says, or what it is when it says nothing."""
    return str(error) or type(error).__name__

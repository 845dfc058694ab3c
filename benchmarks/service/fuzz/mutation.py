"""Changing valid inputs a little, knowing what they are made of: JSON values, YAML texts, bytes."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable, Sequence
from typing import Any

ODD_NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2, 7, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, 10**30, -(2**63), 0.5, -0.0, 1e-320,
    1e308, 1e400, float("inf"), float("-inf"), float("nan"), True, False, None,
)  # fmt: skip
ODD_TEXTS = (
    "", " ", "\x00", "a\x00b", "..", "../x", "/etc/passwd", "a\\b", "~", "\ud800", "\u202e", "K", "ﬁ", "é", "e\u0301",
    "\U0001d51e", "a" * 300, "a/b/c", "%s", "{0}", "{x}", "$HOME", "NaN", "null", "1e999", "base", "default", "\r\n",
    "'\"", "__class__", "__metadata__", "auto_map", "trust_remote_code", "*", ".*", "(a+)+$", "[", "a{99999999999}",
    "(?i)x", "-1", "0", "0-", "3-1", "1,,2", "@", "a/b@v1", "a/b+c/d", "2001-99-99", "!!python/object:os.system", "&a",
    "*a",
)  # fmt: skip
ODD_BYTES = (
    b"\x00",
    b"\xff",
    b"\r\n",
    b"\r\n\r\n",
    b"--",
    b"{",
    b"}",
    b"[",
    b'"',
    b"\\u0000",
    b"\xf0\x9f",
    b"\xed\xa0\x80",
)

Change = Callable[[random.Random, Any], Any]


def odd_value(rng: random.Random, depth: int = 0) -> Any:
    """Anything that JSON can say."""
    kind = rng.random()
    if kind < 0.35:
        return rng.choice(ODD_NUMBERS)
    if kind < 0.7 or depth > 2:
        return rng.choice(ODD_TEXTS)
    if kind < 0.85:
        return [odd_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind < 0.98:
        return {rng.choice(ODD_TEXTS): odd_value(rng, depth + 1) for _ in range(rng.randrange(4))}
    value: Any = 1
    for _ in range(rng.choice((50, 200))):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def places(value: Any, limit: int = 4000) -> list[tuple[Any, Any]]:
    """Each container in `value` with each of its keys."""
    found: list[tuple[Any, Any]] = []
    stack = [value]
    while stack and len(found) < limit:
        item = stack.pop()
        keys = list(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
        for key in keys:
            found.append((item, key))
            stack.append(item[key])
    return found


def mutated(rng: random.Random, value: Any, donors: Sequence[Any] = ()) -> Any:
    """A copy of a JSON value with one to four changes. Parts of `donors` are taken over now and then."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        found = places(value)
        if not found:
            return odd_value(rng)
        container, key = rng.choice(found)
        kind = rng.randrange(8)
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container, dict):
            container[rng.choice(ODD_TEXTS)] = container.pop(key)
        elif kind == 2 and isinstance(container, list):
            container.insert(rng.randrange(len(container) + 1), copy.deepcopy(container[key]))
        elif kind == 3:
            other, place = rng.choice(found)
            container[key] = copy.deepcopy(other[place]) if isinstance(other, list) or place in other else None
        elif kind == 4 and donors and (given := places(rng.choice(donors))):
            other, place = rng.choice(given)
            container[key] = copy.deepcopy(other[place])
        elif kind == 5 and isinstance(container[key], int | float) and not isinstance(container[key], bool):
            container[key] = container[key] + rng.choice((-1, 1, 2, 0.5, 2**31, 2**63))
        elif kind == 6 and isinstance(container[key], str):
            container[key] = text(rng, container[key])
        else:
            container[key] = odd_value(rng)
    return value


def text(rng: random.Random, value: str) -> str:
    """A text with something cut, doubled, swapped or put in."""
    at, to = sorted((rng.randrange(len(value) + 1), rng.randrange(len(value) + 1)))
    return rng.choice((
        value[:at] + value[to:],
        value[:at] + value[at:to] * 2 + value[to:],
        value[:at] + rng.choice(ODD_TEXTS) + value[at:],
        value[:at] + chr(rng.choice((0, 9, 10, 34, 39, 58, 91, 123, 0x7F, 0x200B, 0xFFFF, 0x10FFFF))) + value[to:],
        value.swapcase(),
    ))  # fmt: skip


def raw(rng: random.Random, value: bytes) -> bytes:
    """Bytes with one to four of them flipped, cut, repeated or put in."""
    data = bytearray(value)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, to = sorted((rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)))
        kind = rng.randrange(6)
        if kind == 0 and data:
            data[rng.randrange(len(data))] = rng.randrange(256)
        elif kind == 1:
            del data[at : min(to, at + rng.choice((1, 2, 8, 64, 4096)))]
        elif kind == 2:
            data[at:at] = data[at : min(to, at + 64)]
        elif kind == 3:
            data[at:at] = rng.choice(ODD_BYTES)
        elif kind == 4:
            data[at:at] = rng.randbytes(rng.choice((1, 2, 8)))
        else:
            del data[at:]
    return bytes(data)


def as_json(rng: random.Random, value: Any) -> bytes:
    """JSON, sometimes with a key twice, or as bytes that are nearly JSON."""
    try:
        data = json.dumps(value, ensure_ascii=rng.random() < 0.7).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        data = b"[" * 5000
    kind = rng.random()
    if kind < 0.05 and data.startswith(b"{") and len(data) > 2:
        return data[:-1] + b"," + data[1:]
    return raw(rng, data) if kind < 0.15 else data

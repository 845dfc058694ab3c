"""What a request says of an expert set: `acme/skills@prod[summarise]` is the set and one of its tasks."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from graftwork.errors import InvalidRequest
from graftwork.registry.refs import Ref

SELECTION = re.compile(r"(?P<ref>[^\[\]]*)(?:\[(?P<task>[^\[\]]+)\])?")
SCHEME = "graftwork-task-1"


@dataclass(frozen=True, slots=True)
class Selection:
    """A version, and a task of it if the request names one."""

    ref: Ref
    task: str | None


def parse_selection(text: str) -> Selection:
    """The reference and the task in `ns/name`, `ns/name@revision`, or either followed by `[task]`.

    Raises InvalidReference for a malformed reference, InvalidRequest for brackets out of place.
    """
    match = SELECTION.fullmatch(text)
    if match is None:
        reason = (
            f"{text[:200]!r} is not understood: a task stands once, at the end, in brackets, as in acme/skills[sum]"
        )
        raise InvalidRequest(field="model", reason=reason)
    return Selection(Ref.parse(match["ref"]), match["task"])


def selection_digest(digest: str, task: str | None) -> str:
    """What names a version with a task of it: SHA-256 of both; without a task, the version's own digest."""
    return digest if task is None else hashlib.sha256(f"{SCHEME}\n{digest}[{task}]".encode()).hexdigest()

"""Mixtures of adapters that a request spells out: `acme/a*0.7+acme/b@prod*(-0.3)`.

    mixture = part { "+" part }
    part    = reference [ "*" weight ]
    weight  = number | "(" number ")"
    number  = [ "+" | "-" ] digits, with a decimal point or an exponent if wanted: 2, .5, -0.3, 1e-2

A reference is `ns/name`, `ns/name@alias`, `ns/name@v3` or `ns/name@<digest>`. A part without a weight has weight 1.
Weights need not add up to anything and may be negative. Blanks around `+` and `*` do not matter. There is no binary
minus: `-` may be a character of a name.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from graftwork.errors import InvalidRequest
from graftwork.registry.refs import Ref

MAX_PARTS = 64
EXAMPLE = "acme/a*0.7+acme/b*(-0.3)"
NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
PART = re.compile(
    rf"\s*(?P<ref>[^\s*+()]+)\s*(?:\*\s*(?:(?P<plain>{NUMBER})|\(\s*(?P<wrapped>{NUMBER})\s*\))\s*)?(?:(?P<more>\+)|$)"
)


@dataclass(frozen=True, slots=True)
class Part:
    """One adapter of a mixture."""

    ref: Ref
    weight: float


@dataclass(frozen=True, slots=True)
class Mixture:
    """The sum of the changes of several adapters, each times its weight, in the order they were written."""

    parts: tuple[Part, ...]


def parse_mixture(text: str) -> Mixture | None:
    """The mixture that `text` spells; None for text without a `+` or a `*`, which names one version.

    Raises InvalidReference for a malformed reference and InvalidRequest for anything else that is malformed.
    """
    if "+" not in text and "*" not in text:
        return None
    parts: list[Part] = []
    at, more = 0, True
    while more:
        match = PART.match(text, at)
        if match is None:
            raise _malformed(text[at:])
        if len(parts) == MAX_PARTS:
            raise InvalidRequest(field="model", reason=f"a mixture has at most {MAX_PARTS} parts")
        number = match["plain"] or match["wrapped"] or "1"
        if not math.isfinite(float(number)):
            raise InvalidRequest(field="model", reason=f"the weight {number} of {match['ref']} is not a finite number")
        parts.append(Part(Ref.parse(match["ref"]), float(number)))
        at, more = match.end(), match["more"] is not None
    return Mixture(tuple(parts))


def _malformed(rest: str) -> InvalidRequest:
    shown = rest.strip()[:80]
    where = f"{shown!r} is" if shown else "its end is"
    expected = f"REFERENCE or REFERENCE*WEIGHT, joined by '+', as in {EXAMPLE}"
    return InvalidRequest(field="model", reason=f"{where} not a part of a mixture: expected {expected}")

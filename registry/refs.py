"""How artifacts are named and how one of their versions is pointed at."""

from __future__ import annotations

import re
from dataclasses import dataclass

from graftwork.errors import InvalidName, InvalidReference

PART = re.compile(r"(?!\.)[A-Za-z0-9._-]{1,96}", re.ASCII)
PART_EXPECTED = "1 to 96 letters, digits, '.', '_' or '-', and no '.' in front"
RESERVED_ALIAS = re.compile(r"latest|v[0-9]+|[0-9a-f]{40}|[0-9a-f]{64}", re.IGNORECASE)
NUMBER = re.compile(r"v([1-9][0-9]{0,8})")
"""What a column of 32 bits holds."""
DIGEST_PREFIX = re.compile(r"[0-9a-f]{8,64}", re.IGNORECASE)
REFERENCE_EXPECTED = "NAMESPACE/NAME, alone or followed by @ALIAS, @v3 or @ and at least 8 digits of a digest"


@dataclass(frozen=True, slots=True)
class Name:
    """An artifact's name. Two names that differ only in case name the same artifact: compare `key`."""

    namespace: str
    name: str

    @classmethod
    def parse(cls, text: str) -> Name:
        """The name written `namespace/name`. Raises InvalidName."""
        namespace, slash, name = text.partition("/")
        if not (slash and PART.fullmatch(namespace) and PART.fullmatch(name)):
            raise InvalidName(value=text, what="name", expected=f"NAMESPACE/NAME, each {PART_EXPECTED}")
        return cls(namespace, name)

    @property
    def key(self) -> str:
        """What is unique in a registry."""
        return str(self).lower()

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Ref:
    """A pointer to one version of an artifact; without a revision, to the newest."""

    name: Name
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> Ref:
        """The reference written `ns/name`, `ns/name@alias`, `ns/name@v3` or `ns/name@<digest or 8+ of its digits>`.

        Raises InvalidReference.
        """
        name, at, revision = text.partition("@")
        if at and not PART.fullmatch(revision):
            raise InvalidReference(value=text, expected=REFERENCE_EXPECTED)
        try:
            return cls(Name.parse(name), revision if at and revision != "latest" else None)
        except InvalidName:
            raise InvalidReference(value=text, expected=REFERENCE_EXPECTED) from None

    @property
    def number(self) -> int | None:
        """The version number that the revision spells, if it spells one."""
        match = NUMBER.fullmatch(self.revision or "")
        return int(match[1]) if match else None

    @property
    def digest_prefix(self) -> str | None:
        """The start of a digest that the revision may be, in lower case."""
        return self.revision.lower() if self.revision and DIGEST_PREFIX.fullmatch(self.revision) else None

    def __str__(self) -> str:
        return f"{self.name}@{self.revision}" if self.revision else str(self.name)


def check_alias(alias: str) -> str:
    """`alias`, if it can be one. Raises InvalidName for a malformed or reserved name."""
    if not PART.fullmatch(alias):
        raise InvalidName(value=alias, what="alias", expected=PART_EXPECTED)
    if RESERVED_ALIAS.fullmatch(alias):
        expected = "anything but 'latest', a version number such as v3, or a full digest"
        raise InvalidName(value=alias, what="alias", expected=expected)
    return alias

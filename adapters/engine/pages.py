"""Pages of the cache: who uses them, and which hold a prefix that may be asked for again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

Key = bytes
"""What a full page holds: all tokens up to its last one, and whose keys and values they are."""


def chain(root: str, tokens: Sequence[int], page_tokens: int, known: Sequence[Key] = ()) -> list[Key]:
    """The keys of the full pages of `tokens`, `known` being the first of them.

    A key is a hash over the key before it and its page's tokens, and the first starts from `root`, the digest of the
    adapter or of the base. Equal keys therefore mean equal keys and values, and no two adapters share one.
    """
    keys = list(known)
    for index in range(len(keys), len(tokens) // page_tokens):
        before = keys[-1] if keys else b"root:" + root.encode()
        page = tokens[index * page_tokens : (index + 1) * page_tokens]
        keys.append(blake2b(b"%b|%b" % (before, ",".join(map(str, page)).encode()), digest_size=20).digest())
    return keys


class Pages:
    """`total` pages with reference counts, and an index of those whose content is known.

    A page is free, referenced, or idle: nobody references it, but its content is still known by a key. Idle pages are
    found again until they are taken, the least recently used first. Not thread-safe.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self._references = [0] * total
        self._free = list(reversed(range(total)))
        self._pages: dict[Key, int] = {}
        self._keys: dict[int, Key] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def available(self) -> int:
        """Pages that can be taken."""
        return len(self._free) + len(self._idle)

    @property
    def idle(self) -> int:
        """Pages that nobody references and whose content is known."""
        return len(self._idle)

    @property
    def used(self) -> int:
        """Pages that somebody references."""
        return self.total - self.available

    def references(self, page: int) -> int:
        """How many use the page."""
        return self._references[page]

    def take(self) -> int | None:
        """A page of unknown content with one reference; None when every page is referenced."""
        if self._free:
            page = self._free.pop()
        elif self._idle:
            page, _ = self._idle.popitem(last=False)
            del self._pages[self._keys.pop(page)]
        else:
            return None
        self._references[page] = 1
        return page

    def share(self, page: int) -> None:
        """One more reference to a page that is referenced or idle."""
        self._idle.pop(page, None)
        self._references[page] += 1

    def release(self, page: int) -> bool:
        """One reference less. Whether nobody references the page any more."""
        self._references[page] -= 1
        if self._references[page]:
            return False
        if page in self._keys:
            self._idle[page] = None
        else:
            self._free.append(page)
        return True

    def publish(self, page: int, key: Key) -> None:
        """Let a referenced, full page be found by `key`; the first page with a key keeps it."""
        if key not in self._pages and page not in self._keys:
            self._pages[key] = page
            self._keys[page] = key

    def forget(self, page: int) -> None:
        """Let the referenced page be found no more."""
        key = self._keys.pop(page, None)
        if key is not None:
            del self._pages[key]

    def find(self, keys: Sequence[Key]) -> list[int]:
        """The pages of the longest beginning of `keys` that is known."""
        found = []
        for key in keys:
            page = self._pages.get(key)
            if page is None:
                break
            found.append(page)
        return found

    def is_idle(self, page: int) -> bool:
        """Whether nobody references the page, though its content is known."""
        return page in self._idle

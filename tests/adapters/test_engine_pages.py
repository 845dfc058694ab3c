"""Pages of the cache: none is lost, none is shared by mistake, and a key finds what it was given for."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from graftwork.adapters.engine.pages import Pages, chain

TOTAL = 6


class PageMachine(RuleBasedStateMachine):
    """Owners take, share and release pages of `TOTAL`; the model beside them is plain lists."""

    def __init__(self) -> None:
        super().__init__()
        self.pages = Pages(TOTAL)
        self.owned: list[int] = []
        self.content: dict[int, int] = {}  # what was written to a page since it was taken
        self.known: dict[bytes, int] = {}  # content by the key under which it was published
        self.serial = 0

    @rule()
    def take(self) -> None:
        page = self.pages.take()
        if page is None:
            assert len(set(self.owned)) == TOTAL
            return
        assert page not in self.owned
        self.serial += 1
        self.content[page] = self.serial
        self.owned.append(page)

    @precondition(lambda self: self.owned)
    @rule(data=st.data())
    def share(self, data: Any) -> None:
        page = data.draw(st.sampled_from(self.owned))
        self.pages.share(page)
        self.owned.append(page)

    @precondition(lambda self: self.owned)
    @rule(data=st.data(), forget=st.booleans())
    def release(self, data: Any, forget: bool) -> None:
        page = data.draw(st.sampled_from(self.owned))
        if forget:
            self.pages.forget(page)
        self.owned.remove(page)
        assert self.pages.release(page) == (page not in self.owned)

    @precondition(lambda self: self.owned)
    @rule(data=st.data(), key=st.sampled_from([b"a", b"b", b"c"]))
    def publish(self, data: Any, key: bytes) -> None:
        page = data.draw(st.sampled_from(self.owned))
        is_free = not self.pages.find([key])
        self.pages.publish(page, key)
        if is_free and self.pages.find([key]):
            self.known[key] = self.content[page]

    @rule(key=st.sampled_from([b"a", b"b", b"c"]))
    def reuse(self, key: bytes) -> None:
        for page in self.pages.find([key]):
            assert self.content[page] == self.known[key]
            self.pages.share(page)
            self.owned.append(page)

    @invariant()
    def counts_are_right(self) -> None:
        counts = Counter(self.owned)
        assert [self.pages.references(page) for page in range(TOTAL)] == [counts[page] for page in range(TOTAL)]
        assert self.pages.used == len(counts)
        assert self.pages.available == TOTAL - len(counts)
        assert self.pages.idle <= self.pages.available

    def teardown(self) -> None:
        for page in list(self.owned):
            self.pages.release(page)
        assert self.pages.used == 0
        taken = [self.pages.take() for _ in range(TOTAL)]
        assert sorted(page for page in taken if page is not None) == list(range(TOTAL))
        assert self.pages.take() is None


TestPages = PageMachine.TestCase
TestPages.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_idle_pages_are_given_away_least_recently_used_first() -> None:
    pages = Pages(3)
    for key in (b"a", b"b", b"c"):
        page = pages.take()
        assert page is not None
        pages.publish(page, key)
        pages.release(page)
    (again,) = pages.find([b"a"])
    pages.share(again)
    pages.release(again)
    pages.take()
    assert [len(pages.find([key])) for key in (b"a", b"b", b"c")] == [1, 0, 1]


tokens = st.lists(st.integers(0, 3), max_size=9)


@given(st.sampled_from(["", "x", "y"]), tokens, st.sampled_from(["", "x", "y"]), tokens)
def test_keys_are_equal_exactly_where_the_adapter_and_all_tokens_before_are(
    root: str, left: list[int], other_root: str, right: list[int]
) -> None:
    keys, other_keys = chain(root, left, 2), chain(other_root, right, 2)
    assert len(keys) == len(left) // 2
    for index, (key, other) in enumerate(zip(keys, other_keys, strict=False)):
        same = root == other_root and left[: 2 * index + 2] == right[: 2 * index + 2]
        assert (key == other) == same


@given(tokens, st.integers(0, 4))
def test_a_chain_goes_on_from_what_is_known(ids: list[int], known: int) -> None:
    whole = chain("root", ids, 2)
    assert chain("root", ids, 2, whole[:known]) == whole

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from graftwork.adapters.attachment.resident import Extent
from graftwork.adapters.residency.rank_rows import RankRows

TOTAL = 12


def first_gap(used: list[bool], rows: int) -> int | None:
    """First fit over one flag a row."""
    starts = range(len(used) - rows + 1)
    return next((start for start in starts if not any(used[start : start + rows])), None)


@given(st.lists(st.integers(-6, 8)))
def test_rows_are_allocated_first_fit_and_never_twice(operations: list[int]) -> None:
    pool, used, owned = RankRows(TOTAL), [False] * TOTAL, list[Extent]()
    for operation in operations:
        if operation > 0:
            start = pool.allocate(operation)
            assert start == first_gap(used, operation)
            if start is not None:
                owned.append((start, start + operation))
                used[start : start + operation] = [True] * operation
        elif owned:
            start, end = owned.pop(operation % len(owned))
            pool.release(start)
            used[start:end] = [False] * (end - start)
        assert pool.free == used.count(False)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(1, 12), st.integers(0, 63))
def test_victims_are_enough_and_none_of_them_is_needless(sizes: list[int], rows: int, idle_bits: int) -> None:
    pool = RankRows(TOTAL)
    starts = [(pool.allocate(size), size) for size in sizes]
    owned = [(start, start + size) for start, size in starts if start is not None]
    idle = [extent for index, extent in enumerate(owned) if idle_bits >> index & 1]

    def fits(released: tuple[Extent, ...]) -> bool:
        used = [any(a <= row < b for a, b in owned if (a, b) not in released) for row in range(TOTAL)]
        return first_gap(used, rows) is not None

    victims = pool.victims(rows, idle)
    possible = any(fits(chosen) for n in range(len(idle) + 1) for chosen in itertools.combinations(idle, n))
    assert (victims is not None) == possible
    if victims is not None:
        assert fits(tuple(victims))
        assert not any(fits(tuple(v for v in victims if v != spared)) for spared in victims)


def test_the_preferred_victim_goes_when_any_one_would_do() -> None:
    pool = RankRows(8)
    for _ in range(2):
        pool.allocate(4)
    assert pool.victims(3, [(4, 8), (0, 4)]) == [(4, 8)]
    assert pool.victims(8, [(4, 8), (0, 4)]) == [(4, 8), (0, 4)]
    assert pool.victims(8, [(4, 8)]) is None

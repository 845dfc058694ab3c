"""Where requests go: by adapter, and away from servers that have much more to do."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from graftwork.adapters.fleet.affinity import SLACK, preference, spread
from graftwork.adapters.fleet.fleet import CHECK_SECONDS, SUSPECT_AFTER, Fleet
from graftwork.errors import EngineUnavailable, Overloaded

URLS = [f"http://10.0.0.{index}:8000" for index in range(5)]
BASE, OTHER = "b" * 64, "c" * 64


@given(st.text(min_size=1), st.permutations(URLS))
def test_the_order_of_the_servers_does_not_matter(key: str, urls: list[str]) -> None:
    assert preference(key, urls) == preference(key, URLS)


@given(st.text(min_size=1), st.sampled_from(URLS))
def test_a_server_that_goes_away_moves_only_its_own_keys(key: str, gone: str) -> None:
    before = preference(key, URLS)
    assert preference(key, [url for url in URLS if url != gone]) == [url for url in before if url != gone]


def test_keys_are_spread_evenly() -> None:
    homes = Counter(preference(f"digest{index}", URLS)[0] for index in range(2000))
    assert all(320 < homes[url] < 480 for url in URLS)


@given(st.lists(st.integers(0, 200), min_size=2, max_size=5), st.text(min_size=1))
def test_no_server_is_given_much_more_than_the_others(loads: list[int], key: str) -> None:
    load = dict(zip(URLS, loads, strict=False))
    first = spread(key, load)[0]
    assert load[first] <= max(SLACK, 1.25 * (sum(loads) + 1) / len(loads))
    assert sorted(spread(key, load)) == sorted(load)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def fleet(clock: Clock) -> Fleet:
    fleet = Fleet(URLS[:2], limit=3, clock=clock)
    for url in URLS[:2]:
        fleet.ready(url, base=BASE, model="base")
    return fleet


def test_requests_are_counted_by_version_until_they_are_released(fleet: Fleet) -> None:
    with fleet.place("a" * 64, BASE, model="x") as first, fleet.place(BASE, BASE, model="x"):
        assert (fleet.in_flight("a" * 64), fleet.in_flight(BASE)) == (1, 1)
        first.release()
        first.release()
        assert fleet.in_flight("a" * 64) == 0
    assert [status.in_flight for status in fleet.status()] == [{}, {}]


def test_the_base_goes_to_the_least_loaded(fleet: Fleet) -> None:
    places = [fleet.place(BASE, BASE, model="x") for _ in range(6)]
    assert Counter(place.url for place in places) == dict.fromkeys(URLS[:2], 3)
    with pytest.raises(Overloaded, match="engine_requests"):
        fleet.place(BASE, BASE, model="x")


def test_only_servers_of_the_base_are_asked(fleet: Fleet) -> None:
    fleet.ready(URLS[0], base=OTHER, model="other")
    assert {fleet.place(f"{index}" * 64, BASE, model="x").url for index in range(3)} == {URLS[1]}
    with pytest.raises(EngineUnavailable, match="serves another base"):
        fleet.place(BASE, BASE, model="x", avoid={URLS[1]})


def test_a_failing_server_is_checked_at_growing_intervals(fleet: Fleet, clock: Clock) -> None:
    url = URLS[0]
    waits = []
    for _ in range(8):
        fleet.failed(url, "refused")
        started = clock.now
        while url not in fleet.due():
            clock.now += 0.25
        waits.append(clock.now - started)
    assert waits == sorted(waits)
    assert (waits[0], waits[-1]) == (0.5, 15.0)
    fleet.ready(url, base=BASE, model="base")
    assert url not in fleet.due()
    clock.now += CHECK_SECONDS
    assert url in fleet.due()


def test_bad_answers_in_a_row_take_a_server_out(fleet: Fleet) -> None:
    for _ in range(SUSPECT_AFTER - 1):
        fleet.answered(URLS[0], well=False)
    fleet.answered(URLS[0], well=True)
    assert fleet.status()[0].is_ready
    for _ in range(SUSPECT_AFTER):
        fleet.answered(URLS[0], well=False)
    assert not fleet.status()[0].is_ready

"""Cron expressions against a clock that is looked at every minute, across the days on which clocks are changed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from graftwork.errors import InvalidRequest
from graftwork.registry.jobs.cron import Cron

MINUTE = timedelta(minutes=1)
CHANGES = {
    "Europe/Berlin": ("2026-03-29T01:00", "2026-10-25T01:00"),
    "America/New_York": ("2026-03-08T07:00", "2026-11-01T06:00"),
    "Australia/Lord_Howe": ("2026-10-03T15:30", "2026-04-04T15:00"),  # by half an hour
    "Africa/Cairo": ("2026-04-23T22:00", "2026-10-29T21:00"),  # at midnight
    "America/Santiago": ("2026-09-06T04:00", "2026-04-05T03:00"),
    "Pacific/Apia": ("2011-12-30T10:00", "2012-03-31T14:00"),  # a whole day was left out
    "UTC": ("2026-03-29T01:00", "2026-10-25T01:00"),
}
RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))


def values(text: str, low: int, high: int) -> set[int]:
    """The numbers that a field stands for."""
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, last = ("", "", "") if span == "*" else span.partition("-")
        begin = int(first) if first else low
        end = int(last) if last else (high if span == "*" or step else begin)
        found |= set(range(begin, end + 1, int(step or 1)))
    return found


def matches(expression: str, shown: datetime) -> bool:
    fields = expression.split()
    minute, hour, day, month, weekday = (
        values(text, low, high) for text, (low, high) in zip(fields, RANGES, strict=True)
    )
    if not (shown.minute in minute and shown.hour in hour and shown.month in month):
        return False
    of_month, of_week = shown.day in day, shown.isoweekday() % 7 in weekday
    both = fields[2].startswith("*") or fields[4].startswith("*")
    return (of_month and of_week) if both else (of_month or of_week)


def slowly(expression: str, zone: str, moment: datetime, until: datetime) -> Iterator[datetime]:
    """The times after `moment`, minute by minute."""
    fixed = not any(field.startswith("*") for field in expression.split()[:2])
    place = ZoneInfo(zone)

    def shown_at(at: datetime) -> datetime:
        return at.astimezone(place).replace(tzinfo=None, fold=0)

    now = moment.replace(second=0, microsecond=0)
    while (now := now + MINUTE) <= until:
        shown, before = shown_at(now), shown_at(now - MINUTE)
        if not fixed:
            comes = matches(expression, shown)
        else:
            comes = matches(expression, shown) and now.astimezone(place).fold == 0
            skipped = before + MINUTE
            while skipped < shown:
                comes = comes or matches(expression, skipped)
                skipped += MINUTE
        if comes:
            yield now


def field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    spans = (
        st.tuples(number, number).filter(lambda pair: pair[0] != pair[1]).map(lambda pair: f"{min(pair)}-{max(pair)}")
    )
    return st.one_of(
        st.just("*"),
        number.map(str),
        spans,
        st.lists(number, min_size=2, max_size=4).map(lambda many: ",".join(map(str, many))),
        st.integers(2, max(2, high // 2)).map(lambda step: f"*/{step}"),
        st.tuples(spans, st.integers(2, 7)).map(lambda pair: f"{pair[0]}/{pair[1]}"),
    )


@settings(max_examples=100, deadline=None)
@given(
    minute=field(0, 59),
    hour=st.one_of(field(0, 23), field(0, 4)),
    day=st.one_of(st.just("*"), st.just("*"), field(1, 28)),
    weekday=st.one_of(st.just("*"), st.just("*"), field(0, 6)),
    zone=st.sampled_from(sorted(CHANGES)),
    autumn=st.booleans(),
    seconds=st.integers(-10 * 3600, 3 * 3600),
)
def test_the_next_times_are_those_of_a_clock_that_is_looked_at_every_minute(
    minute: str, hour: str, day: str, weekday: str, zone: str, autumn: bool, seconds: int
) -> None:
    expression = f"{minute} {hour} {day} * {weekday}"
    moment = datetime.fromisoformat(CHANGES[zone][autumn]).replace(tzinfo=UTC) + timedelta(seconds=seconds)
    until = moment + timedelta(hours=30)
    expected = list(slowly(expression, zone, moment, until))
    cron = Cron(expression, zone)
    found: list[datetime] = []
    now = cron.after(moment)
    while now <= until and len(found) < 200:
        found.append(now)
        now = cron.after(now)
    assert found == expected[:200]
    assert cron.latest(moment + timedelta(microseconds=1), until, 5) == expected[-5:]


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("30 2 * * *", "2026-03-28T12:00", ["2026-03-29T01:00", "2026-03-30T00:30"]),  # skipped: when it is 3 o'clock
        ("30 2 * * *", "2026-10-24T12:00", ["2026-10-25T00:30", "2026-10-26T01:30"]),  # shown twice: the first counts
        ("30 * * * *", "2026-03-29T00:00", ["2026-03-29T00:30", "2026-03-29T01:30"]),  # every hour stays every hour
        ("30 * * * *", "2026-10-25T00:00", ["2026-10-25T00:30", "2026-10-25T01:30"]),
        ("0 2 29 2 *", "2026-01-01T00:00", ["2028-02-29T01:00", "2032-02-29T01:00"]),
    ],
)
def test_times_around_the_change_of_clocks_in_berlin(expression: str, after: str, expected: list[str]) -> None:
    cron = Cron(expression, "Europe/Berlin")
    first = cron.after(datetime.fromisoformat(after).replace(tzinfo=UTC))
    assert [f"{at:%Y-%m-%dT%H:%M}" for at in (first, cron.after(first))] == expected


@pytest.mark.parametrize("expression", ["", "* * * *", "* * * * * *", "61 * * * *", "x * * * *", "0 0 30 2 *"])
def test_an_expression_that_is_none_is_refused(expression: str) -> None:
    with pytest.raises(InvalidRequest, match=r"cron: .*expected five fields"):
        Cron(expression)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd"])
def test_a_zone_that_is_none_is_refused(zone: str) -> None:
    with pytest.raises(InvalidRequest, match=r"time_zone: .*Europe/Berlin"):
        Cron("0 0 * * *", zone)

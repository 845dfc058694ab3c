"""When a cron expression comes round in a time zone, also on the days when its clocks are changed.

An expression has Debian cron's five fields. One whose minute and hour are fixed (neither field starts with a star)
comes once a day at that time: a time that the clocks skip comes when they have been set forward, and of a time that
they show twice the first counts. Any other expression goes by what the clock shows: nothing comes at times that it
never shows, and what it shows twice comes twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from graftwork.errors import InvalidRequest

MINUTE = timedelta(minutes=1)
EXPECTED = "five fields: minute, hour, day of the month, month, day of the week; for example 30 2 * * 1-5"


@dataclass(frozen=True)
class Cron:
    """An expression in a time zone."""

    expression: str
    time_zone: str = "UTC"

    def __post_init__(self) -> None:
        """Raise InvalidRequest for an expression or a zone that is none, and for times that never come."""
        fields = len(self.expression.split())
        try:
            next(CronSim(self.expression, datetime(2000, 1, 1)))
            problem = None if fields == 5 else f"it has {fields} fields"
        except (CronSimError, StopIteration) as error:
            problem = str(error) or "it never comes"
        if problem is not None:
            reason = f"{self.expression!r} is not understood ({problem}); expected {EXPECTED}"
            raise InvalidRequest(field="cron", reason=reason)
        try:
            _ = self.zone
        except (ZoneInfoNotFoundError, ValueError, OSError):
            reason = f"{self.time_zone!r} is not known; expected a name such as UTC or Europe/Berlin"
            raise InvalidRequest(field="time_zone", reason=reason) from None

    @cached_property
    def zone(self) -> ZoneInfo:
        """The time zone."""
        return ZoneInfo(self.time_zone)

    @property
    def is_fixed(self) -> bool:
        """Whether it comes at fixed times of the day."""
        minute, hour, *_ = self.expression.split()
        return not minute.startswith("*") and not hour.startswith("*")

    def after(self, moment: datetime) -> datetime:
        """The first time after `moment`, in UTC."""
        moment = moment.astimezone(UTC)
        return self._fixed(moment) if self.is_fixed else self._shown(moment)

    def latest(self, since: datetime, until: datetime, most: int) -> list[datetime]:
        """The last `most` of the times from `since` to `until`, both included, in order."""
        window = timedelta(hours=1)
        while True:
            begin = max(since, until - window)
            found = self._between(begin, until)
            if begin == since or len(found) >= most:
                return found[-most:]
            window *= 12

    def _between(self, begin: datetime, until: datetime) -> list[datetime]:
        found = []
        moment = self.after(begin - timedelta(microseconds=1))
        while moment <= until:
            found.append(moment)
            moment = self.after(moment)
        return found

    def _fixed(self, moment: datetime) -> datetime:
        for shown in CronSim(self.expression, _clock(moment, self.zone)):
            local = shown.replace(tzinfo=self.zone)
            found = local.astimezone(UTC)
            if _clock(found, self.zone) != shown:
                found = self._change(found - abs(self._offset(found) - self._offset(found - timedelta(days=1))), found)
            if found > moment:
                return found
        raise AssertionError("checked when it was made")

    def _shown(self, moment: datetime) -> datetime:
        """Under one offset from UTC, what the clock shows grows with time; so look from change to change."""
        while True:
            offset = self._offset(moment)
            found = (next(CronSim(self.expression, _clock(moment, self.zone))) - offset).replace(tzinfo=UTC)
            if self._offset(found) == offset:
                return found
            change = self._change(moment, found)
            shown = _clock(change, self.zone)
            if next(CronSim(self.expression, shown - MINUTE)) == shown:
                return change
            moment = change

    def _offset(self, moment: datetime) -> timedelta:
        offset = moment.astimezone(self.zone).utcoffset()
        assert offset is not None  # noqa: S101  a zone has one
        return offset

    def _change(self, before: datetime, after: datetime) -> datetime:
        """The minute between the two, the second included, at which the offset is no longer that of the first."""
        first = self._offset(before)
        low, high = before.replace(second=0, microsecond=0), after
        while high - low > MINUTE:
            middle = low + ((high - low) / 2) // MINUTE * MINUTE
            low, high = (middle, high) if self._offset(middle) == first else (low, middle)
        return high


def _clock(moment: datetime, zone: ZoneInfo) -> datetime:
    """What a clock of the zone shows."""
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)

"""When: the next attempt, the next call that a peer's calendar promises, and whether one was missed.

Being away is normal, so a peer's calendar says when it is expected: nothing
that waits is called late before an expected call did not come.  Times of day
are UTC, or those of a time zone, which has its own days and summer time.
"""

import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import NamedTuple

_MINUTE_MS = 60_000
_DAY_MS = 86_400_000
_PAUSES_MINUTES = (1, 2, 5, 10, 20, 30, 60, 120)
LONGEST_PAUSE_MS = 2 * _PAUSES_MINUTES[-1] * _MINUTE_MS  # anything beyond was not asked for by this clock
_GRACE_MS = 3_600_000  # a call may be late: what was missed is only called so after this
_DAYS = ("thu", "fri", "sat", "sun", "mon", "tue", "wed")  # 1 January 1970 was a Thursday
_LATEST_MS = 253_300_000_000_000  # beyond it, in the year 9996, dates end
_A_THURSDAY = datetime(1970, 1, 1).toordinal()
_EVERY = re.compile(r"every ([1-9][0-9]{0,4})\s*(min|h|d)\Z")
_AT = re.compile(r"(daily|[a-z]{3}(?:,[a-z]{3})*) ([0-9]{2}):([0-9]{2})\Z")
_UNITS_MS = {"min": _MINUTE_MS, "h": 60 * _MINUTE_MS, "d": _DAY_MS}


def next_attempt_ms(now_ms: int, attempts: int) -> int:
    """When to try again after `attempts` attempts that did not succeed."""
    return now_ms + _MINUTE_MS * _PAUSES_MINUTES[min(attempts, len(_PAUSES_MINUTES) - 1)]


class Rule(NamedTuple):
    """One line of a calendar: every so often after the last call, or on some days at a time of day."""

    every_ms: int = 0  # 0: by the days
    days: tuple[int, ...] = ()  # after a Thursday, 0 to 6
    at_ms: int = 0  # after midnight
    zone: tzinfo = UTC

    def next_ms(self, after_ms: int) -> int:
        """The first time that this rule names after a moment."""
        if self.every_ms:
            return after_ms + self.every_ms
        if after_ms > _LATEST_MS:
            return after_ms + _DAY_MS
        midnight = datetime.fromtimestamp(after_ms // 1000, self.zone).replace(hour=0, minute=0, second=0, fold=0)
        days = (midnight + timedelta(n) for n in range(9))
        at = timedelta(milliseconds=self.at_ms)  # by the clock on the wall: timedelta knows no summer time
        found = ((day + at).timestamp() for day in days if (day.toordinal() - _A_THURSDAY) % 7 in self.days)
        return next(round(seconds * 1000) for seconds in found if seconds * 1000 > after_ms)


class Calendar(NamedTuple):
    """When calls with a peer are expected; empty: nothing is known of that."""

    rules: tuple[Rule, ...] = ()
    away_until_ms: int = 0  # before that none is

    def next_ms(self, last_ms: int) -> int | None:
        """When the first call after the one at `last_ms` is expected; None: the calendar does not say."""
        if not self.rules:
            return self.away_until_ms if self.away_until_ms > last_ms else None
        from_ms = max(last_ms, self.away_until_ms)
        found = min(rule.next_ms(from_ms) for rule in self.rules)
        # "Every 10 minutes" begins anew when it is back.
        return self.away_until_ms if self.away_until_ms > last_ms and self._is_periodic else found

    @property
    def _is_periodic(self) -> bool:
        return any(rule.every_ms for rule in self.rules)

    def expected_ms(self, last_ms: int, now_ms: int) -> int | None:
        """When the next call is expected, seen from now: what was missed is not told any more."""
        found = self.next_ms(last_ms)
        return found if found is None or found > now_ms else self.next_ms(now_ms)

    def has_missed(self, last_ms: int, now_ms: int) -> bool:
        """Whether a call that was expected after the one at `last_ms` has not come; without a calendar any may."""
        found = self.next_ms(last_ms)
        return found is None or now_ms > found + _GRACE_MS


def parse_rule(text: str, zone: tzinfo = UTC) -> Rule:
    """`every 10min`, `daily 06:00`, `mon,thu 18:30`; times of day are of `zone`.  Raises ValueError."""
    every = _EVERY.match(text)
    if every:
        return Rule(int(every[1]) * _UNITS_MS[every[2]])
    at = _AT.match(text)
    if not at or int(at[2]) > 23 or int(at[3]) > 59:
        raise ValueError(text)
    days = range(7) if at[1] == "daily" else [_DAYS.index(name) for name in at[1].split(",")]
    return Rule(0, tuple(days), (int(at[2]) * 60 + int(at[3])) * _MINUTE_MS, zone)


class Span(NamedTuple):
    """A span of time that may be another for urgent or slow mail."""

    normal_ms: int
    of_priority: tuple[tuple[int, int], ...] = ()  # (priority, span): from that one on, away from 0

    def at(self, priority: int) -> int:
        """The span for a priority: of the farthest entry between 0 and it."""
        fitting = [
            (abs(edge), span_ms)
            for edge, span_ms in self.of_priority
            if edge * priority > 0 and abs(edge) <= abs(priority)
        ]
        return max(fitting)[1] if fitting else self.normal_ms

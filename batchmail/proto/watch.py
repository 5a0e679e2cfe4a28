"""Whether the line is alive: when to ask, and when to give it up.

Deadlines run on what was heard and on what the other side acknowledged, never
on what was written.  A second call at this machine makes us ask at once, and
wait no longer than an answer can take.
"""

from batchmail.proto.pace import Pace

SILENCE_S = 180.0  # nothing heard, or nothing of ours acknowledged, for this long: the line is dead
ANSWER_S = 900.0  # the other side has a whole file and does not say what became of it
PING_S = 45.0  # nothing heard for this long: ask
_PROBE_S = 3.0  # a second call was started here: is this one alive?
_SHORT_PROBE_S = 1.5  # where it is known how long an answer takes
_LOGIN_TRIPS = 3  # a login takes so many round trips, and what the servers take


class Watch:
    """The line of one call; times are seconds of any steady clock.  `login_s` is how long a login took; 0: unknown."""

    def __init__(self, pace: Pace, now_s: float, login_s: float = 0.0):
        self._pace = pace
        self._heard_s = self._answered_s = now_s
        self._trip_s = login_s / _LOGIN_TRIPS
        self._has_asked = False
        self._probe_s: float | None = None  # when a probe that is under way gives up

    @property
    def is_probing(self) -> bool:
        return self._probe_s is not None

    def heard(self, now_s: float) -> None:
        self._heard_s, self._has_asked, self._probe_s = now_s, False, None

    def answered(self, now_s: float) -> None:
        """The other side has said what became of a file."""
        self._answered_s = now_s

    def probe(self, now_s: float) -> None:
        """We ask now, for a second call waits for us to be gone."""
        pace = self._pace
        wait_s = pace.outstanding_octets / pace.rate if pace.rate else 0.0
        trip_s = pace.round_trip_s or self._trip_s
        self._probe_s = now_s + max(_SHORT_PROBE_S if trip_s else _PROBE_S, 4 * wait_s + 3 * trip_s)

    def must_ask(self, now_s: float) -> bool:
        """Whether it is time to ask; once until something is heard."""
        if self._has_asked or now_s - self._heard_s <= PING_S:
            return False
        self._has_asked = True
        return True

    def trouble(self, now_s: float, awaits_answer: bool) -> str:
        """Why the line is to be given up; empty as long as it is alive."""
        if self._probe_s is not None and now_s > self._probe_s:
            return "the line is dead: it did not answer when another call was started"
        if now_s - self._heard_s > SILENCE_S:
            return f"nothing was heard for {SILENCE_S:.0f} s"
        since_s = now_s - (now_s if self._pace.progress_s is None else self._pace.progress_s)
        if self._pace.outstanding_octets and since_s > SILENCE_S:
            return f"the other side acknowledged nothing for {SILENCE_S:.0f} s"
        if awaits_answer and min(since_s, now_s - self._answered_s) > ANSWER_S:
            return f"the other side did not answer a file for {ANSWER_S:.0f} s"
        return ""

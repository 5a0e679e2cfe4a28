"""How much may be under way: the window, and the size of a data frame.

At most about two round trips at the measured rate are written beyond what the
other side has acknowledged, so that a cut loses little, an urgent file waits
behind little, and a dead line is noticed.  The rate is taken from
acknowledged octets, the round trip from the quickest acknowledgement.
"""

from collections import deque

START_OCTETS = 32 << 10
FLOOR_OCTETS = 4 << 10
CEILING_OCTETS = 8 << 20
_OWN_WORK_S = 0.004
_FRAME_S = 0.25  # a frame is on the line for about this long
_LARGEST_FRAME_OCTETS = 32 << 10
_SMALLEST_FRAME_OCTETS = 1 << 10


class Pace:
    """The sending side's account of one call; times are seconds of any steady clock."""

    def __init__(self) -> None:
        self.sent_octets = self.acknowledged_octets = 0
        self.round_trip_s: float | None = None
        self.rate: float | None = None  # octets per second
        self.progress_s: float | None = None  # when something was last acknowledged, or first sent after that
        self._gain = 2.0  # round trips' worth of octets under way
        self._marks: deque[tuple[int, float]] = deque()  # (octets sent so far, when)
        self._last: tuple[int, float] | None = None

    @property
    def outstanding_octets(self) -> int:
        return self.sent_octets - self.acknowledged_octets

    def window_octets(self) -> int:
        if self.rate is None or self.round_trip_s is None:
            return START_OCTETS
        # Below _OWN_WORK_S it is the two programs' own time: more under way would not be faster, only lost in a cut.
        far = self._gain * self.rate * max(0.0, self.round_trip_s - _OWN_WORK_S)
        near = min(START_OCTETS, self.rate / 2)
        return max(FLOOR_OCTETS, min(CEILING_OCTETS, int(far + near)))

    def room_octets(self) -> int:
        """How many octets may be sent now; nothing rather than a little, since each frame costs its head."""
        window = self.window_octets()
        room = window - self.outstanding_octets
        return room if 4 * room >= window else 0

    def frame_octets(self) -> int:
        """How long the next data frame should be at most."""
        if self.rate is None:  # the first ones tell the round trip, of which their own time on the line is no part
            return 2 * _SMALLEST_FRAME_OCTETS
        return max(_SMALLEST_FRAME_OCTETS, min(_LARGEST_FRAME_OCTETS, int(self.rate * _FRAME_S)))

    def sent(self, octets: int, now_s: float) -> None:
        if not self.outstanding_octets:
            self.progress_s = now_s
            self._last = (self.acknowledged_octets, now_s)
        self.sent_octets += octets
        self._marks.append((self.sent_octets, now_s))

    def acknowledged(self, octets: int, now_s: float) -> None:
        """The other side has had `octets` in all."""
        octets = min(octets, self.sent_octets)
        if octets <= self.acknowledged_octets:
            return
        while self._marks and self._marks[0][0] <= octets:
            _, then_s = self._marks.popleft()
            trip_s = max(now_s - then_s, 1e-4)
            self.round_trip_s = min(trip_s, self.round_trip_s or trip_s)
        self.acknowledged_octets = octets
        self.progress_s = now_s
        self._measure(now_s)

    def _measure(self, now_s: float) -> None:
        if self._last is None:
            return
        octets, since_s = self._last
        span_s = now_s - since_s
        if span_s < (self.round_trip_s or 0.0) or span_s < 1e-3:
            return
        rate = (self.acknowledged_octets - octets) / span_s
        # While the rate still grows by as much as the window, the line is not full: open it faster.
        self._gain = 2.7 if self.rate is not None and rate > 1.25 * self.rate else 2.0
        # Quick to rise, slow to fall: a pause of ours is not a slow line.
        self.rate = rate if self.rate is None or rate > self.rate else 0.8 * self.rate + 0.2 * rate
        self._last = (self.acknowledged_octets, now_s)

"""How much may be under way: the window, and the size of a data frame.

At most about two round trips at the measured rate are written beyond what the
other side has acknowledged, so that a cut loses little, an urgent file waits
behind little, and a dead line is noticed.  The rate is taken from
acknowledged octets, the round trip from the quickest acknowledgement.  Until
the line is seen to be full the window grows by all that is acknowledged, so
that a short call never waits for figures.

Acknowledgements come behind the data of the other direction.  Each tells the
other side's clock, so how long it stood there is known (as in RFC 6817), and
does not count as time in which the line could not take more.
"""

from collections import deque

START_OCTETS = 128 << 10  # 10 Mbit/s with a round trip of 100 ms
FLOOR_OCTETS = 4 << 10
CEILING_OCTETS = 8 << 20
_MAX_START_OCTETS = START_OCTETS  # what is remembered of a quick line may be of another one
_OWN_WORK_S = 0.004
_FRAME_S = 0.25  # a frame is on the line for about this long
_LARGEST_FRAME_OCTETS = 32 << 10
_SMALLEST_FRAME_OCTETS = 1 << 10
_STEADY_SAMPLES = 2  # round trips in which the rate no longer grew: the line is full
_NEAR_OCTETS = 32 << 10
_LATE_S = 0.5
_DRIFT = 1e-4  # by which two steady clocks may differ, and no more than that is taken for drift
_SPEED, _OPENING_SPEED = 1.25, 2.7  # of the measured rate; the latter until the line is seen to be full
_BURST_S = 0.03
_STANDING_TRIPS = 8  # round trips for which it is remembered how long acknowledgements stood


class Pace:
    """The sending side's account of one call; times are seconds of any steady clock."""

    def __init__(self, start_octets: int = START_OCTETS) -> None:
        self._start_octets = max(FLOOR_OCTETS, min(_MAX_START_OCTETS, start_octets))
        self._steady = 0
        self.sent_octets = self.acknowledged_octets = 0
        self.round_trip_s: float | None = None
        self.rate: float | None = None  # octets per second
        self.progress_s: float | None = None  # when something was last acknowledged, or first sent after that
        self._gain = 2.0  # round trips' worth of octets under way
        self._marks: deque[tuple[int, float]] = deque()  # (octets sent so far, when)
        self._last: tuple[int, float] | None = None  # (octets acknowledged, when by the other side's clock)
        self._lag: tuple[float, float] | None = None  # (the least from their clock to ours, when that was seen)
        self._paid_s = -1e9  # all that was to be sent by then, at the speed of the line, has been
        self._standing_s = 0.0  # how long acknowledgements stand behind the other side's data

    @property
    def outstanding_octets(self) -> int:
        return self.sent_octets - self.acknowledged_octets

    def window_octets(self) -> int:
        if self.rate is None or self.round_trip_s is None:
            return min(CEILING_OCTETS, self._start_octets + self.acknowledged_octets)
        if self._steady < _STEADY_SAMPLES:
            most = max(self._start_octets, int(4 * self.rate * self.round_trip_s))
            return min(CEILING_OCTETS, self._start_octets + self.acknowledged_octets, most)
        # Below _OWN_WORK_S it is the two programs' own time: more under way would not be faster, only lost in a cut.
        far = self._gain * self.rate * max(0.0, self.round_trip_s - _OWN_WORK_S)
        window = far + min(_NEAR_OCTETS, self.rate / 2)
        window += min(window, self.rate * self._standing_s)  # the other side's window is what they stand behind
        return max(FLOOR_OCTETS, min(CEILING_OCTETS, int(window)))

    def room_octets(self, now_s: float) -> int:
        """How many octets may be sent now; nothing rather than a little, since each frame costs its head."""
        room = self._window_room()
        if self.rate is None:
            return room
        due = self._due_octets(now_s)
        return min(room, due) if due >= min(room, self.frame_octets()) else 0

    def pause_s(self, now_s: float) -> float | None:
        """For how long nothing may be sent although there is room; None: an acknowledgement is awaited."""
        room = self._window_room()
        if not room or self.rate is None:
            return None
        return max(0.0, (min(room, self.frame_octets()) - self._due_octets(now_s)) / self._speed)

    def _window_room(self) -> int:
        window = self.window_octets()
        room = window - self.outstanding_octets
        return room if 4 * room >= window else 0

    @property
    def _speed(self) -> float:
        """Octets per second that are given to the line.

        A little more than it takes: a burst would stand in front of the line, and our acknowledgements behind it.
        """
        return (self.rate or 0.0) * (_SPEED if self._steady >= _STEADY_SAMPLES else _OPENING_SPEED)

    def _due_octets(self, now_s: float) -> int:
        """How much may leave now at that speed; a little at once for who wakes up late, and a frame at least."""
        most = max(self.frame_octets(), self._speed * _BURST_S)
        return round(min(most, (now_s - self._paid_s) * self._speed))

    def frame_octets(self) -> int:
        """How long the next data frame should be at most."""
        if not self.sent_octets:  # the first one tells the round trip, of which its own time on the line is no part
            return 2 * _SMALLEST_FRAME_OCTETS
        if self.rate is None:  # what is sent now goes at once anyway
            return max(_SMALLEST_FRAME_OCTETS, self._start_octets // 8)
        return max(_SMALLEST_FRAME_OCTETS, min(_LARGEST_FRAME_OCTETS, int(self.rate * _FRAME_S)))

    def sent(self, octets: int, now_s: float) -> None:
        if not self.outstanding_octets:
            self.progress_s = now_s
            # Where we only kept to our own speed the line was not idle for want of data, and what it took tells of it.
            if self.rate is None or now_s - self._paid_s > 2 * self.frame_octets() / self._speed:
                self._last = None
        self.sent_octets += octets
        if self.rate is not None:
            self._paid_s = now_s - (self._due_octets(now_s) - octets) / self._speed
        self._marks.append((self.sent_octets, now_s))

    def acknowledged(self, octets: int, far_s: float, now_s: float) -> None:
        """The other side has had `octets` in all, and said so when its own clock showed `far_s`."""
        octets = min(octets, self.sent_octets)
        if octets <= self.acknowledged_octets:
            return
        standing_s = self._stood_s(far_s, now_s)
        while self._marks and self._marks[0][0] <= octets:
            _, then_s = self._marks.popleft()
            trip_s = max(now_s - then_s - standing_s, 1e-4)
            self.round_trip_s = min(trip_s, self.round_trip_s or trip_s)
            if trip_s > 3 * self.round_trip_s + _LATE_S:  # it stood in a queue
                self._steady = _STEADY_SAMPLES
        self.acknowledged_octets = octets
        self.progress_s = now_s
        self._measure(far_s)

    def _stood_s(self, far_s: float, now_s: float) -> float:
        """How long this acknowledgement took beyond the quickest one."""
        lag_s, past_s = now_s - far_s, 0.0
        if self._lag is not None:
            least_s, seen_s = self._lag
            past_s = now_s - seen_s
            lag_s = min(lag_s, least_s + _DRIFT * past_s)
        self._lag = (lag_s, now_s)
        stood_s = now_s - far_s - lag_s
        # Quick to rise, slow to fall: where too little is under way both sides stop and go in turn.
        kept = 1 - past_s / (_STANDING_TRIPS * self.round_trip_s) if self.round_trip_s else 0.0
        self._standing_s = max(stood_s, self._standing_s * kept)
        return stood_s

    def _measure(self, far_s: float) -> None:
        """From one acknowledgement to another: how long the first one took says nothing of the rate."""
        if self._last is None:
            self._last = (self.acknowledged_octets, far_s)
            return
        octets, since_s = self._last
        span_s = far_s - since_s
        if span_s < (self.round_trip_s or 0.0) or span_s < 1e-3:
            return
        rate = (self.acknowledged_octets - octets) / span_s
        # While the rate still grows by as much as the window, the line is not full: open it faster.
        grows = self.rate is None or rate > 1.25 * self.rate
        self._gain = 2.7 if grows and self.rate is not None else 2.0
        self._steady = self._steady if grows else self._steady + 1
        # Quick to rise, slow to fall: a pause of ours is not a slow line.
        self.rate = rate if self.rate is None or rate > self.rate else 0.8 * self.rate + 0.2 * rate
        self._last = (self.acknowledged_octets, far_s)

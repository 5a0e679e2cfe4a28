"""The window, on lines that are simulated: first in, first out, a rate and a round trip.

Mail in one direction is acknowledged for nothing; with mail in both, acknowledgements stand behind it.
"""

import heapq
from itertools import count
from random import Random
from typing import NamedTuple

import pytest

from batchmail.proto.pace import CEILING_OCTETS, FLOOR_OCTETS, START_OCTETS, Pace


class Line(NamedTuple):
    round_trip_s: float
    rate: float  # octets per second
    octets: int  # to be sent

    @property
    def product(self) -> float:
        """What is under way when the line is full."""
        return self.rate * self.round_trip_s


class Run(NamedTuple):
    seconds: float
    windows: list[int]  # after each acknowledgement
    outstanding: list[int]
    frames: list[int]
    pace: Pace


FAR_CLOCK_S = 1e6  # what the other side's clock shows at our beginning
ACKNOWLEDGEMENT_OCTETS = 80  # with all that SSH adds
LINES = {
    "satellite": Line(0.6, 64_000, 4 << 20),
    "DSL": Line(0.04, 1_250_000, 30 << 20),
    "GSM data": Line(2.0, 1_200, 300 << 10),
    "modem": Line(0.2, 5_600, 1 << 20),
    "across the world": Line(0.3, 12_500_000, 800 << 20),
}


def send(line: Line, jitter: Random | None = None) -> Run:
    """Send all of it as the call does: while there is room, a frame at a time."""
    pace, now_s, free_s = Pace(), 0.0, 0.0
    sent = got = 0
    arrivals: list[tuple[float, int]] = []
    run = Run(0.0, [], [], [], pace)
    while got < line.octets:
        while sent < line.octets and (room := pace.room_octets(now_s)) > 0:
            octets = min(pace.frame_octets(), room, line.octets - sent)
            pace.sent(octets, now_s)
            sent += octets
            free_s = max(free_s, now_s) + octets / line.rate
            late_s = jitter.random() * line.round_trip_s if jitter else 0.0
            heapq.heappush(arrivals, (free_s + line.round_trip_s + late_s, sent))
            run.frames.append(octets)
            run.outstanding.append(pace.outstanding_octets)
        assert arrivals, "nothing is under way, and nothing may be sent"
        pause_s = pace.pause_s(now_s) if sent < line.octets else None
        if pause_s is not None and now_s + pause_s < arrivals[0][0]:
            now_s += max(pause_s, 1e-6)
            continue
        now_s, octets = heapq.heappop(arrivals)
        got = max(got, octets)
        pace.acknowledged(octets, now_s - line.round_trip_s / 2 + FAR_CLOCK_S, now_s)
        run.windows.append(pace.window_octets())
    return run._replace(seconds=now_s)


class _Side:
    """One of two that send to each other: what it gives to its direction of the line, and what comes of it."""

    def __init__(self, octets: int):
        self.pace = Pace()
        self.octets, self.sent, self.free_s, self.done_s = octets, 0, 0.0, 0.0


def send_both_ways(line: Line, drift: float = 0.0) -> list[_Side]:
    """As much in each direction; the clock of the one goes faster than the other's by this share."""
    sides = [_Side(line.octets), _Side(line.octets)]
    order = count()
    events: list[tuple[float, int, int, int, float | None]] = [(0.0, next(order), i, 0, None) for i in (0, 1)]
    while events:
        now_s, _, i, octets, far_s = heapq.heappop(events)
        side, other = sides[i], sides[1 - i]
        if octets and far_s is None:  # they are there; the other side's word of it waits for its turn
            other.free_s = max(other.free_s, now_s) + ACKNOWLEDGEMENT_OCTETS / line.rate
            clock_s = FAR_CLOCK_S + now_s * (1 + drift * i)
            heapq.heappush(events, (other.free_s + line.round_trip_s / 2, next(order), i, octets, clock_s))
            continue
        if far_s is not None:
            side.pace.acknowledged(octets, far_s, now_s)
            side.done_s = now_s
        while side.sent < side.octets and (room := side.pace.room_octets(now_s)) > 0:
            piece = min(side.pace.frame_octets(), room, side.octets - side.sent)
            side.pace.sent(piece, now_s)
            side.sent += piece
            side.free_s = max(side.free_s, now_s) + piece / line.rate
            heapq.heappush(events, (side.free_s + line.round_trip_s / 2, next(order), i, side.sent, None))
        if side.sent < side.octets and (pause_s := side.pace.pause_s(now_s)) is not None:
            heapq.heappush(events, (now_s + max(pause_s, 1e-6), next(order), i, 0, None))
    return sides


@pytest.mark.parametrize("name", LINES)
def test_the_line_is_used(name: str) -> None:
    line = LINES[name]
    run = send(line)
    assert line.octets / run.seconds >= 0.9 * line.rate
    assert run.pace.rate == pytest.approx(line.rate, rel=0.1)
    assert run.pace.acknowledged_octets == run.pace.sent_octets == line.octets


@pytest.mark.parametrize("drift", [0.0, 5e-5], ids=["", "drift"])
@pytest.mark.parametrize("name", LINES)
def test_both_directions_are_used_at_once(name: str, drift: float) -> None:
    """Neither starves the other's acknowledgements, nor do both stop and go in turn."""
    line = LINES[name]
    for side in send_both_ways(line, drift):
        assert side.pace.acknowledged_octets == line.octets
        assert line.octets / side.done_s >= 0.85 * line.rate
        assert side.pace.rate == pytest.approx(line.rate, rel=0.1)


@pytest.mark.parametrize("name", LINES)
def test_no_more_is_under_way_than_about_two_round_trips(name: str) -> None:
    """The quickest trip counts a first frame's own time on the line; the start is before anything is known."""
    line = LINES[name]
    run = send(line)
    settled = run.windows[len(run.windows) // 2 :]
    assert max(settled) <= 2.5 * line.product + START_OCTETS
    assert max(run.outstanding) <= max(START_OCTETS, *run.windows) + max(run.frames)


@pytest.mark.parametrize("seed", range(5))
def test_a_line_that_is_not_steady_is_used_too(seed: int) -> None:
    line = LINES["satellite"]
    run = send(line, Random(seed))
    assert line.octets / run.seconds >= 0.6 * line.rate
    assert max(run.windows) <= 6 * line.product + START_OCTETS


def test_within_floor_and_ceiling() -> None:
    slow, fast = send(Line(0.05, 300, 30_000)), send(Line(2.0, 100e6, 400 << 20))
    assert min(slow.windows) >= FLOOR_OCTETS
    assert max(fast.windows) == CEILING_OCTETS


@pytest.mark.parametrize(("rate", "longest"), [(1_200, 1 << 10), (64_000, 16_000), (1e7, 32 << 10)])
def test_a_frame_is_on_the_line_for_about_a_quarter_of_a_second(rate: float, longest: int) -> None:
    run = send(Line(0.5, rate, START_OCTETS + int(rate * 100)))
    late = run.frames[len(run.frames) // 2 :]
    assert max(late) <= longest * 1.1
    assert max(run.frames) <= 32 << 10


def test_before_anything_is_known() -> None:
    pace = Pace()
    assert (pace.room_octets(0.0), pace.outstanding_octets, pace.rate, pace.round_trip_s) == (
        START_OCTETS,
        0,
        None,
        None,
    )
    pace.sent(START_OCTETS, 0.0)
    assert pace.room_octets(0.0) == 0


def test_acknowledgements_that_lie_or_come_twice_are_of_no_weight() -> None:
    pace = Pace()
    pace.sent(1000, 0.0)
    pace.acknowledged(1 << 62, 1.0, 1.0)
    assert (pace.acknowledged_octets, pace.outstanding_octets) == (1000, 0)
    rate = pace.rate
    for octets in (0, 999, 1000, 1 << 63):
        pace.acknowledged(octets, 2.0, 2.0)
    assert (pace.acknowledged_octets, pace.rate) == (1000, rate)


def test_a_pause_of_ours_is_not_a_slow_line() -> None:
    run = send(LINES["DSL"])
    rate = run.pace.rate
    assert rate is not None
    now_s = run.seconds + 3600
    run.pace.sent(10_000, now_s)
    run.pace.acknowledged(run.pace.sent_octets, now_s + 0.024 + FAR_CLOCK_S, now_s + 0.048)
    assert run.pace.rate is not None
    assert run.pace.rate > 0.5 * rate


@pytest.mark.parametrize("trip_s", [0.001, 0.02, 0.1])
def test_a_rate_once_taken_too_low_is_found_out(trip_s: float) -> None:
    """Every frame is acknowledged before the next is due: then our own pace is all that keeps the rate low."""
    pace = Pace()
    for _ in range(2):
        pace.sent(2048, 0.0)
    for octets, now_s in ((2048, 0.001), (4096, 0.5)):  # the other side was busy for a moment
        pace.acknowledged(octets, 1000 + now_s, now_s)
    assert pace.rate is not None
    assert pace.rate < 10_000
    now_s = 5.0
    while now_s < 65:
        room = pace.room_octets(now_s)
        if room > 0:
            pace.sent(min(room, pace.frame_octets()), now_s)
            now_s += trip_s
            pace.acknowledged(pace.sent_octets, 1000 + now_s, now_s)
        else:
            now_s += max(pace.pause_s(now_s) or 0.001, 1e-4)
    assert pace.rate > 50_000

"""Whether this side's clock can be believed.

The latest time seen is kept in the ledger, and each call compares the two
sites' clocks.  While ours has gone back, or is a day off the other side's,
nothing expires, no delay is told and nothing is pruned; mail goes on.  So it is
for up to a day after a leap: what was accepted before a machine without a clock
of its own had the time looks as old as the leap is long.  A call that finds the
clocks together ends the doubt, whichever had been wrong.
"""

from batchmail.store.ledger import Ledger
from batchmail.store.received import Received

_DAY_MS = 86_400_000
_SLACK_MS = 300_000  # a clock that is kept right may be set back by so much
_STEP_MS = 60_000  # the latest time is recorded this exactly
_APART, _LATEST = "clock_apart_h", "clock_latest_ms"
_ANEW, _BACK = "clock_anew_ms", "0"  # since when the time may be right again; that it is to be: it has gone back


def compare(ledger: Ledger, ours_ms: int, theirs_ms: int) -> None:
    """The other side has said what time it is."""
    apart_ms = ours_ms - theirs_ms
    if abs(apart_ms) > _DAY_MS:
        ledger.note(_APART, str(round(apart_ms / 3_600_000)))
        return
    if ledger.fact(_APART) or ledger.fact(_ANEW):
        ledger.note(_APART, "")
        ledger.note(_ANEW, "")
        Received(ledger).outlive(ours_ms + _DAY_MS)
    if abs(ours_ms - _latest_ms(ledger)) > _STEP_MS:
        ledger.set_fact(_LATEST, str(ours_ms))  # also where it had been ahead


def doubt(ledger: Ledger, now_ms: int) -> str:
    """Why the clock is not to be believed, for people; empty: it is.  Takes note of the time."""
    apart_h = ledger.fact(_APART)
    if apart_h:
        direction = "ahead of" if int(apart_h) > 0 else "behind"
        return (
            f"the clock here was {abs(int(apart_h))} hours {direction} the other side's in the last call: nothing"
            " expires, is told late or is pruned until a call finds them together"
        )
    latest_ms, anew = _latest_ms(ledger), ledger.fact(_ANEW) or ""
    if now_ms < latest_ms - _SLACK_MS:
        ledger.note(_ANEW, _BACK)
        return (
            f"the clock here went back by {(latest_ms - now_ms) // 60_000} minutes: nothing expires, is told late or is"
            " pruned until that time has come again, or a call finds it right"
        )
    if now_ms > latest_ms + _STEP_MS:
        ledger.set_fact(_LATEST, str(now_ms))
    if not anew and (not latest_ms or now_ms <= latest_ms + _DAY_MS):
        return ""
    if anew in ("", _BACK):
        anew = str(now_ms)
        ledger.set_fact(_ANEW, anew)
    if int(anew) <= now_ms < int(anew) + _DAY_MS:
        return (
            "the clock here went on by more than a day at once, or was wrong before: nothing expires, is told late or"
            " is pruned until a call finds it right, or a day is over"
        )
    ledger.note(_ANEW, "")  # whatever it did since: who looks every other day ends what is over, too
    return ""


def _latest_ms(ledger: Ledger) -> int:
    value = ledger.fact(_LATEST) or ""
    return int(value) if value.isdigit() else 0

"""The replay while a call goes on, and what the time of a call means for it."""

import threading
from collections.abc import Callable

import pytest

from batchmail.flow import work
from batchmail.flow.exchange import Options
from tests.sites import make_pair, messages


def test_the_time_of_a_call_bounds_its_replay(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair(tmp_path)
    pair.mx.accept(*messages(1))
    stops = []

    def endless(*arguments: Callable[[], bool]) -> None:
        """A replay that goes on until it is told to stop."""
        while not arguments[-1]():
            threading.Event().wait(0.001)
        stops.append(True)

    monkeypatch.setattr(work, "work_once", endless)
    caller, _ = pair.call(options=Options(max_time_s=0.5))
    assert caller.error is None and stops
    monkeypatch.undo()
    pair.home.run()
    assert len(pair.home.dropped()) == 1

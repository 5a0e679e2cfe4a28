"""When a line is asked whether it is alive, and when it is given up."""

import pytest

from batchmail.proto.pace import Pace
from batchmail.proto.watch import ANSWER_S, PING_S, SILENCE_S, Watch


def test_it_asks_once_and_again_after_something_was_heard() -> None:
    watch = Watch(Pace(), 0.0)
    assert [watch.must_ask(PING_S + s) for s in (0.0, 0.1, 1.0)] == [False, True, False]
    watch.heard(PING_S + 2)
    assert not watch.must_ask(PING_S + 3)
    assert watch.must_ask(2 * PING_S + 3)


def test_silence() -> None:
    watch = Watch(Pace(), 0.0)
    assert not watch.trouble(SILENCE_S, False)
    assert "nothing was heard" in watch.trouble(SILENCE_S + 1, False)


def test_who_speaks_and_acknowledges_nothing() -> None:
    pace = Pace()
    watch = Watch(pace, 0.0)
    pace.sent(1000, 0.0)
    watch.heard(SILENCE_S)
    assert not watch.trouble(SILENCE_S, True)
    assert "acknowledged nothing" in watch.trouble(SILENCE_S + 1, True)
    pace.acknowledged(1000, 0.0, SILENCE_S)
    assert not watch.trouble(SILENCE_S + 1, True)


def test_a_file_that_is_not_answered() -> None:
    pace = Pace()
    watch = Watch(pace, 0.0)
    pace.sent(1000, 0.0)
    pace.acknowledged(1000, 0.0, 1.0)
    watch.heard(ANSWER_S + 2)
    assert "did not answer a file" in watch.trouble(ANSWER_S + 2, True)
    assert not watch.trouble(ANSWER_S + 2, False)
    watch.answered(10.0)
    assert not watch.trouble(ANSWER_S + 2, True)


@pytest.mark.parametrize(("login_s", "patience_s"), [(0.0, 3.0), (0.3, 1.5), (6.0, 6.0)])
def test_a_second_call_waits_as_long_as_an_answer_can_take(login_s: float, patience_s: float) -> None:
    watch = Watch(Pace(), 0.0, login_s)
    watch.probe(100.0)
    assert watch.is_probing
    assert not watch.trouble(100.0 + patience_s, False)
    assert "another call was started" in watch.trouble(100.1 + patience_s, False)
    watch.heard(100.0 + patience_s)
    assert not watch.is_probing
    assert not watch.trouble(100.1 + patience_s, False)

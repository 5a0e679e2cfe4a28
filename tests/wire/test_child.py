"""Children: as streams, and rmail from a file."""

import os
import sys

import pytest

from batchmail.core.errors import LineError
from batchmail.wire import rmail
from batchmail.wire.child import STDERR_KEPT_OCTETS, ChildStream


def test_a_dialogue() -> None:
    child = ChildStream(["cat"])
    child.write(b"hello")
    assert child.read(100) == b"hello"
    child.end_input()
    assert child.read(100) == b""
    assert child.exit_status() == 0
    child.close()


def test_exit_status_and_the_end_of_stderr() -> None:
    child = ChildStream([sys.executable, "-c", "import sys; sys.stderr.write('x' * 9000 + 'the end\\n'); sys.exit(7)"])
    assert child.read(1) == b""
    assert child.exit_status() == 7
    tail = child.stderr_tail()
    assert tail.endswith("the end")
    assert len(tail) < STDERR_KEPT_OCTETS
    child.close()


def test_environment_and_a_deadline() -> None:
    child = ChildStream(["/bin/sh", "-c", 'echo "$GREETING"; read line'], env={"GREETING": "hello"})
    assert child.read(100) == b"hello\n"
    child.allow(0.05)
    with pytest.raises(LineError, match="no answer in time"):
        child.read(1)
    assert child.read_ready(1) is None
    child.close()
    assert child.exit_status() is not None


def test_a_child_that_ignores_its_end_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ChildStream.exit_status, "__defaults__", (0.2,))
    child = ChildStream(["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"])
    assert child.read(100) == b"ready\n"
    child.close()
    assert child.exit_status() == -9


def test_what_cannot_be_started() -> None:
    with pytest.raises(LineError, match=r"cannot start /nonexistent/x: No such file"):
        ChildStream(["/nonexistent/x"])


def test_rmail_reads_a_file_from_its_start_each_time(tmp_path: object) -> None:
    script = f"{tmp_path}/rmail"
    with open(os.open(script, os.O_WRONLY | os.O_CREAT, 0o755), "w") as file:
        file.write(
            f'#!/bin/sh\n[ -f /dev/stdin ] || exit 70\n{{ echo "$@"; cat; }} >>{tmp_path}/log\necho oops >&2\nexit $1\n'
        )
    with rmail.write_input(str(tmp_path), [b"one\n", b"two\n"]) as message:
        for status in (0, 75):
            assert rmail.run([script.encode(), b"%d" % status], message, str(tmp_path)) == (status, b"oops\n")
        with pytest.raises(LineError, match="cannot start"):
            rmail.run([b"/nonexistent"], message, str(tmp_path))
    with open(f"{tmp_path}/log") as log:
        assert log.read() == "0\none\ntwo\n75\none\ntwo\n"
    assert sorted(os.listdir(str(tmp_path))) == ["log", "rmail"]


def test_rmail_that_hangs_or_is_killed(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with rmail.write_input(str(tmp_path), []) as message:
        assert rmail.run([b"/bin/sh", b"-c", b"kill -9 $$"], message, str(tmp_path)).status == -9
        monkeypatch.setattr(rmail, "TIMEOUT_S", 0.05)
        assert rmail.run([b"sleep", b"60"], message, str(tmp_path)).status is None
    with pytest.raises(LineError, match=f"cannot write below {tmp_path}/none"):
        rmail.write_input(f"{tmp_path}/none", [])


def test_who_reads_what_another_thread_has_closed_gets_a_line_error() -> None:
    child = ChildStream(["cat"])
    child.close()
    for use in (lambda: child.read(1), lambda: child.read_ready(1), lambda: child.write(b"x")):
        with pytest.raises(LineError, match="the connection broke"):
            use()

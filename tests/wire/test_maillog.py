"""The mail log: one line, the ID first, nothing forged."""

import syslog

import pytest

from batchmail.core.envelope import Client
from batchmail.wire import doorlog


@pytest.fixture
def lines(monkeypatch):
    written = []
    monkeypatch.setattr(syslog, "syslog", lambda level, text: written.append((level, text)))
    return written


def test_accepted(lines):
    doorlog.accepted("0" * 26, "home", b"a@b.example", 2, 4711, "4A1", Client(b"192.0.2.1", b"mx.example"))
    doorlog.accepted("0" * 26, "home", b"", 1, 0, "", Client())
    assert lines == [
        (
            syslog.LOG_INFO,
            "00000000000000000000000000: accepted, peer=home, from=<a@b.example>, nrcpt=2, size=4711,"
            " queue-id=4A1, client=mx.example, address=192.0.2.1",
        ),
        (syslog.LOG_INFO, "00000000000000000000000000: accepted, peer=home, from=<>, nrcpt=1, size=0"),
    ]


def test_nothing_can_be_forged(lines):
    doorlog.accepted("ID", "home", b'"x>, size=0\r\n"@b\xff', 1, 2, "q, size=0", Client(name=b'a", b="c\n'))
    doorlog.refused("x\ny", "", "4.3.0", "a\r\nNov 20 root: b\\")
    assert [text for _, text in lines] == [
        r'ID: accepted, peer=home, from=<"x\x3e\x2c\x20size=0\x0d\x0a"@b\xff>, nrcpt=1, size=2, queue-id="q, size=0",'
        r' client="a\x22, b=\x22c\x0a"',
        r'refused, peer=x\x0ay, dsn=4.3.0, reason="a\x0d\x0aNov 20 root: b\x5c"',
    ]


def test_bounded(lines):
    doorlog.refused("p" * 9999, "q" * 9999, "5.6.0", "é" * 9999)
    assert len(lines[0][1]) < 4000
    assert lines[0][0] == syslog.LOG_NOTICE


def test_what_was_changed_or_left_out(lines):
    doorlog.line_ends("ID", 1, 2)
    doorlog.not_carried("ID", (b"ENVID=\xff", b"X=1"))
    assert [text for _, text in lines] == [
        "ID: line ends normalized, bare_cr=1, bare_lf=2",
        r'ID: not carried, parameters="ENVID=\xff X=1"',
    ]

"""From_ lines, whole and in pieces."""

import pytest

from batchmail.core import rmail
from batchmail.core.errors import MalformedInput
from batchmail.core.rmail import FromLines, null_if_daemon

DATE = b"Fri Nov 20 09:15:02 2026"
CASES = [
    ([b"From ann " + DATE + b" remote from alpha"], b"alpha!ann"),
    ([b"From beta!ann " + DATE + b" remote from alpha"], b"alpha!beta!ann"),
    ([b"From x " + DATE + b" remote from gamma", b">From ann " + DATE + b" remote from alpha"], b"gamma!alpha!ann"),
    ([b"From a!b!ann " + DATE], b"a!b!ann"),
    ([b"From ann@site.example " + DATE + b" remote from alpha"], b"alpha!ann@site.example"),
    ([b"From ann@site.example  " + DATE], b"ann@site.example"),  # Postfix's flag F
    ([b"From ann Fri Nov 20 09:15:02 CET 2026 remote from alpha  "], b"alpha!ann"),
    ([b'From "a b"@x.example  ' + DATE], b'"a b"@x.example'),
    ([b"From ann"], b"ann"),
    ([b"From   " + DATE], b""),  # Postfix's, with null_sender=
    ([b"From <> " + DATE + b" remote from alpha"], b""),
    ([b"From  " + DATE + b" remote from alpha"], b""),
    ([b"From MAILER-DAEMON  " + DATE], b""),
    ([b"From beta!MAILER-DAEMON " + DATE + b" remote from alpha"], b""),
    ([b"From MAILER-DAEMON@x.example " + DATE], b"MAILER-DAEMON@x.example"),
    ([b"From uucp " + DATE + b" remote from alpha"], b"alpha!uucp"),
]


@pytest.mark.parametrize("eol", [b"\n", b"\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize("rest", [b"", b"Subject: x\n\nFrom here on\n", b"Fro", b"From: x"])
@pytest.mark.parametrize(("lines", "sender"), CASES)
def test_from_lines(lines, sender, rest, eol):
    top = b"".join(line + eol for line in lines)
    expected = FromLines(sender, len(top))
    assert rmail.take(top + rest, eol, ended=True) == expected
    for n in range(len(top + rest)):
        early = rmail.take((top + rest)[:n], eol, ended=False)
        assert early == (
            expected if n > len(top) and rest[: n - len(top)] not in (b"F", b"Fr", b"Fro", b"From") else None
        )


def test_just_one():
    text = b"From a@b  date\n>From x y\nFrom c d\n"
    assert rmail.take(text, b"\n", ended=True, just_one=True) == FromLines(b"a@b", 15)
    assert rmail.take(b">From a b\n", b"\n", ended=True, just_one=True) == FromLines(None, 0)
    assert rmail.take(b"From a@b\n", b"\n", ended=False, just_one=True) == FromLines(b"a@b", 9)


@pytest.mark.parametrize("text", [b"", b"Subject: x\n", b"from x\n", b"From: x\n", b">Fromage\n"])
def test_none(text):
    assert rmail.take(text, b"\n", ended=True) == FromLines(None, 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"From x", "without its end"),
        (b"From " + b"x" * 3000, "more than 2048"),
        (b"From " + b"x" * 3000 + b"\n", "more than 2048"),
        (b"From x y\n" * 101, "more than 100"),
        (b'From "x y\n', "without a sender"),
        (b"From a\rb date\n", "no address"),  # a CR alone would end the command in the eyes of some
        (b"From a>b date\n", "no address"),
        (b"From <a@b> date\n", "no address"),
        (b'From "a\0"@b date\n', "no address"),
        (b"From x date remote from a<b\n", "no address"),
    ],
)
def test_refused(text, words):
    with pytest.raises(MalformedInput, match=words):
        rmail.take(text, b"\n", ended=True)


def test_null_sender():
    assert [null_if_daemon(word) for word in (b"", b"<>", b"MAILER-DAEMON", b"a!MAILER-DAEMON", b"a!b!<>")] == [b""] * 5
    for word in (b"MAILER-DAEMON@x", b"mailer-daemon", b"uucp", b"a!MAILER-DAEMON@x"):
        assert null_if_daemon(word) == word

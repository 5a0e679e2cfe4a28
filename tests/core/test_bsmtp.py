"""The BSMTP reader: what it takes, whole and in pieces, and what ends it."""

import pytest

from batchmail.core.bsmtp import Content, End, Note, Reader, Start
from batchmail.core.envelope import Envelope, Parameter, Recipient
from batchmail.core.errors import MalformedInput

# Exim's bytes (use_bsmtp): no greeting, no QUIT, line feeds, dots doubled.
EXIM = (
    b"MAIL FROM:<sender@src.example>\nRCPT TO:<u1@far.example>\nRCPT TO:<u2@far.example>\nDATA\n"
    b"Received: from [127.0.0.1] (helo=me.example)\n\tby mx.example with esmtp\n\nfirst\n..\n...two dots start\n"
    b"From line\n8bit: \xc3\xa6\xe6 end\n" + b"L" * 5000 + b"\nlast line\n.\n"
)
EXIM_CONTENT = (
    b"Received: from [127.0.0.1] (helo=me.example)\n\tby mx.example with esmtp\n\nfirst\n.\n..two dots start\n"
    b"From line\n8bit: \xc3\xa6\xe6 end\n" + b"L" * 5000 + b"\nlast line\n"
)
RFC2442 = (
    b"EHLO mx.example\r\nMAIL FROM:<a@b.example> RET=HDRS ENVID=id+2B1\r\nRCPT TO:<c@d.example> NOTIFY=NEVER\r\n"
    b"data\r\n.\r\nRSET\r\nNOOP hello there\r\nVERB ON\r\nMAIL FROM:<>\r\n"
    b"rcpt to: <x@y.example>\r\nDATA\r\none\r\n.\r\nQUIT\r\n"
)


def _read(pieces, eol=b""):
    reader = Reader(eol)
    events = []
    for piece in [*pieces, b""]:
        reader.receive(piece)
        while (event := reader.next_event()) is not None:
            if isinstance(event, Content) and isinstance(events[-1], Content):
                events[-1] = Content(events[-1].octets + event.octets)
            else:
                events.append(event)
    return events


def _splits(text):
    yield [text]
    yield [text[n : n + 1] for n in range(len(text))]
    for n in range(1, len(text), 1 if len(text) < 1000 else 97):
        yield [text[:n], text[n:]]


def test_exim():
    envelope = Envelope(b"sender@src.example", (), (Recipient(b"u1@far.example"), Recipient(b"u2@far.example")))
    for text, content in ((EXIM, EXIM_CONTENT), (EXIM.replace(b"\n", b"\r\n"), EXIM_CONTENT.replace(b"\n", b"\r\n"))):
        for pieces in _splits(text):
            assert _read(pieces) == [Start(envelope, 0), Content(content), End(len(text))]


def test_rfc_2442():
    for pieces in _splits(RFC2442):
        first, end, note, second, content, last = _read(pieces)
        assert first.envelope == Envelope(
            b"a@b.example",
            (Parameter(b"RET", b"HDRS"), Parameter(b"ENVID", b"id+2B1")),
            (Recipient(b"c@d.example", (Parameter(b"NOTIFY", b"NEVER"),)),),
        )
        assert RFC2442[first.offset :].startswith(b"MAIL FROM:<a@")
        assert RFC2442[end.offset :].startswith(b"RSET")
        assert note == Note(b"hello there")
        assert second.envelope == Envelope(b"", (), (Recipient(b"x@y.example"),))
        assert RFC2442[second.offset : last.offset].startswith(b"MAIL FROM:<>")
        assert (content, RFC2442[last.offset :]) == (Content(b"one\r\n"), b"QUIT\r\n")


HEAD = b"MAIL FROM:<a@b>\nRCPT TO:<c@d>\n"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"FOO\n", "not a BSMTP command: FOO"),
        (b"\n", "not a BSMTP command"),
        (b"\xff\xfe\0\n", "not a BSMTP command"),
        (b"BDAT 3 LAST\nabc", "not a BSMTP command: BDAT"),
        (b"XCLIENT NAME=x\n", "not a BSMTP command"),
        (b"DATA\n", "DATA without"),
        (b"MAIL FROM:<a@b>\nDATA\n", "DATA without"),
        (b"RCPT TO:<a@b>\n", "RCPT without MAIL"),
        (HEAD + b"MAIL FROM:<x@y>\n", "MAIL within"),
        (HEAD + b"QUIT\n", "QUIT within"),
        (HEAD + b"DATA x\n", "not a BSMTP command: DATA"),
        (HEAD, "ends within a transaction"),
        (HEAD + b"RCPT TO", "ends within a line"),
        (HEAD + b"DATA\nx\n", "before the final dot"),
        (HEAD + b"DATA\nx\n.", "before the final dot"),
        (HEAD + b"DATA\nx\n.\nQUIT\nMAIL FROM:<>\n", "after QUIT"),
        (HEAD + b"DATA\nx\n.\nReceived: y\n", "not a BSMTP command"),
        (b"MAIL FROM:<a@b> FOO=1\n", "FOO cannot be carried"),
        (b"MAIL FROM:<a@b>x\n", "text after the address"),
        (b"MAIL FROM:<a b>\n", "malformed address"),
        (b"MAIL FROM:<a@b> RET=FULL RET=HDRS\n", "stands twice"),
        (b"MAIL FROM:<a@b>\nRCPT TO:<>\n", "recipient is empty"),
        (b"NOOP " + b"x" * 5000, "more than 4096 octets"),
        (b"NOOP " + b"x" * 5000 + b"\n", "more than 4096 octets"),
        (b"HELO x\r\nMAIL FROM:<a@b>\n", "ends within a line"),  # one line end for the whole
        (b"HELO x\nMAIL FROM:<a@b>\r\n", "after the address"),
    ],
)
def test_refused(text, words):
    for pieces in _splits(text):
        with pytest.raises(MalformedInput, match=words):
            _read(pieces)


def test_an_input_cut_anywhere_is_refused():
    quiet = {0, len(EXIM)}  # nothing at all is for the door to judge
    line_ends = {n + 1 for n in range(len(EXIM)) if EXIM[n : n + 1] == b"\n"}
    for n in range(len(EXIM)):
        if n in quiet or (400 < n < 5200):
            continue
        with pytest.raises(MalformedInput, match="ends"):
            _read([EXIM[:n]])
    assert line_ends  # the cuts behind whole lines were among them


def test_too_many_recipients():
    with pytest.raises(MalformedInput, match="10000 recipients"):
        _read([b"MAIL FROM:<>\n" + b"RCPT TO:<a@b>\n" * 10_001])


# Spec: an unsafe reader takes one of these for the end of the data, and what follows for commands.
ODD = [
    b"\n.\n",
    b"\n.\r\n",
    b"\r\n.\n",
    b"\r.\r\n",
    b"\r.\r",
    b"\r\n.\r",
    b"\r\n\0.\r\n",
    b"\r\n. \r\n",
    b"\r\n.\t\r\n",
]


@pytest.mark.parametrize("odd", ODD)
def test_smuggling(odd):
    text = (
        b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nx"
        + odd
        + b"MAIL FROM:<evil@x>\r\nRCPT TO:<c@d>\r\nDATA\r\ny"
        + odd
    )
    text += b"\r\n.\r\n"
    for pieces in _splits(text):
        events = _read(pieces)
        assert [type(event) for event in events] == [Start, Content, End]
        assert b"MAIL FROM:<evil@x>" in events[1].octets


@pytest.mark.parametrize("odd", [b"\r\n.\r\n", b"\n.\r\n", b"\r.\r\n", b"\r.\r", b"\r\n.\r", b"\n. \n"])
def test_smuggling_with_line_feeds(odd):
    text = HEAD + b"DATA\nx" + odd + b"MAIL FROM:<evil@x>\nRCPT TO:<c@d>\nDATA\ny" + odd + b"\n.\n"
    for pieces in _splits(text):
        events = _read(pieces)
        assert [type(event) for event in events] == [Start, Content, End]
        assert b"MAIL FROM:<evil@x>" in events[1].octets

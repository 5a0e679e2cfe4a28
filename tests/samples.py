"""One small exchange as the code writes it: manuals and docs/protocol.md show it, and tests compare them with it."""

from collections.abc import Iterator
from hashlib import sha256

from batchmail.core import entry_lines, manifest, report
from batchmail.core.entry import Entry
from batchmail.core.envelope import Client, Parameter, Recipient, format_mail, format_rcpt
from batchmail.core.manifest import Head, Item
from batchmail.core.numbered import BATCH, REPORT, Number
from batchmail.core.outcome import PASSED, Outcome
from batchmail.core.report import Reported
from batchmail.proto.hello import VERSIONS, Have, Hello, Limits
from batchmail.proto.session import Bye, Custody, Data, Done, Event, Open, Received, Session
from batchmail.store.batchfile import CLOSING, preface

NOW_MS = 1795222800000
MX, HOME = "mx.example.net", "home.example.org"
ID = "01M7G3AJR05T0V7XK3M9D2RB4N"
STREAM, BACK = "7QK2M0F4ZC8V1T5X", "3HS9R6A1NB0E8W4J"  # of mx, and of home
BATCH_OCTETS = 437  # of the files as they would lie in the spool; what compresses them is no matter here
REPORT_OCTETS = 248
CLIENT = Client(address=b"192.0.2.7", helo=b"ann.example.com")
CONTENT = b"Subject: Hello\r\n\r\nNothing new.\r\n"
TEXT = b"\r\n".join(
    [
        format_mail(b"ann@example.com", (Parameter(b"RET", b"HDRS"), Parameter(b"ENVID", b"Q1"))),
        format_rcpt(Recipient(b"bob@home.example.org", (Parameter(b"NOTIFY", b"FAILURE"),))),
        b"DATA",
        CONTENT + b".\r\n",
    ]
)
DIGEST = sha256(TEXT).hexdigest()


def spool_file() -> bytes:
    """The transaction as it waits."""
    return entry_lines.head(NOW_MS, 0, "4A1", CLIENT) + TEXT + entry_lines.tail(len(CONTENT), len(TEXT), 7, 1, DIGEST)


def batch_text() -> bytes:
    """As `zstd -dc` prints it."""
    return preface(MX) + TEXT + CLOSING


def manifest_lines() -> bytes:
    written = Entry(ID, NOW_MS, 0, len(CONTENT), len(TEXT), DIGEST, 7, 1, "4A1", CLIENT)
    head = Head(STREAM, 1, MX, HOME, (manifest.VERSION,), NOW_MS + 60_000, 1, len(batch_text()))
    return b"".join(manifest.write(head, [Item(written, len(preface(MX)), 30 * 86_400_000)]))


def report_lines() -> bytes:
    outcome = Outcome(
        0, PASSED, 250, "2.1.5", b"2.0.0 Ok: queued as 4jWbHf6Z6zzJRby", b"home.example.org", NOW_MS + 61_500
    )
    return b"".join(
        report.write(Number(BACK, 1, REPORT), HOME, NOW_MS + 61_600, [Reported(ID, outcome, doubtful=False)])
    )


def greeting() -> str:
    hello = _hello(MX, "", ())
    return Session().start(hello).partition(b"\n")[0].decode()


def _hello(site: str, memory: str, have: tuple[Have, ...]) -> Hello:
    return Hello(site, VERSIONS, NOW_MS + 60_000, memory, Limits(1074790400, 1074790400, 6442450944), have, ())


def dialogue() -> Iterator[tuple[str, Event, bytes]]:
    """A call from home to mx: who speaks, what is meant, and the octets, checked by the machine at the other end."""
    home, mx = Session(), Session()
    identity = sha256(manifest_lines() + batch_text()).hexdigest()
    batch, back = Number(STREAM, 1, BATCH), Number(BACK, 1, REPORT)
    told = sha256(report_lines()).hexdigest()
    home_hello, mx_hello = _hello(HOME, "c1" * 16, ()), _hello(MX, "5e" * 16, ())
    yield from _say("home", home_hello, home.start(home_hello), mx)
    yield from _say("home", Done(0), home.send(Done(0)), mx)
    yield from _say("mx", mx_hello, mx.start(mx_hello), home)
    for speaker, event in (
        ("mx", Open(batch, identity, "zst", BATCH_OCTETS, 0)),
        ("mx", Data(STREAM, 1, 0, bytes(BATCH_OCTETS))),
        ("home", Received(BATCH_OCTETS, 8_000_000)),
        ("home", Custody(STREAM, 1)),
        ("mx", Done(0)),
        ("home", Open(back, told, "zst", REPORT_OCTETS, 0)),
        ("home", Data(BACK, 1, 0, bytes(REPORT_OCTETS))),
        ("mx", Received(REPORT_OCTETS, 9_000_000)),
        ("mx", Custody(BACK, 1)),
        ("mx", Done(1)),
        ("home", Done(1)),
        ("home", Bye("done", "")),
    ):
        ours, theirs = (home, mx) if speaker == "home" else (mx, home)
        yield from _say(speaker, event, ours.send(event), theirs)


def _say(speaker: str, event: Event, octets: bytes, listener: Session) -> Iterator[tuple[str, Event, bytes]]:
    listener.receive(octets)
    heard = listener.next_event()
    assert heard == event, (heard, event)
    assert listener.next_event() is None
    yield speaker, event, octets

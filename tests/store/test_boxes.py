"""Outbox, inbox, notices, the line's bell, and octets that are read twice."""

import os
from hashlib import sha256

import pytest

from batchmail.core.commands import parse_mail, parse_rcpt
from batchmail.core.envelope import Envelope
from batchmail.core.errors import PeerError, SpoolError
from batchmail.core.names import make_id
from batchmail.core.numbered import BATCH, REPORT, VOID, Number
from batchmail.store.bell import WAKE, ring
from batchmail.store.boxes import Inbox, Outbox, digest_of
from batchmail.store.durable import Draft
from batchmail.store.line import ANSWERER, CALLER, Line
from batchmail.store.notices import Notices
from batchmail.store.spill import MEMORY_OCTETS, Spill
from batchmail.store.spool import Spool
from tests.spools import drafts, make_spool, read_text

STREAM = "0123456789ABCDEF"
NUMBER = Number(STREAM, 1, BATCH)
IDENTITY = "ab" * 32
NOW_MS = 1795222800000


@pytest.fixture
def spool(tmp_path: object) -> Spool:
    return make_spool(f"{tmp_path}/spool")


@pytest.fixture
def inbox(spool: Spool) -> Inbox:
    return Inbox(spool, "home")


def put(path: str, octets: bytes = b"x") -> None:
    with open(path, "wb") as file:
        file.write(octets)


def test_the_outbox_holds_each_number_once(spool: Spool) -> None:
    outbox = Outbox(spool, "home")
    numbers = [Number(STREAM, 10, REPORT), Number(STREAM, 9, BATCH), Number(STREAM, 9, VOID)]
    for number in numbers:
        with Draft(spool.tmp) as draft:
            draft.write(b"x")
            outbox.publish(draft, number)
    put(f"{spool.root}/out/home/outbox/README")
    assert outbox.numbers() == sorted(numbers)
    with Draft(spool.tmp) as draft, pytest.raises(FileExistsError):
        outbox.publish(draft, numbers[0])
    for _ in range(2):
        outbox.remove(numbers[1])
    assert outbox.numbers() == sorted({numbers[0], numbers[2]})


def test_a_file_comes_in_pieces_and_over_cuts(inbox: Inbox, spool: Spool) -> None:
    incoming = inbox.begin(NUMBER, IDENTITY, 0)
    incoming.append(b"0123")
    incoming.append(b"456789")
    incoming.sync()
    incoming.close()
    (partial,) = inbox.partials()
    assert (partial.number, partial.identity, partial.octets) == (NUMBER, IDENTITY, 10)
    assert partial.digest() == sha256(b"0123456789").hexdigest() == digest_of(partial.path, 99)
    again = inbox.begin(NUMBER, IDENTITY, 4)
    again.append(b"xyz")
    assert (again.octets, again.first_octets(99)) == (7, b"0123xyz")
    again.close()
    with pytest.raises(PeerError, match="only 7 octets are here"):
        inbox.begin(NUMBER, IDENTITY, 8)
    inbox.take(inbox.begin(NUMBER, IDENTITY, 7))
    assert (inbox.partials(), inbox.numbers(), inbox.octets()) == ([], [NUMBER], 7)
    inbox.remove(NUMBER)
    assert inbox.numbers() == []


def test_another_file_of_the_same_number_takes_its_place(inbox: Inbox) -> None:
    inbox.begin(NUMBER, IDENTITY, 0).close()
    inbox.begin(Number(STREAM, 2, BATCH), IDENTITY, 0).close()
    inbox.begin(NUMBER._replace(kind=VOID), "cd" * 32, 0).close()
    assert [partial.number for partial in inbox.partials()] == [NUMBER._replace(kind=VOID), Number(STREAM, 2, BATCH)]


def test_custody_is_taken_once(inbox: Inbox) -> None:
    for octets in (b"first", b"second"):
        incoming = inbox.begin(NUMBER, IDENTITY, 0)
        incoming.append(octets)
        incoming.close()
        if octets == b"first":
            inbox.take(incoming)
    with pytest.raises(FileExistsError):
        inbox.take(incoming)
    assert digest_of(inbox.path(NUMBER), 99) == sha256(b"first").hexdigest()


def test_a_partial_file_that_is_a_link_is_not_followed(inbox: Inbox, spool: Spool) -> None:
    put(f"{spool.root}/victim", b"keep")
    os.symlink(f"{spool.root}/victim", f"{spool.root}/in/home/partial/{NUMBER.file_name}.{IDENTITY}.zst")
    with pytest.raises(OSError, match="symbolic"):
        inbox.begin(NUMBER, IDENTITY, 0)
    assert os.path.getsize(f"{spool.root}/victim") == 4


FOREIGN = ["x", f"{STREAM}.1.batch", f"{STREAM}.0.batch.{IDENTITY}.zst", f"{STREAM}.1.batch.ab.zst"]


@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files_are_passed_over(inbox: Inbox, spool: Spool, name: str) -> None:
    put(f"{spool.root}/in/home/partial/{name}")
    assert inbox.partials() == []


# Notices


def test_a_notice_is_written_whole_read_and_removed(spool: Spool) -> None:
    notices = Notices(spool, "home")
    identifier, stray = (make_id(NOW_MS, bytes([n]) * 10) for n in (1, 2))
    envelope = Envelope(*parse_mail(b"MAIL FROM:<>"), (parse_rcpt(b"RCPT TO:<s@mx.example>"),))
    for name in (identifier, stray):
        notices.write(name, NOW_MS, envelope, [b"Subject: x\r\n\r\n", b".dot"])
    assert read_text(b"".join(notices.read(identifier))) == (envelope, b"Subject: x\r\n\r\n.dot\r\n")
    notices.keep_only({identifier})
    assert os.listdir(f"{spool.root}/in/home/notices") == [f"{identifier}.bsmtp"]
    for _ in range(2):
        notices.remove(identifier)
    with pytest.raises(FileNotFoundError):
        notices.read(identifier)
    assert drafts(spool) == []


def test_a_notice_that_was_damaged_is_told(spool: Spool) -> None:
    notices, identifier = Notices(spool, "home"), make_id(NOW_MS, bytes(10))
    envelope = Envelope(*parse_mail(b"MAIL FROM:<>"), (parse_rcpt(b"RCPT TO:<s@mx.example>"),))
    notices.write(identifier, NOW_MS, envelope, [b"Subject: one\r\n"])
    path = f"{spool.root}/in/home/notices/{identifier}.bsmtp"
    with open(path, "rb") as file:
        octets = file.read()
    put(path, octets.replace(b"one", b"two"))
    with pytest.raises(SpoolError, match="damaged"):
        b"".join(notices.read(identifier))


# The line


def test_the_bell_reaches_who_has_the_line_and_nobody_else(spool: Spool) -> None:
    assert not ring(spool.root, "home", WAKE)
    line, other = Line(spool, "home"), Line(spool, "home")
    assert line.acquire(CALLER)
    assert not other.acquire(ANSWERER)
    assert other.holder() == CALLER
    assert line.wait(0) == []
    assert ring(spool.root, "home", WAKE)
    assert ring(spool.root, "home", WAKE)
    assert line.wait(60) == [WAKE, WAKE]
    line.close()
    line.close()
    assert not ring(spool.root, "home", WAKE)
    assert other.acquire(ANSWERER)
    assert other.wait(0) == []
    other.close()


def test_a_bell_that_nobody_listens_to_fills_up_and_no_more(spool: Spool) -> None:
    line = Line(spool, "home")
    assert line.acquire(CALLER)
    rung = 0
    while ring(spool.root, "home", WAKE):
        rung += 1
        assert rung < 100_000
    assert set(line.wait(0)) <= {WAKE, WAKE[: 4096 % 5]}
    line.close()


def test_what_is_no_bell_is_not_written_to(spool: Spool) -> None:
    put(f"{spool.root}/lock/home.bell", b"")
    assert not ring(spool.root, "home", WAKE)
    assert os.path.getsize(f"{spool.root}/lock/home.bell") == 0


# Octets that are read more than once


@pytest.mark.parametrize("size", [0, 1, MEMORY_OCTETS, MEMORY_OCTETS + 1, 3 * MEMORY_OCTETS])
def test_octets_are_read_as_often_as_wanted(spool: Spool, size: int) -> None:
    spill = Spill(spool.tmp)
    octets = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    for start in range(0, size, 70_001):
        spill.write(octets[start : start + 70_001])
    assert spill.size_octets == size
    for _ in range(2):
        assert b"".join(spill.read()) == octets
    assert len(drafts(spool)) == (size > MEMORY_OCTETS)
    for _ in range(2):
        spill.discard()
    assert drafts(spool) == []

"""Notices in 7-bit form: nothing beyond ASCII, legal MIME, the same Message-ID, the address still to be read."""

import email
import email.policy

import pytest

from batchmail.core import dsn, notice
from batchmail.core.commands import parse_mail, parse_rcpt
from batchmail.core.envelope import Envelope, Recipient
from batchmail.core.outcome import FAILED, Outcome
from batchmail.core.sevenbit import sevenbit

NOW_MS = 1795222800000
TEXT = "no such user: bücher".encode()


def letter(message: bytes, mail: str = "MAIL FROM:<s@src.test>", rcpt: str = "RCPT TO:<r@home.test>") -> bytes:
    envelope = Envelope(*parse_mail(mail.encode()), (Recipient(*parse_rcpt(rcpt.encode())),))
    outcome = Outcome(0, FAILED, 550, "5.1.1", TEXT, b"mx.home.test", NOW_MS)
    told = dsn.Notice(envelope, (outcome,), "X", NOW_MS, "home.test", "home.test")
    boundary = notice.make_boundary(bytes(12))
    words = {"me": "mx.test", "message_id": "<n@mx.test>", "boundary": boundary, "now_ms": NOW_MS}
    return b"".join(notice.compose(told, lambda: [message], max_return_octets=9999, **words)[1])  # type: ignore[arg-type]


@pytest.mark.parametrize("header", ["Subject: x\r\n", "Subject: ein Gruß aus Köln\r\nX-Other: é\r\n"])
@pytest.mark.parametrize(
    ("mail", "rcpt"),
    [
        ("MAIL FROM:<s@src.test>", "RCPT TO:<r@home.test>"),
        ("MAIL FROM:<s@src.test> SMTPUTF8", "RCPT TO:<bücher@home.test>"),
    ],
)
def test_it_is_legal_and_says_the_same(header: str, mail: str, rcpt: str) -> None:
    message = header.encode() + "\r\nbody ü\r\n".encode()
    whole = letter(message, mail, rcpt)
    assert not whole.isascii()
    octets = sevenbit(whole)
    assert octets.isascii() and octets == sevenbit(whole) and b"8bit" not in octets
    assert max(map(len, octets.split(b"\r\n"))) < 998 and octets.count(b"\n") == octets.count(b"\r\n")
    was, now = (email.message_from_bytes(one, policy=email.policy.SMTPUTF8) for one in (whole, octets))
    assert now["Message-ID"] == "<n@mx.test>" and now["Subject"] == was["Subject"] and now["To"] == was["To"]
    for part in now.walk():
        assert part.defects == []
    words, status, returned = now.get_payload()  # type: ignore[misc]
    assert status.get_content_type() == "message/delivery-status"
    fields = status.get_payload()[1]
    address = r"utf-8; b\x{FC}cher@home.test" if "SMTPUTF8" in mail else "rfc822; r@home.test"
    assert (fields["Final-Recipient"], fields["Status"], fields["Action"]) == (address, "5.1.1", "failed")
    assert "Its header is attached." in words.get_content()
    assert returned.get_content_type() == "text/rfc822-headers"
    assert returned.get_payload(decode=True).decode() == header


def test_of_a_message_without_a_header_nothing_is_returned() -> None:
    was = letter("\r\nbody ü\r\n\r\nmore of it\r\n".encode())
    assert b"body" in was
    returned = email.message_from_bytes(sevenbit(was)).get_payload()[2]  # type: ignore[index]
    assert returned.get_payload().strip() == ""


def test_what_is_ascii_stays_as_it_is() -> None:
    whole = letter(b"Subject: x\r\n\r\nbody\r\n")
    assert whole.isascii() and sevenbit(whole) == whole
    for other in ("Subject: ü\r\n\r\nno notice of ours\r\n".encode(), b"", b"\xff"):
        assert sevenbit(other) == other

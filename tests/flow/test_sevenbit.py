"""A mail server at the origin without 8BITMIME or SMTPUTF8: the sender is told all the same, once."""

import email
import email.policy

import pytest

from batchmail.core.outcome import FAILED
from batchmail.flow.settle import Settler
from batchmail.flow.target import open_target, parse_target
from tests.crash import test_steps as steps
from tests.fake_smtp import FakeSmtp, Script
from tests.sites import make_pair

MESSAGE = "Subject: Grüße\r\nMessage-ID: <1@mx.example>\r\n\r\nä body\r\n".encode()


@pytest.mark.parametrize(("offer", "is_ascii"), [("SIZE", True), ("8BITMIME", True), ("8BITMIME SMTPUTF8", False)])
def test_the_sender_is_told_once(tmp_path: object, offer: str, is_ascii: bool) -> None:
    pair = make_pair(tmp_path)
    pair.mx.accept(MESSAGE, sender="<s@mx.example> BODY=8BITMIME SMTPUTF8", rcpts=("<bücher@home.example>",))
    steps.seal(pair.mx)
    steps.carry(pair.mx, pair.home)
    steps.replay(pair.home, steps.CountingTarget(FAILED))
    steps.seal(pair.home)
    steps.carry(pair.home, pair.mx)
    with FakeSmtp(Script(ehlo=tuple(offer.encode().split()))) as server:
        ledger = pair.mx.context.open_ledger()
        target = open_target(parse_target(server.url()), "mx.example", pair.mx.clock, pair.mx.spool.tmp)
        for _ in range(2):
            Settler(pair.mx.context, ledger, target).run(lambda: False)
        states = ledger.rows("SELECT state FROM notice")
        target.close()
        ledger.close()
    assert states == [("sent",)]
    (octets,) = server.messages
    assert octets.isascii() is is_ascii
    letter = email.message_from_bytes(octets, policy=email.policy.SMTPUTF8)
    assert letter["Subject"] == "Undeliverable: Grüße" and letter["Message-ID"].endswith("@mx.example>")
    assert (b"utf-8; b\\x{FC}cher@home.example" in octets) is is_ascii
    mail = next(one for one in server.commands if one.startswith(b"MAIL"))
    assert (b"SMTPUTF8" in mail) is not is_ascii
    assert (pair.mx.inbox(), pair.mx.outbox()) == ([], [])

"""The SMTP machine by itself: its table, its groups, and what a hostile server can make of it."""

import random

import pytest

from batchmail.core import commands
from batchmail.core.errors import PeerError
from batchmail.core.reply import make_reply
from batchmail.proto.smtp_client import (
    GROUP_OCTETS,
    NEED_DATA,
    NEXT,
    Answer,
    Command,
    SmtpClient,
    State,
    Unasked,
    Verb,
    groups,
)
from batchmail.proto.smtp_offer import NEEDED, Offer, parse_offer

MAIL, RCPT, DATA = Command(Verb.MAIL, b"MAIL"), Command(Verb.RCPT, b"RCPT", 7), Command(Verb.DATA, b"DATA")


def ready() -> SmtpClient:
    machine = SmtpClient()
    machine.receive(b"220 mx.test ESMTP\r\n")
    assert isinstance(machine.next_event(), Answer)
    assert machine.send(Command(Verb.HELLO, b"EHLO me")) == b"EHLO me\r\n"
    machine.receive(b"250-mx.test\r\n250-size 1000\r\n250 PIPELINING\r\n")
    assert isinstance(machine.next_event(), Answer)
    assert machine.state is State.READY
    return machine


def test_a_group_and_its_answers_by_counting() -> None:
    machine = ready()
    assert machine.send(MAIL, RCPT, DATA) == b"MAIL\r\nRCPT\r\nDATA\r\n"
    machine.receive(b"250 a\r\n550 b\r\n354 c\r\n")
    events = [machine.next_event() for _ in range(4)]
    assert [e.command if isinstance(e, Answer) else e for e in events] == [MAIL, RCPT, DATA, NEED_DATA]
    assert machine.content(b".x\r\n") == b"..x\r\n"
    assert machine.end() == b".\r\n"
    machine.receive(b"250 done\r\n")
    assert isinstance(machine.next_event(), Answer)
    assert machine.state is State.READY


@pytest.mark.parametrize("parts", [(), (3, 5)])
def test_the_next_envelope_behind_a_dot(parts: tuple[int, ...]) -> None:
    machine = ready()
    machine.send(MAIL, RCPT, DATA)
    with pytest.raises(ValueError, match="before all was answered"):
        machine.send(MAIL)
    machine.receive(b"250 a\r\n250 b\r\n354 c\r\n")
    for _ in range(3):
        machine.next_event()
    machine.end(*parts)
    with pytest.raises(ValueError, match="QUIT"):
        machine.send(Command(Verb.QUIT, b"QUIT"))
    assert machine.send(MAIL, RCPT, DATA) == b"MAIL\r\nRCPT\r\nDATA\r\n"
    with pytest.raises(ValueError, match="before all was answered"):
        machine.send(MAIL)
    ends = len(parts) or 1
    machine.receive(b"250 in\r\n" * ends + b"250 a\r\n250 b\r\n354 c\r\n")
    events = [machine.next_event() for _ in range(ends + 3)]
    assert [e.command.verb for e in events if isinstance(e, Answer)][ends:] == [Verb.MAIL, Verb.RCPT, Verb.DATA]
    assert (machine.state, machine.is_waiting) == (State.CONTENT, False)


def test_lmtp_parts() -> None:
    machine = ready()
    machine.send(MAIL, RCPT, RCPT, DATA)
    machine.receive(b"250 a\r\n250 b\r\n250 b\r\n354 c\r\n")
    for _ in range(4):
        machine.next_event()
    machine.end(3, 5)
    machine.receive(b"250-x\r\n250 in\r\n")
    first = machine.next_event()
    assert isinstance(first, Answer)
    assert (first.command.recipient, machine.is_waiting) == (3, True)
    machine.receive(b"450 out\r\n")
    second = machine.next_event()
    assert isinstance(second, Answer)
    assert (second.command.recipient, machine.is_waiting, machine.state) == (5, False, State.READY)


def test_what_is_said_unasked_ends_the_session() -> None:
    machine = ready()
    machine.receive(b"421 timeout\r\n")
    assert isinstance(machine.next_event(), Unasked)
    assert machine.state is State.CLOSED
    with pytest.raises(ValueError, match="MAIL in state CLOSED"):
        machine.send(MAIL)


def test_an_error_is_for_good() -> None:
    machine = ready()
    machine.send(MAIL)
    machine.receive(b"354 what\r\n250 ok\r\n")
    for _ in range(2):
        with pytest.raises(PeerError):
            machine.next_event()
    with pytest.raises(ValueError, match="before all was answered"):
        machine.send(MAIL)
    with pytest.raises(PeerError, match="closed"):
        ready().receive(b"")


def test_commands_out_of_order_are_our_bug() -> None:
    with pytest.raises(ValueError, match="before all was answered"):
        SmtpClient().send(MAIL)
    with pytest.raises(ValueError, match="RSET in state GREETED"):
        machine = SmtpClient()
        machine.receive(b"220 x\r\n")
        machine.next_event()
        machine.send(Command(Verb.RSET, b"RSET"))
    for action in (ready().content, lambda _: ready().end(), lambda _: ready().secured()):
        with pytest.raises(ValueError, match="in state READY"):
            action(b"x")


def test_groups() -> None:
    commands = [MAIL, *[Command(Verb.RCPT, b"x" * 3000)] * 5, Command(Verb.RCPT, b"y" * 9000), DATA]
    cut = list(groups(commands, True))
    assert [c for group in cut for c in group] == commands
    assert all(len(g) == 1 or sum(len(c.line) + 2 for c in g) <= GROUP_OCTETS for g in cut)
    assert len(cut) == 5
    assert [len(group) for group in groups(commands, False)] == [1] * len(commands)


@pytest.mark.parametrize("seed", range(40))
def test_a_hostile_server_raises_only_peer_errors(seed: int) -> None:
    chance = random.Random(seed)
    pieces = [
        b"250 ok\r\n",
        b"250-",
        b"354 go\r\n",
        b"550 5.1.1 x\r\n",
        b"421 x\r\n",
        b"\r\n",
        b"334 \r\n",
        b"\0",
        b"2",
    ]
    for _ in range(60):
        machine = SmtpClient() if chance.random() < 0.3 else ready()
        try:
            for _ in range(30):
                possible = [verb for state, verb in NEXT if state is machine.state]
                if not machine.is_waiting and possible and machine.state is not State.CONTENT:
                    machine.send(Command(chance.choice(possible), b"x"))
                elif machine.state is State.CONTENT and not machine.is_waiting:
                    machine.end(*range(chance.randrange(3)))
                machine.receive(b"".join(chance.choices(pieces, [9, 1, 3, 3, 1, 1, 2, 1, 1], k=2)))
                while machine.next_event() is not NEED_DATA:
                    pass
        except PeerError:
            assert machine.state is State.ERROR


def test_every_parameter_we_accept_has_a_place() -> None:
    assert set(NEEDED) == set(commands._MAIL_CHECKS) | set(commands._RCPT_CHECKS)


def test_offer() -> None:
    greeting = make_reply(220, [b"mx.test ESMTP Exim 4.96"])
    lines = [
        b"mx.test Hello",
        b"size 12",
        b"AUTH=LOGIN",
        b"Auth plain",
        b"LIMITS MAILMAX=3 RCPTMAX=x RCPTMAX=0",
        b"DSN",
    ]
    offer = parse_offer(greeting, make_reply(250, lines))
    assert (offer.mta, offer.size_limit_octets, offer.mechanisms) == (b"mx.test", 12, [b"PLAIN"])
    assert (offer.limit(b"MAILMAX"), offer.limit(b"RCPTMAX"), offer.habits.transactions) == (3, 0, 10)
    assert parse_offer(greeting, make_reply(250, [b"\xe4<evil>"])).mta == b"mx.test"
    assert parse_offer(make_reply(220, [b""]), make_reply(250, [b"SIZE"])).mta == b"SIZE"
    assert Offer().size_limit_octets == 0

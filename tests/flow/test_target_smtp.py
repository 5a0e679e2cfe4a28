"""Dialogues with a scripted server: what is sent, and what becomes of each recipient."""

import base64
import hmac
import os
import ssl
import subprocess
from collections.abc import Iterator

import pytest

from batchmail.core.commands import parse_mail, parse_rcpt
from batchmail.core.deliverby import with_left
from batchmail.core.envelope import Client, Envelope
from batchmail.core.errors import SpoolError, TargetDown
from batchmail.core.outcome import DELAYED, DELIVERED, FAILED, PASSED, RELAYED, Outcome
from batchmail.flow import smtp_session
from batchmail.flow.target import Delivery, Target, open_target, parse_target
from batchmail.proto.smtp_client import Verb
from batchmail.wire import smtp
from tests.fake_smtp import CLOSE, END, SKIP, FakeSmtp, Script

ID = "01KAHQ8M5P0123456789ABCDEF"
MESSAGE = b"Received: from a by b\r\nSubject: x\r\n\r\nhello\r\n.dot\r\n"


def a_target(url: str) -> Target:
    return open_target(parse_target(url), "home.test", lambda: 1795222800000, "/nonexistent")


def envelope(mail: str, *rcpts: str) -> Envelope:
    sender, parameters = parse_mail(f"MAIL FROM:{mail}".encode())
    return Envelope(sender, parameters, tuple(parse_rcpt(f"RCPT TO:{rcpt}".encode()) for rcpt in rcpts))


TO_ANN = envelope("<s@x.test>", "<ann@y.test>")
RCPT_ANN = b"RCPT TO:<ann@y.test>"
TO_THREE = envelope("<s@x.test>", "<ann@y.test>", "<bob@y.test>", "<cat@y.test>")


def cut(content: bytes) -> Iterator[bytes]:
    return (content[i : i + 777] for i in range(0, len(content), 777))


class Mail:
    """Deliveries through one target, and what was called back."""

    def __init__(self, url: str):
        self.target = a_target(url)
        self.log: list[str | Outcome] = []

    def deliver(self, env: Envelope = TO_ANN, content: bytes = MESSAGE, **changes: object) -> dict[int, Outcome]:
        self.log.clear()
        eightbit = not content.isascii()
        numbers = tuple(range(len(env.recipients)))
        delivery = Delivery(ID, env, numbers, len(content), eightbit, False, lambda: cut(content), Client())
        delivery = delivery._replace(**changes)  # type: ignore[arg-type]
        self.target.deliver(delivery, lambda: self.log.append("dot"), self.log.append)
        outcomes = [entry for entry in self.log if isinstance(entry, Outcome)]
        assert sorted(o.recipient for o in outcomes) == sorted(delivery.recipients), "each once"
        return {o.recipient: o for o in outcomes}

    def actions(self, env: Envelope = TO_ANN, **changes: object) -> list[str]:
        outcomes = self.deliver(env, **changes)  # type: ignore[arg-type]
        return [outcomes[n].action for n in sorted(outcomes)]


# What is sent


def test_a_pipelined_transaction_is_one_group_and_a_message() -> None:
    with FakeSmtp() as server:
        mail = Mail(server.url())
        assert mail.deliver(TO_ANN) == {
            0: Outcome(0, PASSED, 250, "2.0.0", b"done", b"mx.test", 1795222800000),
        }
        assert mail.log[0] == "dot"
        mail.target.close()
    assert server.sessions == [
        [b"EHLO home.test", b"MAIL FROM:<s@x.test> SIZE=%d" % len(MESSAGE), b"RCPT TO:<ann@y.test>", b"DATA", b"QUIT"]
    ]
    assert server.received[0][1].endswith(b"DATA\r\n"), "one group"
    assert server.messages == [MESSAGE.replace(b"\r\n.dot", b"\r\n..dot") + b".\r\n"]


def test_without_pipelining_each_command_waits() -> None:
    with FakeSmtp(Script(ehlo=(b"DSN",))) as server:
        assert Mail(server.url()).actions(TO_THREE) == [PASSED] * 3
    assert len(server.received[0]) == 7  # EHLO, MAIL, three RCPT, DATA, the message


def test_replies_come_octet_by_octet_and_in_many_lines() -> None:
    script = Script(one_by_one=True, replies={END: b"250-2.0.0 one\r\n250-2.0.0 two\x07\r\n250 2.0.0 three"})
    with FakeSmtp(script) as server:
        assert Mail(server.url()).deliver()[0].text == b"one\ntwo?\nthree"


PARAMETERS = (
    "RET=HDRS ENVID=QQ+20314159 BODY=8BITMIME MT-PRIORITY=3 SUBMITTER=a@b SOLICIT=net.x SIZE=99",
    "NOTIFY=SUCCESS,delay ORCPT=rfc822;Bob+2B@y.test RRVS=2014-04-03T23:01:00Z;C",
)


@pytest.mark.parametrize(
    ("ehlo", "mail", "rcpt"),
    [
        ((), b"", b""),
        ((b"SIZE 0",), b" SIZE=%d" % len(MESSAGE), b""),
        ((b"8bitmime",), b" BODY=8BITMIME", b""),
        ((b"DSN",), b" RET=HDRS ENVID=QQ+20314159", b" NOTIFY=SUCCESS,delay ORCPT=rfc822;Bob+2B@y.test"),
        ((b"MT-PRIORITY MIXER",), b" MT-PRIORITY=3", b""),
        ((b"SUBMITTER", b"NO-SOLICITING"), b" SUBMITTER=a@b SOLICIT=net.x", b""),
        ((b"RRVS",), b"", b" RRVS=2014-04-03T23:01:00Z;C"),
    ],
)
def test_parameters_go_where_their_extension_is_offered(ehlo: tuple[bytes, ...], mail: bytes, rcpt: bytes) -> None:
    env = envelope("<> " + PARAMETERS[0], "<ann@y.test> " + PARAMETERS[1])
    with FakeSmtp(Script(ehlo=(b"HELP", *ehlo))) as server:
        Mail(server.url()).deliver(env)
    assert server.commands[1:3] == [b"MAIL FROM:<>" + mail, b"RCPT TO:<ann@y.test>" + rcpt]


@pytest.mark.parametrize(
    ("by", "ehlo", "mail", "notify", "action"),
    [
        ("BY=50;R", (b"DSN", b"DELIVERBY 50"), b" BY=50;R", [b"", b" NOTIFY=NEVER"], PASSED),
        ("BY=50;NT", (b"DSN", b"DELIVERBY"), b" BY=50;NT", [b"", b" NOTIFY=NEVER"], RELAYED),
        ("BY=-50;N", (b"DSN", b"DELIVERBY"), b" BY=-50;N", [b"", b" NOTIFY=NEVER"], PASSED),
        ("BY=50;N", (b"DSN",), b"", [b" NOTIFY=FAILURE,DELAY", b" NOTIFY=NEVER"], RELAYED),
        ("BY=-50;N", (b"DSN",), b"", [b"", b" NOTIFY=NEVER"], PASSED),
        ("BY=50;N", (), b"", [b"", b""], RELAYED),
    ],
)
def test_how_a_server_is_told_of_the_time_that_is_left(
    by: str, ehlo: tuple[bytes, ...], mail: bytes, notify: list[bytes], action: str
) -> None:
    env = envelope(f"<s@x.test> {by}", "<a@y.test>", "<b@y.test> NOTIFY=NEVER")
    with FakeSmtp(Script(ehlo=ehlo)) as server:
        assert Mail(server.url()).actions(env) == [action] * 2
    rcpts = [b"RCPT TO:<a@y.test>" + notify[0], b"RCPT TO:<b@y.test>" + notify[1]]
    assert server.commands[1:4] == [b"MAIL FROM:<s@x.test>" + mail, *rcpts]


@pytest.mark.parametrize("asked", ["SUCCESS", "failure", "DELAY,SUCCESS"])
def test_a_server_that_does_not_know_the_time_is_asked_to_tell_of_delays(asked: str) -> None:
    env = envelope("<s@x.test> BY=50;N", f"<a@y.test> NOTIFY={asked}")
    with FakeSmtp(Script(ehlo=(b"DSN",))) as server:
        Mail(server.url()).deliver(env)
    there = asked if "DELAY" in asked else asked + ",DELAY"
    assert server.commands[2] == f"RCPT TO:<a@y.test> NOTIFY={there}".encode()


@pytest.mark.parametrize(
    ("left", "ehlo", "status", "text"),
    [
        (50, (b"DSN",), "5.3.3", b"mx.test offers no DELIVERBY"),
        (50, (b"DSN", b"DELIVERBY 51"), "5.3.3", b"mx.test takes it with at least 51"),
        (0, (b"DSN", b"DELIVERBY"), "5.4.7", b"is over"),
    ],
)
def test_who_cannot_give_it_back_in_time_does_not_get_it(
    left: int, ehlo: tuple[bytes, ...], status: str, text: bytes
) -> None:
    env = with_left(envelope("<s@x.test> BY=99;R", "<a@y.test>"), left * 1000)
    with FakeSmtp(Script(ehlo=ehlo)) as server:
        (found,) = Mail(server.url()).deliver(env).values()
    assert (found.action, found.status) == (FAILED, status)
    assert text in found.text
    assert not any(command.startswith(b"MAIL") for command in server.commands)


def test_a_mailbox_needs_to_know_nothing_of_the_time() -> None:
    env = envelope("<s@x.test> BY=99;RT", "<a@y.test>")
    with FakeSmtp(Script(ehlo=())) as server:
        mail = Mail(server.url(query="final=yes"))
        assert mail.actions(env) == [DELIVERED]
        assert "DELIVERBY" in mail.target.offers.split()
    assert server.commands[1] == b"MAIL FROM:<s@x.test>"


CLIENT = Client(b"2001:db8::1", b"host.x.test", b"a b", b"ESMTP", b"2525", b"REMOTE")
OFFERED = b"XFORWARD NAME ADDR PROTO HELO SOURCE PORT IDENT"


@pytest.mark.parametrize("pipelining", [(b"PIPELINING",), ()], ids=["pipelined", "one by one"])
@pytest.mark.parametrize("answer", [b"250 ok", b"550 not you"])
def test_whom_the_message_is_from_is_told_where_configured_and_offered(
    pipelining: tuple[bytes, ...], answer: bytes
) -> None:
    told = [
        b"XFORWARD NAME=host.x.test",
        b"XFORWARD ADDR=IPV6:2001:db8::1 PORT=2525",
        b"XFORWARD PROTO=ESMTP HELO=a+20b IDENT=%b SOURCE=REMOTE" % ID.encode(),
    ]
    with FakeSmtp(Script(ehlo=(OFFERED, *pipelining), replies={b"XFORWARD": answer})) as server:
        mail = Mail(server.url(query="xforward=yes"))
        assert mail.actions(client=CLIENT) == mail.actions(client=CLIENT) == [RELAYED]
        assert server.commands == [b"EHLO home.test", *[*told, b"MAIL FROM:<s@x.test>", RCPT_ANN, b"DATA"] * 2]
    for query, offer, client in (
        ("", OFFERED, CLIENT),
        ("xforward=no", OFFERED, CLIENT),
        ("xforward=yes", b"XCLIENT ADDR", CLIENT),
        ("xforward=yes", b"XFORWARD", CLIENT),
        ("xforward=yes", OFFERED, Client()),
    ):
        with FakeSmtp(Script(ehlo=(offer, *pipelining))) as server:
            assert Mail(server.url(query=query)).actions(client=client) == [RELAYED]
            assert server.commands[1:] == [b"MAIL FROM:<s@x.test>", RCPT_ANN, b"DATA"]


def test_only_what_is_offered_and_fits_is_told_of_a_client() -> None:
    client = CLIENT._replace(address=b"no address", name=b"+" * 90, helo=b"\xc3" * 85, protocol=b"\r\nP")
    with FakeSmtp(Script(ehlo=(b"XFORWARD helo addr name proto helo future ident proto",))) as server:
        Mail(server.url(query="xforward=yes")).deliver(client=client)
    assert server.commands[1:3] == [
        b"XFORWARD HELO=" + b"+C3" * 85 + b" IDENT=" + ID.encode(),
        b"MAIL FROM:<s@x.test>",
    ]


def test_success_is_passed_with_dsn_and_relayed_or_delivered_without() -> None:
    with FakeSmtp(Script(ehlo=(b"8BITMIME",))) as server:
        assert Mail(server.url()).actions() == [RELAYED]
        assert Mail(server.url(query="final=yes")).actions() == [DELIVERED]
    with FakeSmtp(Script(lmtp=True, ehlo=(b"PIPELINING",))) as server:
        assert Mail(server.url("lmtp")).actions() == [DELIVERED]
        assert server.commands[0] == b"LHLO home.test"
        assert Mail(server.url("lmtp", "final=no")).actions() == [RELAYED]


def test_one_session_carries_several_transactions_without_reset() -> None:
    with FakeSmtp() as server:
        mail = Mail(server.url())
        for _ in range(3):
            mail.deliver()
    assert [c.split(b" ")[0] for c in server.commands] == [b"EHLO"] + [b"MAIL", b"RCPT", b"DATA"] * 3


@pytest.mark.parametrize(
    ("script", "query", "sessions"),
    [
        (Script(greeting=b"220 mx.test ESMTP Exim 4.96"), "", [10, 1]),
        (Script(), "session=4", [4, 4, 3]),
        (Script(ehlo=(b"LIMITS MAILMAX=6 RCPTMAX=100",)), "", [6, 5]),
        (Script(greeting=b"220 exim.test ESMTP Fake"), "", [11]),
    ],
)
def test_sessions_end_before_the_server_is_tired(script: Script, query: str, sessions: list[int]) -> None:
    with FakeSmtp(script) as server:
        mail = Mail(server.url(query=query))
        for _ in range(11):
            assert mail.actions() == [PASSED if b"DSN" in script.ehlo else RELAYED]
        mail.target.close()
    assert [sum(c.startswith(b"MAIL") for c in session) for session in server.sessions] == sessions
    assert all(session[-1] == b"QUIT" for session in server.sessions)


def test_who_says_quit_ends_its_side_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(smtp_session._ANSWER_S, Verb.QUIT, 60)
    with FakeSmtp(Script(keeps_quit_back=True)) as server:
        mail = Mail(server.url(query="session=1"))
        for _ in range(3):
            assert mail.actions() == [PASSED]
        mail.target.close()
    assert [session[-1] for session in server.sessions] == [b"QUIT"] * 3


def test_opensmtpd_gets_a_transaction_per_dsn_parameters() -> None:
    env = envelope("<s@x.test>", "<a@y.test> NOTIFY=SUCCESS", "<b@y.test> NOTIFY=NEVER", "<c@y.test> NOTIFY=SUCCESS")
    with FakeSmtp(Script(greeting=b"220 mx.test ESMTP OpenSMTPD")) as server:
        mail = Mail(server.url())
        assert mail.actions(env) == [PASSED] * 3
        assert mail.log.count("dot") == 2
    rcpts = [c.split(b" ")[1] for c in server.commands if c.startswith((b"RCPT", b"MAIL"))]
    assert rcpts == [b"FROM:<s@x.test>", b"TO:<a@y.test>", b"TO:<c@y.test>", b"FROM:<s@x.test>", b"TO:<b@y.test>"]


def test_rcptmax_splits_with_the_same_parameters() -> None:
    env = envelope("<s@x.test> ENVID=e1", *(f"<r{n}@y.test>" for n in range(5)))
    with FakeSmtp(Script(ehlo=(b"PIPELINING", b"DSN", b"LIMITS RCPTMAX=2"))) as server:
        assert Mail(server.url()).actions(env) == [PASSED] * 5
    assert [c for c in server.commands if c.startswith(b"MAIL")] == [b"MAIL FROM:<s@x.test> ENVID=e1"] * 3
    assert len(server.messages) == 3


def test_groups_stay_small_with_many_recipients() -> None:
    env = envelope("<s@x.test>", *(f"<recipient-number-{n}@y.test>" for n in range(1000)))
    with FakeSmtp() as server:
        assert Mail(server.url()).actions(env) == [PASSED] * 1000
    assert len(server.messages) == 1
    assert max(map(len, server.received[0])) <= 8192


# What cannot be sent


@pytest.mark.parametrize(
    ("ehlo", "env", "content", "changes", "status"),
    [
        ((b"SIZE 10",), TO_ANN, MESSAGE, {}, "5.3.4"),
        ((b"DSN",), TO_ANN, b"\xe4\r\n", {}, "5.6.3"),
        ((b"8BITMIME",), envelope("<jürgen@x.test> SMTPUTF8", "<a@y.test>"), MESSAGE, {}, "5.6.7"),
        ((b"8BITMIME",), envelope("<s@x.test>", "<jürgen@y.test>"), MESSAGE, {}, "5.6.7"),
        ((b"8BITMIME",), envelope("<s@x.test> SMTPUTF8", "<a@y.test>"), b"\xe4\r\n", {"utf8_header": True}, "5.6.9"),
        ((b"8BITMIME",), envelope("<s@x.test>", "<a@y.test> RRVS=2014-04-03T23:01:00Z"), MESSAGE, {}, "5.7.19"),
    ],
)
def test_refused_without_trying(
    ehlo: tuple[bytes, ...], env: Envelope, content: bytes, changes: dict[str, object], status: str
) -> None:
    with FakeSmtp(Script(ehlo=ehlo)) as server:
        outcome = Mail(server.url()).deliver(env, content, **changes)[0]
    assert (outcome.action, outcome.status) == (FAILED, status)
    assert server.sessions == [[b"EHLO home.test"]]


def test_eightbit_goes_anyway_where_configured_and_body_is_made_true() -> None:
    with FakeSmtp(Script(ehlo=(b"DSN",)), Script(ehlo=(b"8BITMIME",))) as server:
        assert Mail(server.url(query="eightbit=send")).actions(content=b"\xe4\r\n") == [PASSED]
        Mail(server.url()).deliver(envelope("<> BODY=7BIT", "<a@y.test>"), b"\xe4\r\n")
    assert server.sessions[0][1] == b"MAIL FROM:<s@x.test>"
    assert server.sessions[1][1] == b"MAIL FROM:<> BODY=8BITMIME"


def test_smtputf8_where_offered_and_not_needed_where_not() -> None:
    with FakeSmtp(Script(ehlo=(b"8BITMIME", b"SMTPUTF8", b"DSN")), Script(ehlo=(b"8BITMIME", b"DSN"))) as server:
        env = envelope("<s@x.test>", "<jürgen@y.test> ORCPT=utf-8;jürgen@y.test")
        assert Mail(server.url()).actions(env) == [PASSED]
        env = envelope("<s@x.test> SMTPUTF8", "<a@y.test> ORCPT=utf-8;j\\x{2B}ürgen😀@y.test", "<ü@y.test>")
        assert Mail(server.url()).actions(env) == [PASSED, FAILED]
    assert server.sessions[0][1:3] == [
        b"MAIL FROM:<s@x.test> SMTPUTF8",
        "RCPT TO:<jürgen@y.test> ORCPT=utf-8;jürgen@y.test".encode(),
    ]
    assert server.sessions[1][1:3] == [
        b"MAIL FROM:<s@x.test>",
        rb"RCPT TO:<a@y.test> ORCPT=utf-8;j\x{2B}\x{FC}rgen\x{1F600}@y.test",
    ]


# Answers to the envelope


def test_partial_acceptance() -> None:
    replies: dict[bytes, bytes | list[bytes]] = {
        b"RCPT TO:<ann": b"550 5.1.1 nobody here",
        b"RCPT TO:<bob": b"451-4.2.0 greylisted\r\n451 4.2.0 come again",
    }
    with FakeSmtp(Script(replies=replies)) as server:
        mail = Mail(server.url())
        outcomes = mail.deliver(TO_THREE)
        assert [e.recipient for e in mail.log[:2] if isinstance(e, Outcome)] == [0, 1], "before the dot"
    assert [o[1:5] for o in outcomes.values()] == [
        (FAILED, 550, "5.1.1", b"nobody here"),
        (DELAYED, 451, "4.2.0", b"greylisted\ncome again"),
        (PASSED, 250, "2.0.0", b"done"),
    ]


@pytest.mark.parametrize(
    ("command", "reply", "action", "status"),
    [
        (b"MAIL", b"550 5.7.1 no", FAILED, "5.7.1"),
        (b"MAIL", b"451 later", DELAYED, "4.0.0"),
        (b"MAIL", b"552 5.3.4 too large", FAILED, "5.3.4"),
        (b"MAIL", b"555 5.5.4 parameter?", DELAYED, "4.5.4"),
        (b"MAIL", b"501 5.1.7 bad sender", FAILED, "5.1.7"),
        (b"MAIL", b"501 malformed address", DELAYED, "4.0.0"),
        (b"MAIL", b"503 5.5.1 EHLO first", DELAYED, "4.5.1"),
        (b"MAIL", b"530 5.7.0 authenticate", DELAYED, "4.7.0"),
        (b"RCPT", b"550 no", FAILED, "5.0.0"),
        (b"RCPT", b"550 4.1.1 odd", FAILED, "5.0.0"),
        (b"RCPT", b"450 5.1.1 odd", DELAYED, "4.0.0"),
        (b"RCPT", b"501 malformed", FAILED, "5.1.3"),
        (b"RCPT", b"501 5.1.3 malformed", FAILED, "5.1.3"),
        (b"RCPT", b"501 5.5.4 bad NOTIFY", DELAYED, "4.5.4"),
        (b"RCPT", b"553 no such name", FAILED, "5.1.3"),
        (b"RCPT", b"500 what", DELAYED, "4.0.0"),
        (b"RCPT", b"503 5.5.1 MAIL first", DELAYED, "4.5.1"),
        (b"RCPT", b"452 4.2.2 full", DELAYED, "4.2.2"),
        (b"RCPT", b"452 4.5.3 too many", DELAYED, "4.5.3"),
        (b"RCPT", b"552 5.2.3 too large", FAILED, "5.2.3"),
        (b"RCPT", b"552 5.5.3 too many", DELAYED, "4.5.3"),
        (b"DATA", b"451 4.3.0 later", DELAYED, "4.3.0"),
        (b"DATA", b"554 5.7.1 no", FAILED, "5.7.1"),
        (b"DATA", b"503 5.5.1 order", DELAYED, "4.5.1"),
        (END, b"554 5.6.0 bad content", FAILED, "5.6.0"),
        (END, b"452 4.3.1 disk", DELAYED, "4.3.1"),
        (END, b"421 4.3.0 odd octets", DELAYED, "4.3.0"),
        (END, b"500 5.5.2 lost", DELAYED, "4.5.2"),
    ],
)
@pytest.mark.parametrize("pipelining", [True, False])
def test_what_replies_mean(command: bytes, reply: bytes, action: str, status: str, pipelining: bool) -> None:
    ehlo = (b"PIPELINING", b"DSN") if pipelining else (b"DSN",)
    with FakeSmtp(Script(ehlo=ehlo, replies={command: [reply]}), Script(ehlo=ehlo)) as server:
        mail = Mail(server.url())
        outcome = mail.deliver()[0]
        assert (outcome.action, outcome.status, outcome.code) == (action, status, int(reply[:3]))
        assert mail.actions() == [PASSED], "and the next one is not disturbed"


def test_reset_only_after_an_open_transaction() -> None:
    with FakeSmtp(Script(ehlo=(b"DSN",), replies={b"RCPT": [b"550 no"]})) as server:
        mail = Mail(server.url())
        mail.deliver()
        mail.deliver()
    verbs = [c.split(b" ")[0] for c in server.commands]
    assert verbs == [b"EHLO", b"MAIL", b"RCPT", b"RSET", b"MAIL", b"RCPT", b"DATA"]


def test_lone_dot_accepts_nobody() -> None:
    script = Script(replies={b"RCPT": [b"550 5.1.1 no"], b"DATA": [b"354 go on"], END: [b"250 2.0.0 took nothing"]})
    with FakeSmtp(script) as server:
        mail = Mail(server.url())
        assert mail.actions() == [FAILED]
        assert "dot" not in mail.log
        assert mail.actions() == [PASSED]
    assert server.messages[0] == b".\r\n"
    assert len(server.sessions) == 1


def test_lmtp_that_wants_content_for_nobody_is_left() -> None:
    script = Script(lmtp=True, replies={b"RCPT": [b"550 5.1.1 no"], b"DATA": [b"354 go on"]})
    with FakeSmtp(script, Script(lmtp=True)) as server:
        mail = Mail(server.url("lmtp"))
        assert mail.actions() == [FAILED]
        assert mail.actions() == [PASSED]
    assert len(server.sessions) == 2


@pytest.mark.parametrize(
    "reply",
    [b"451 4.5.3 too many", b"452 4.5.3 too many", b"452 too many", b"552 5.5.3 too many", b"552 4.5.3 too many"],
)
@pytest.mark.parametrize("pipelining", [True, False])
def test_too_many_recipients_go_in_another_transaction(reply: bytes, pipelining: bool) -> None:
    ehlo = (b"PIPELINING", b"DSN") if pipelining else (b"DSN",)
    with FakeSmtp(
        Script(ehlo=ehlo, replies={b"RCPT TO:<bob": [reply], b"RCPT TO:<cat": [reply] * pipelining})
    ) as server:
        mail = Mail(server.url())
        assert mail.actions(TO_THREE) == [PASSED] * 3
        assert mail.log.count("dot") == 2
    assert len(server.messages) == 2


def test_bare_552_after_a_hundred_means_too_many() -> None:
    env = envelope("<s@x.test>", *(f"<r{n:03}@y.test>" for n in range(103)))
    replies: dict[bytes, bytes | list[bytes]] = {b"RCPT TO:<r%03d" % n: [b"552 enough"] for n in range(100, 103)}
    with FakeSmtp(Script(replies=replies)) as server:
        assert Mail(server.url()).actions(env) == [PASSED] * 103
    with FakeSmtp(Script(replies={b"RCPT": b"552 over quota"})) as server:
        assert Mail(server.url()).actions() == [FAILED]


# LMTP


def test_lmtp_settles_reply_by_reply(tmp_path: object) -> None:
    script = Script(
        lmtp=True, replies={b"RCPT TO:<ann": b"550 5.1.1 no", END: [b"250 2.0.0 in", b"452-4.2.2 a\r\n452 4.2.2 b"]}
    )
    with FakeSmtp(script, path=f"{tmp_path}/lmtp") as server:
        outcomes = Mail(server.url("lmtp")).deliver(TO_THREE)
    assert [(o.action, o.text) for _, o in sorted(outcomes.items())] == [
        (FAILED, b"no"),
        (PASSED, b"in"),
        (DELAYED, b"a\nb"),
    ]


def test_lmtp_cut_between_replies_leaves_the_rest_in_doubt() -> None:
    with FakeSmtp(Script(lmtp=True, replies={END: [b"250 2.0.0 in", CLOSE]})) as server:
        outcomes = Mail(server.url("lmtp")).deliver(TO_THREE)
    assert [outcomes[n].action for n in range(3)] == [PASSED, DELAYED, DELAYED]
    assert outcomes[2].status == "4.4.2"
    assert b"in doubt" in outcomes[2].text


def test_lmtp_421_answers_for_all_that_are_left() -> None:
    with FakeSmtp(Script(lmtp=True, replies={END: [b"250 2.0.0 in", b"421 4.3.0 going", CLOSE]})) as server:
        outcomes = Mail(server.url("lmtp")).deliver(TO_THREE)
    assert [(outcomes[n].action, outcomes[n].code) for n in range(3)] == [(PASSED, 250), (DELAYED, 421), (DELAYED, 421)]


# Sessions that end


@pytest.mark.parametrize("reply", [b"421 4.7.0 enough", b"452 4.5.3 too many messages", CLOSE])
def test_a_session_that_ends_in_the_middle_is_gone_on_with(reply: bytes) -> None:
    with FakeSmtp(Script(replies={b"MAIL": [b"250 ok", reply]}), Script()) as server:
        mail = Mail(server.url())
        assert mail.actions() == [PASSED]
        assert mail.actions() == [PASSED]
    assert [len(session) for session in server.sessions][1] == 4


@pytest.mark.parametrize("reply", [b"421 4.7.0 enough", b"452 4.5.3 too many messages", CLOSE])
def test_a_fresh_session_that_ends_delays(reply: bytes) -> None:
    with FakeSmtp(Script(replies={b"MAIL": reply})) as server:
        outcome = Mail(server.url()).deliver()[0]
        assert len(server.sessions) == 1
    assert outcome.action == DELAYED
    assert outcome.code == int(reply[:3] or 0)


def test_the_server_went_between_transactions() -> None:
    with FakeSmtp(Script(replies={END: b"250 2.0.0 done\r\n421 4.4.2 timeout"}), Script()) as server:
        mail = Mail(server.url())
        assert mail.actions() == [PASSED]
        assert mail.actions() == [PASSED]
    assert len(server.messages) == 2
    assert len(server.sessions) == 2


def test_421_among_recipients_keeps_what_was_said_and_goes_on() -> None:
    """As Postfix does after 20 errors."""
    replies: dict[bytes, bytes | list[bytes]] = {
        b"RCPT TO:<bob": b"550 5.1.1 no",
        b"RCPT TO:<cat": b"421 4.7.0 too many errors",
    }
    with FakeSmtp(Script(replies=replies), Script()) as server:
        assert Mail(server.url()).actions(TO_THREE) == [PASSED, FAILED, PASSED]
    assert len(server.messages) == 1
    assert [c for c in server.sessions[1] if c.startswith(b"RCPT")] == [
        b"RCPT TO:<ann@y.test>",
        b"RCPT TO:<cat@y.test>",
    ]


def test_cut_before_the_dot() -> None:
    big = b"x" * 70 + b"\r\n"  # more than the buffers in between hold
    with FakeSmtp(Script(after_octets=1000)) as server:
        outcome = Mail(server.url()).deliver(content=big * 300_000)[0]
    assert (outcome.action, outcome.status) == (DELAYED, "4.4.2")
    assert b"in doubt" not in outcome.text


def test_cut_after_the_dot_is_in_doubt_and_not_tried_again() -> None:
    with FakeSmtp(Script(replies={END: [b"250 ok", CLOSE]})) as server:
        mail = Mail(server.url())
        mail.deliver()
        outcome = mail.deliver()[0]
        assert (outcome.action, outcome.code, outcome.status) == (DELAYED, 0, "4.4.2")
        assert b"in doubt" in outcome.text
        assert mail.log.count("dot") == 1
    assert len(server.messages) == 2


def test_a_refusal_in_the_middle_of_the_content_counts() -> None:
    with FakeSmtp(Script(after_octets=100_000, early=b"552 5.3.4 stop"), Script()) as server:
        mail = Mail(server.url())
        outcome = mail.deliver(content=b"x" * 98 + b"\r\n" + b"y" * 200_000)[0]
        # Closing with unread content resets the connection, which may take the reply with it: temporary then.
        assert (outcome.action, outcome.status) in ((FAILED, "5.3.4"), (DELAYED, "4.4.2"))
        assert mail.actions() == [PASSED]


def test_what_before_dot_raises_stops_before_the_dot() -> None:
    def full() -> None:
        raise SpoolError("no room in the ledger")

    with FakeSmtp() as server:
        target = a_target(server.url())
        delivery = Delivery(ID, TO_ANN, (0,), 3, False, False, lambda: iter([b"x\r\n"]), Client())
        with pytest.raises(SpoolError):
            target.deliver(delivery, full, lambda outcome: None)
    assert server.messages == []


def test_a_content_that_cannot_be_read_is_not_ended() -> None:
    def content() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise SpoolError("damaged")

    with FakeSmtp() as server:
        mail = Mail(server.url())
        with pytest.raises(SpoolError):
            damaged = Delivery(ID, TO_ANN, (0,), 3, False, False, content, Client())
            mail.target.deliver(damaged, lambda: None, lambda outcome: None)
        assert mail.actions() == [PASSED]
    assert b"x" * 100 not in b"".join(server.messages)


# Hostile servers


@pytest.mark.parametrize(
    "reply",
    [
        b"hello\r\n",
        b"250-ok\r\n251 ok\r\n",
        b"999 what\r\n",
        b"150 wait\r\n",
        b"354 go\r\n",
        b"250-x\r\n" * 600,
        b"250-" + b"x" * 70_000,
        b"\0\xff\n",
    ],
)
@pytest.mark.parametrize("command", [b"MAIL", END])
def test_garbage_is_temporary(command: bytes, reply: bytes) -> None:
    with FakeSmtp(Script(replies={command: [reply, CLOSE]})) as server:
        outcome = Mail(server.url()).deliver()[0]
    assert outcome.action == DELAYED
    assert len(outcome.text) < 5000
    assert b"\n" not in outcome.text


def test_a_reply_too_much_never_counts_for_the_next_message() -> None:
    with FakeSmtp(
        Script(replies={END: b"250 2.0.0 done\r\n250 2.0.0 done"}), Script(replies={END: b"550 5.0.0 no"})
    ) as server:
        mail = Mail(server.url())
        assert mail.actions() == [PASSED]
        assert mail.actions() == [FAILED]


# The target as a whole


@pytest.mark.parametrize(
    "script",
    [
        Script(greeting=b"554 5.3.2 no service"),
        Script(greeting=b"421 4.3.2 later"),
        Script(greeting=CLOSE),
        Script(greeting=b"SSH-2.0-x"),
        Script(replies={b"EHLO": b"502 5.5.1 what"}),
        Script(replies={b"EHLO": CLOSE}),
    ],
)
def test_target_down(script: Script) -> None:
    with FakeSmtp(script) as server:
        mail = Mail(server.url())
        with pytest.raises(TargetDown) as caught:
            mail.deliver()
        assert str(caught.value).startswith(server.url())
    assert mail.log == []


def test_nobody_listens() -> None:
    with FakeSmtp() as server:
        pass
    with pytest.raises(TargetDown, match="cannot connect"):
        Mail(server.url()).deliver()


def test_down_after_the_first_transaction_delays_the_rest() -> None:
    replies: dict[bytes, bytes | list[bytes]] = {b"RCPT TO:<ann": b"550 no", b"RCPT TO:<bob": b"421 bye"}
    with FakeSmtp(Script(replies=replies), Script(greeting=b"554 gone")) as server:
        assert Mail(server.url()).actions(TO_THREE) == [FAILED, DELAYED, DELAYED]


# TLS and authentication


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = str(tmp_path_factory.mktemp("tls") / "cert.pem")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run(
        [*command, "-addext", "subjectAltName=DNS:localhost", "-keyout", path, "-out", f"{path}.crt"],
        check=True,
        capture_output=True,
    )
    with open(path, "a") as file, open(f"{path}.crt") as crt:
        file.write(crt.read())
    return path


def tls_script(certificate: str, **fields: object) -> Script:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    script = Script(ehlo=(b"PIPELINING", b"STARTTLS", b"AUTH PLAIN LOGIN CRAM-MD5", b"DSN"), tls=context)
    return script._replace(**fields)  # type: ignore[arg-type]


def test_starttls_verified(certificate: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeSmtp(tls_script(certificate)) as server:
        url = f"smtp://localhost:{server.port}?starttls=must"
        with pytest.raises(TargetDown, match="certificate of localhost is not valid"):
            Mail(url).deliver()
        monkeypatch.setenv("SSL_CERT_FILE", certificate)
        mail = Mail(url)
        assert mail.actions() == [PASSED]
        assert mail.actions() == [PASSED]
        mail.target.close()
    assert server.sessions[1][:3] == [b"EHLO home.test", b"STARTTLS", b"EHLO home.test"]


def test_starttls_not_verified_where_configured(certificate: str) -> None:
    with FakeSmtp(tls_script(certificate)) as server:
        assert Mail(server.url(query="starttls=may&tls_verify=no")).actions() == [PASSED]


def test_starttls_must_is_a_must_and_loopback_needs_none(certificate: str) -> None:
    with FakeSmtp(
        Script(), tls_script(certificate), tls_script(certificate, replies={b"STARTTLS": b"454 no"})
    ) as server:
        with pytest.raises(TargetDown, match="does not offer STARTTLS"):
            Mail(server.url(query="starttls=must")).deliver()
        assert Mail(server.url()).actions() == [PASSED]
        assert b"STARTTLS" not in server.sessions[1]
        with pytest.raises(TargetDown, match="STARTTLS refused: 454 no"):
            Mail(server.url(query="starttls=may")).deliver()


def test_text_smuggled_before_tls_is_refused(certificate: str) -> None:
    script = tls_script(certificate, replies={b"STARTTLS": b"220 go\r\n250 evil"})
    with FakeSmtp(script) as server, pytest.raises(TargetDown, match="between STARTTLS and TLS"):
        Mail(server.url(query="starttls=must&tls_verify=no")).deliver()


@pytest.fixture
def password_file(tmp_path: object) -> str:
    path = f"{tmp_path}/password"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
        file.write("secret\n")
    return path


def b64(text: bytes) -> bytes:
    return base64.b64encode(text)


CHALLENGE = b"<1896.697170952@mx.test>"
CRAM = hmac.new(b"secret", CHALLENGE, "md5").hexdigest().encode()


@pytest.mark.parametrize(
    ("mechanisms", "replies", "lines"),
    [
        (b"AUTH LOGIN PLAIN", {b"AUTH": b"235 2.7.0 ok"}, [b"AUTH PLAIN " + b64(b"\0joe\0secret")]),
        (
            b"AUTH CRAM-MD5 LOGIN",
            {b"AUTH": b"334 VXNlcjo=", b64(b"joe"): b"334 UGFzczo=", b64(b"secret"): b"235 ok"},
            [b"AUTH LOGIN", b64(b"joe"), b64(b"secret")],
        ),
        (
            b"AUTH CRAM-MD5",
            {b"AUTH": b"334 " + b64(CHALLENGE), b64(b"joe " + CRAM): b"235 ok"},
            [b"AUTH CRAM-MD5", b64(b"joe " + CRAM)],
        ),
    ],
)
def test_authentication(mechanisms: bytes, replies: dict[bytes, bytes], lines: list[bytes], password_file: str) -> None:
    env = envelope("<s@x.test> AUTH=e+3Dmc2@x.test", "<a@y.test>")
    with FakeSmtp(Script(ehlo=(mechanisms,), replies=dict(replies))) as server:
        mail = Mail(server.url(query=f"user=joe&password_file={password_file}"))
        assert mail.actions() == [RELAYED]
        assert mail.actions(env) == [RELAYED]
    mails = [c for c in server.commands if c.startswith(b"MAIL")]
    assert server.commands[1 : 1 + len(lines)] == lines
    assert mails == [b"MAIL FROM:<s@x.test> AUTH=<>", b"MAIL FROM:<s@x.test> AUTH=e+3Dmc2@x.test"]


@pytest.mark.parametrize(
    ("script", "match"),
    [
        (Script(ehlo=(b"AUTH PLAIN",), replies={b"AUTH": b"535 5.7.8 wrong"}), "AUTH refused: 535 5.7.8 wrong"),
        (Script(ehlo=(b"AUTH GSSAPI",)), "no way to authenticate"),
        (Script(ehlo=(b"AUTH PLAIN",), replies={b"AUTH": b"334 more"}), "more than PLAIN has"),
        (Script(ehlo=(b"AUTH CRAM-MD5",), replies={b"AUTH": b"334 ###"}), "not base64"),
    ],
)
def test_authentication_that_fails_takes_the_target_down(script: Script, match: str, password_file: str) -> None:
    with FakeSmtp(script) as server, pytest.raises(TargetDown, match=match):
        Mail(server.url(query=f"user=joe&password_file={password_file}")).deliver()


def test_password_files_are_checked(password_file: str) -> None:
    os.chmod(password_file, 0o604)
    with FakeSmtp() as server:
        with pytest.raises(TargetDown, match="read by everybody"):
            Mail(server.url(query=f"user=joe&password_file={password_file}")).deliver()
        with pytest.raises(TargetDown, match="cannot read password_file"):
            Mail(server.url(query=f"user=joe&password_file={password_file}x")).deliver()


@pytest.mark.parametrize(("command", "in_doubt"), [(b"MAIL", False), (END, True)])
def test_no_answer_in_time(command: bytes, in_doubt: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smtp, "COMMAND_S", 3.0)  # what is answered is, within that
    monkeypatch.setitem(smtp_session._ANSWER_S, Verb.END, 3.0)
    with FakeSmtp(Script(ehlo=(b"DSN",), replies={command: SKIP})) as server:
        outcome = Mail(server.url()).deliver()[0]
    assert (outcome.action, outcome.status) == (DELAYED, "4.4.2")
    assert outcome.text.endswith(b"no answer in time")
    assert (b"in doubt" in outcome.text) is in_doubt

"""The next envelope behind a final dot (RFC 2920 §3.1): what servers can make of it, with a scripted one."""

from collections.abc import Iterator

import pytest

from batchmail.core.envelope import Client, Envelope
from batchmail.core.outcome import DELAYED, FAILED, PASSED, Outcome
from batchmail.flow.target import Delivery
from batchmail.proto.smtp_client import Command, SmtpClient
from tests.fake_smtp import CLOSE, END, FakeSmtp, Script
from tests.flow.test_target_smtp import MESSAGE, TO_ANN, TO_THREE, a_target, envelope
from tests.servers.dovecot import Dovecot
from tests.servers.exim import Exim
from tests.servers.opensmtpd import OpenSmtpd
from tests.servers.postfix import Postfix
from tests.servers.sendmail import Sendmail

OTHER = envelope("<s@x.test>", "<bob@y.test>")


def deliver(url: str, *envelopes: Envelope) -> list[list[Outcome]]:
    """One after the other through one target, each knowing the next."""
    deliveries: list[Delivery] = []
    for env in reversed(envelopes):
        following = deliveries[0] if deliveries else None
        plain = Delivery("ID", env, tuple(range(len(env.recipients))), len(MESSAGE), False, False, content, Client())
        deliveries.insert(0, plain._replace(following=lambda following=following: following))
    target = a_target(url)
    found: list[list[Outcome]] = []
    for delivery in deliveries:
        found.append([])
        target.deliver(delivery, lambda: None, found[-1].append)
        assert sorted(o.recipient for o in found[-1]) == list(delivery.recipients), "each once"
    target.close()
    return found


def content() -> Iterator[bytes]:
    return iter([MESSAGE])


def actions(found: list[list[Outcome]]) -> list[list[str]]:
    return [[outcome.action for outcome in sorted(outcomes)] for outcomes in found]


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What is sent before all was answered."""
    send, found = SmtpClient.send, list[bytes]()

    def recording(machine: SmtpClient, *group: Command) -> bytes:
        if machine.is_waiting:
            found.append(b" ".join(command.line.split(b" ")[0] for command in group))
        return send(machine, *group)

    monkeypatch.setattr(SmtpClient, "send", recording)
    return found


def test_it_is_sent_before_the_dot_is_answered_and_in_the_same_session(early: list[bytes]) -> None:
    with FakeSmtp() as server:
        assert actions(deliver(server.url(), TO_ANN, OTHER, TO_ANN)) == [[PASSED]] * 3
    assert early == [b"MAIL RCPT DATA"] * 2
    assert len(server.sessions) == 1
    assert [c.split(b" ")[0] for c in server.commands] == [b"EHLO", *[b"MAIL", b"RCPT", b"DATA"] * 3, b"QUIT"]
    assert len(server.messages) == 3


@pytest.mark.parametrize("reply", [b"554 5.7.1 spam", b"451 4.3.0 later"])
def test_a_refused_message_is_nothing_to_the_next(reply: bytes) -> None:
    with FakeSmtp(Script(replies={END: [reply]})) as server:
        found = deliver(server.url(), TO_ANN, OTHER)
    assert actions(found) == [[FAILED if reply[:1] == b"5" else DELAYED], [PASSED]]
    assert len(server.sessions) == 1


def test_the_dot_answered_and_the_connection_gone_costs_the_next_a_session_only() -> None:
    with FakeSmtp(Script(replies={b"MAIL": [b"250 2.1.0 ok", CLOSE]}), Script()) as server:
        assert actions(deliver(server.url(), TO_ANN, OTHER, TO_ANN, OTHER)) == [[PASSED]] * 4
    assert len(server.sessions) == 2
    assert len(server.messages) == 4


@pytest.mark.parametrize("reply", [b"421 4.3.2 going down", b"452 4.5.3 too many messages in this session"])
def test_a_session_that_ends_at_the_next_mail(reply: bytes) -> None:
    with FakeSmtp(Script(replies={b"MAIL": [b"250 2.1.0 ok", reply]}), Script()) as server:
        assert actions(deliver(server.url(), TO_ANN, OTHER)) == [[PASSED], [PASSED]]
    assert [len(session) for session in server.sessions[1:]] == [5]


def test_a_421_to_the_dot_ends_the_session_for_the_next_too() -> None:
    with FakeSmtp(Script(replies={END: [b"421 4.3.2 going down"]}), Script()) as server:
        found = deliver(server.url(), TO_ANN, OTHER)
    assert actions(found) == [[DELAYED], [PASSED]]
    assert found[0][0].code == 421


def test_no_answer_to_the_dot_leaves_one_in_doubt_and_not_the_next() -> None:
    with FakeSmtp(Script(replies={END: [CLOSE]}), Script()) as server:
        found = deliver(server.url(), TO_ANN, OTHER)
    assert actions(found) == [[DELAYED], [PASSED]]
    assert b"in doubt" in found[0][0].text
    assert server.messages[1:] == [server.messages[0]]


@pytest.mark.parametrize("answer", [CLOSE, b"421 4.7.0 you talk too early"])
def test_a_server_that_takes_offence_is_given_nothing_early_again(early: list[bytes], answer: bytes) -> None:
    with FakeSmtp(Script(replies={END: [answer]}), Script()) as server:
        assert actions(deliver(server.url(), *[TO_ANN] * 5)) == [[DELAYED], *[[PASSED]] * 4]
    assert len(early) == 1


def test_who_is_refused_in_the_next() -> None:
    replies: dict[bytes, bytes | list[bytes]] = {b"RCPT TO:<bob": b"550 5.1.1 who?"}
    with FakeSmtp(Script(replies=replies)) as server:
        assert actions(deliver(server.url(), TO_ANN, OTHER, TO_THREE)) == [[PASSED], [FAILED], [PASSED, FAILED, PASSED]]
    assert server.commands.count(b"RSET") == 1, "behind a transaction of nobody"


def test_content_is_wanted_for_nobody() -> None:
    replies: dict[bytes, bytes | list[bytes]] = {
        b"MAIL": [b"250 2.1.0 ok", b"550 5.7.1 no"],
        b"DATA": [b"354 go on", b"354 go on", b"354 go on"],
    }
    with FakeSmtp(Script(replies=replies)) as server:
        assert actions(deliver(server.url(), TO_ANN, OTHER, TO_ANN)) == [[PASSED], [FAILED], [PASSED]]
    assert server.messages[1] == b".\r\n"
    assert len(server.sessions) == 1


def test_lmtp_for_one_goes_ahead_and_for_several_that_may_be_answered_at_once_it_does_not(early: list[bytes]) -> None:
    with FakeSmtp(Script(lmtp=True, replies={END: [b"250 in", b"250 in", b"452 4.2.2 full", b"250 in"]})) as server:
        found = deliver(server.url("lmtp"), TO_ANN, TO_THREE, OTHER)
    assert actions(found) == [[PASSED], [PASSED, DELAYED, PASSED], [PASSED]]
    assert len(server.sessions) == 1
    assert early == [b"MAIL RCPT RCPT RCPT DATA"]


TIMED = envelope("<s@x.test> BY=600;N", "<ann@y.test>")
MANY = envelope("<s@x.test>", *(f"<{number}{'x' * 60}@y.test>" for number in range(150)))


@pytest.mark.parametrize(
    ("script", "query", "following"),
    [
        (Script(ehlo=(b"DSN",)), "", OTHER),
        (Script(), "session=1", OTHER),
        (Script(ehlo=(b"PIPELINING", b"DSN", b"LIMITS MAILMAX=1")), "", OTHER),
        (Script(ehlo=(b"PIPELINING", b"DSN", b"DELIVERBY")), "", TIMED),
        (Script(), "", MANY),
        (Script(replies={b"RCPT": [b"250 ok", b"452 4.5.3 too many"]}), "", OTHER),
    ],
    ids=["not offered", "session is full", "likewise", "time would run", "more than a group", "more of the same"],
)
def test_where_nothing_goes_ahead(early: list[bytes], script: Script, query: str, following: Envelope) -> None:
    first = TO_THREE if script.replies else TO_ANN
    with FakeSmtp(script, Script()) as server:
        found = deliver(server.url(query=query), first, following)
    assert {action for outcomes in actions(found) for action in outcomes} == {PASSED}
    assert early == ([b"MAIL RCPT DATA"] if script.replies else []), "only behind the last part"


def test_a_server_that_loses_what_comes_early_is_given_nothing_early_again(early: list[bytes]) -> None:
    with FakeSmtp(Script(replies={b"MAIL": [b"250 2.1.0 ok", CLOSE]}), Script()) as server:
        assert actions(deliver(server.url(), *[TO_ANN] * 4)) == [[PASSED]] * 4
    assert len(early) == 1


def test_what_cannot_be_prepared_is_nothing_to_the_dot_before_it() -> None:
    def stumble() -> None:
        raise ValueError("odd")

    with FakeSmtp() as server:
        target, found = a_target(server.url()), list[Outcome]()
        delivery = Delivery("ID", TO_ANN, (0,), len(MESSAGE), False, False, content, Client(), stumble)
        target.deliver(delivery, lambda: None, found.append)
    assert [outcome.action for outcome in found] == [PASSED]


def test_another_than_was_announced_gets_a_session_of_its_own() -> None:
    with FakeSmtp() as server:
        target, found = a_target(server.url()), list[Outcome]()
        two, one = (Delivery("ID", env, (0,), len(MESSAGE), False, False, content, Client()) for env in (OTHER, TO_ANN))
        target.deliver(one._replace(following=lambda: two), lambda: None, found.append)
        target.deliver(one, lambda: None, found.append)
        target.close()
    assert [outcome.action for outcome in found] == [PASSED, PASSED]
    assert (len(server.sessions), len(server.messages)) == (2, 2)


@pytest.mark.real
@pytest.mark.parametrize("kind", ["postfix", "exim", "opensmtpd", "sendmail", "dovecot"])
def test_real_servers(kind: str, early: list[bytes], request: pytest.FixtureRequest) -> None:
    """Refused and put off in between, more than a session of Exim's may carry; each comes once, however it was sent."""
    server: Postfix | Exim | OpenSmtpd | Sendmail | Dovecot = request.getfixturevalue(kind)
    url = f"lmtp://{server.socket}" if isinstance(server, Dovecot) else f"smtp://127.0.0.1:{server.port}"
    good = envelope("<s@src.test>", "<one@a.test>")
    nobody, later = (envelope("<s@src.test>", f"<{name}@a.test>") for name in ("nobody", "later"))
    envelopes = [good, good, good] if kind == "dovecot" else [good, nobody, good, good, later, *[good] * 9]
    found = actions(deliver(url, *envelopes))
    what = {id(nobody): [FAILED], id(later): [DELAYED]}
    taken = [outcomes for env, outcomes in zip(envelopes, found, strict=True) if env is good]
    assert [what.get(id(env), found[n]) for n, env in enumerate(envelopes)] == found
    assert not any(action in (FAILED, DELAYED) for outcomes in taken for action in outcomes)
    server.wait_for(len(taken))
    assert len(server.messages()) == len(taken)
    assert early or kind == "opensmtpd", "it offers no PIPELINING"

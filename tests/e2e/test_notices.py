"""The decision table at real servers: for each NOTIFY and RET, what the sender is told, no more and no less.

Failures are told by the origin.  Success is told by the server that delivers where it offers DSN, and by the origin
where it does not; taken together each sender has what RFC 3461 says.
"""

import email
import email.policy
import itertools
import os
import re
import smtplib
from collections import Counter
from email.message import EmailMessage
from typing import NamedTuple

import pytest

from tests.e2e.door import Door
from tests.e2e.pair import AWAY, HOLDING, Pair, letters, unsettled
from tests.e2e.sites import Site
from tests.e2e.upstreams import recipe
from tests.servers.exim import Exim
from tests.servers.host import LOOPBACK, Factory, Installed, free_port, is_root, wait_until
from tests.servers.maildir import Target
from tests.servers.postfix import Postfix
from tests.servers.smtp_log import EXTENSIONS, Rule, SmtpLog
from tests.servers.sshd import quote

try:
    from flufl.bounce import scan_message
except ImportError:  # Debian has no package of it
    scan_message = None

NOTIFY = ("", "NEVER", "SUCCESS", "FAILURE", "DELAY", "SUCCESS,FAILURE", "SUCCESS,DELAY", "FAILURE,DELAY")
NOTIFY += ("SUCCESS,FAILURE,DELAY",)
RET = ("", "FULL", "HDRS")
BODY = b"The body that is returned, or is not.\r\n"


class Case(NamedTuple):
    """One transaction, known by its sender."""

    number: int
    notify: str
    ret: str

    @property
    def sender(self) -> str:
        return f"s{self.number}@src.test"

    def bsmtp(self) -> bytes:
        ret = f" RET={self.ret}" if self.ret else ""
        notify = f" NOTIFY={self.notify}" if self.notify else ""
        orcpt = " ORCPT=rfc822;first+2Bone@src.test"
        lines = [
            f"MAIL FROM:<{self.sender}>{ret} ENVID=id{self.number}",
            f"RCPT TO:<ok@home.test>{notify}{orcpt}",
            f"RCPT TO:<nobody@home.test>{notify}",
            f"DATA\r\nFrom: {self.sender}\r\nSubject: case {self.number}\r\nMessage-ID: <{self.number}@src.test>",
            "",
            "",
        ]
        return "\r\n".join(lines).encode() + BODY + b".\r\n"


CASES = [Case(number, *words) for number, words in enumerate(itertools.product(NOTIFY, RET))]


class Server(NamedTuple):
    """A kind of target."""

    fixture: str
    options: dict[str, object]
    success: str  # what success is called, by whoever tells it
    offers_dsn: bool
    refuses: bool = True  # nobody@
    speaks: bool = True  # SMTP or LMTP


SERVERS = {
    "postfix": Server("postfix_factory", {}, "delivered", True),
    "postfix-without-dsn": Server(
        "postfix_factory", {"main": {"smtpd_discard_ehlo_keywords": "dsn"}}, "relayed", False
    ),
    "exim": Server("exim_factory", {}, "delivered", True),
    "exim-without-dsn": Server("exim_factory", {"dsn": False}, "relayed", False),
    "opensmtpd": Server("opensmtpd_factory", {}, "delivered", True),
    "sendmail": Server("sendmail_factory", {}, "relayed", True),
    "dovecot": Server("dovecot_factory", {}, "delivered", False, refuses=False),
}


def parsed(octets: bytes) -> EmailMessage:
    """A letter without a defect."""
    letter = email.message_from_bytes(octets, policy=email.policy.default)
    assert isinstance(letter, EmailMessage) and letter.defects == []
    return letter


def status(letter: EmailMessage) -> list[dict[str, str]]:
    """The blocks of its delivery status; none when it is no notification."""
    part = next((part for part in letter.walk() if part.get_content_type() == "message/delivery-status"), None)
    if part is None:
        return []
    blocks = [{key.lower(): str(value) for key, value in block.items()} for block in part.get_payload()]  # type: ignore
    return [block for block in blocks if block]


def ours(holding: Site) -> list[tuple[str, EmailMessage]]:
    """The notices at the origin, by sender."""
    found = []
    for octets in letters(holding):
        letter = parsed(octets)
        assert letter.get_content_type() == "multipart/report" and letter.get_payload(1).defects == []  # type: ignore
        found.append((str(letter["To"]), letter))
    return found


def theirs(server: Target) -> list[tuple[str, EmailMessage]]:
    """The notices that the server wrote itself: it delivers to any domain of the tests."""
    found = []
    for one in server.messages():
        if one.sender in (b"", b"MAILER-DAEMON") and status(letter := parsed(one.content)):
            found += [(recipient.decode(), letter) for recipient in one.recipients]
    return found


def owed(server: Server, case: Case) -> Counter[tuple[str, str]]:
    """(recipient, action) that the sender is to be told, by the table."""
    wanted = case.notify.split(",") if case.notify else ["FAILURE", "DELAY"]
    told: Counter[tuple[str, str]] = Counter()
    if "SUCCESS" in wanted and server.success:
        told["ok@home.test", server.success] += 1
        if not server.refuses:
            told["nobody@home.test", server.success] += 1
    if "FAILURE" in wanted and server.refuses:
        told["nobody@home.test", "failed"] += 1
    return told


def told(found: list[tuple[str, EmailMessage]], case: Case) -> Counter[tuple[str, str]]:
    blocks = [block for to, letter in found if to.strip("<>") == case.sender for block in status(letter)[1:]]
    return Counter((_address(block["final-recipient"]), block["action"].split()[0].lower()) for block in blocks)


def _address(field: str) -> str:
    return field.partition(";")[2].strip().strip("<>").lower()


ANYBODY = {"smtpd_relay_restrictions": "permit_mynetworks, reject"}


def _gives_to(port: int, domain: str, **main: str) -> dict[str, object]:
    """Of a Postfix that gives a domain to a door, by the recipe."""
    return {
        "main": {"batchmail_destination_recipient_limit": "1000", **main},
        "transport": [f"/@{re.escape(domain)}$/ batchmail:[{LOOPBACK}]:{port}"],
        "master": [recipe("postfix/master.cf-door-smtp", port)],
    }


def _url(server: Target) -> str:
    socket = getattr(server, "socket", "")
    return f"lmtp://{socket}" if socket else f"smtp://{LOOPBACK}:{server.port}"  # type: ignore[attr-defined]


@pytest.mark.real
@pytest.mark.parametrize("name", SERVERS)
def test_the_table(
    open_path: str, installed: Installed, request: pytest.FixtureRequest, postfix_factory: Factory[Postfix], name: str
) -> None:
    """From a Postfix to the server; what we tell goes into the mailboxes of that Postfix."""
    kind, port = SERVERS[name], free_port()
    server: Target = request.getfixturevalue(kind.fixture)(**kind.options)
    first = postfix_factory(**_gives_to(port, "home.test", **ANYBODY))
    door, back = {"listen": [f"{LOOPBACK}:{port}"]}, f"smtp://{LOOPBACK}:{first.port}"
    sites = Pair(open_path, installed, None, away_target=_url(server), holding_target=back, door=door)
    with Door(sites.holding, port):
        _submit(first)
        wait_until(first.queue_is_empty, "Postfix to have delivered all")
    sites.call()
    wait_until(lambda: not unsettled(sites.holding), "the holding site to settle")
    wait_until(first.queue_is_empty, "Postfix to have delivered what we tell")
    _check_told(theirs(first), kind, server, sites.holding, sites.away, "rfc822; nobody@home.test")


@pytest.mark.real
@pytest.mark.parametrize("name", ["postfix", "postfix-without-dsn"])
def test_all_comes_into_the_senders_mailbox(
    open_path: str, installed: Installed, postfix_factory: Factory[Postfix], name: str
) -> None:
    """What the last server tells goes back through the away site's door, with the next call."""
    kind, port, back = SERVERS[name], free_port(), free_port()
    first = postfix_factory(**_gives_to(port, "home.test", **ANYBODY))
    options = _gives_to(back, "src.test")
    options["main"] = {**options["main"], **kind.options.get("main", {})}  # type: ignore[dict-item]
    sites = Pair(
        open_path,
        installed,
        None,
        away_target=f"smtp://{LOOPBACK}:{(last := postfix_factory(**options)).port}",
        holding_target=f"smtp://{LOOPBACK}:{first.port}",
        door={"listen": [f"{LOOPBACK}:{port}"]},
        away_door={"listen": [f"{LOOPBACK}:{back}"]},
    )
    with Door(sites.holding, port), Door(sites.away, back):
        _submit(first)
        wait_until(first.queue_is_empty, "the first Postfix to have delivered all")
        sites.call()
        expected = {case: owed(kind, case) for case in CASES}
        if kind.offers_dsn:
            count = sum("SUCCESS" in case.notify for case in CASES)
            wait_until(lambda: last.log().count("sender delivery status notification") >= count, "confirmations")
        wait_until(last.queue_is_empty, "the last Postfix to have delivered all")
        sites.call()
        wait_until(lambda: not unsettled(sites.holding), "the holding site to settle")
        wait_until(first.queue_is_empty, "the first Postfix to have delivered the notices")
    found = theirs(first)
    assert {case: told(found, case) for case in CASES} == expected
    assert theirs(last) == []
    assert unsettled(sites.holding) == unsettled(sites.away) == []


def _submit(postfix: Postfix) -> None:
    with smtplib.SMTP(LOOPBACK, postfix.port) as client:
        client.ehlo("client.test")
        for case in CASES:
            mail, *rcpts, text = case.bsmtp().split(b"\r\n", 3)
            for command in (mail, *rcpts):
                assert client.docmd(command.decode())[0] == 250
            assert client.data(text.removeprefix(b"DATA\r\n").removesuffix(b".\r\n"))[0] == 250


@pytest.mark.real
def test_the_table_by_sendmail(open_path: str, installed: Installed, exim: Exim) -> None:
    """Exim's dialogue on standard input, with DSN; it trusts root with the sender, so the away site is root's."""
    if not is_root():
        pytest.skip("needs root")
    program = os.path.join(open_path, "exim")
    with open(program, "w", encoding="ascii") as file:
        file.write(f'#!/bin/sh\nexec {quote(exim.command())} "$@"\n')
    os.chmod(program, 0o755)
    holding, away = _sites(open_path, installed, f"sendmail:{program} -bs", user="root")
    _compare(holding, away, SERVERS["exim"], exim)


@pytest.mark.parametrize(
    ("scheme", "query", "offers_dsn", "success"),
    [
        ("lmtp", "", True, ""),  # it owes the confirmation
        ("lmtp", "", False, "delivered"),
        ("lmtp", "?final=no", False, "relayed"),
        ("smtp", "", True, ""),
        ("smtp", "?final=yes", False, "delivered"),
    ],
)
def test_the_table_by_what_is_offered(
    open_path: str,
    installed: Installed,
    smtp_log_factory: Factory[SmtpLog],
    scheme: str,
    query: str,
    offers_dsn: bool,
    success: str,
) -> None:
    offered = [word for word in EXTENSIONS if offers_dsn or word != "DSN"]
    rules = [Rule("RCPT", b"550 5.1.1 no such user", match=b"<nobody@")]
    server = smtp_log_factory(lmtp=scheme == "lmtp", extensions=offered, rules=rules)
    holding, away = _sites(open_path, installed, f"{scheme}://{LOOPBACK}:{server.port}{query}")
    _compare(holding, away, Server("", {}, success, False), None)


@pytest.mark.parametrize(("target", "success"), [("maildir", "delivered"), ("bsmtp", ""), ("rmail", "relayed")])
def test_the_table_where_no_server_speaks(
    open_path: str, installed: Installed, request: pytest.FixtureRequest, target: str, success: str
) -> None:
    """All are taken.  Who reads BSMTP text owes the confirmations, and has the parameters for it."""
    places = {"maildir": f"maildir:{open_path}/away/mail", "bsmtp": f"bsmtp:{open_path}/away/mail"}
    place = places.get(target) or f"rmail:{request.getfixturevalue('rmail').program}"
    holding, away = _sites(open_path, installed, place)
    _compare(holding, away, Server("", {}, success, False, refuses=False, speaks=False), None)


def _sites(path: str, installed: Installed, target: str, user: str = "", **more: object) -> tuple[Site, Site]:
    """A holding site and an away one with that target; `more` is of the holding one's entry."""
    places = {name: os.path.join(path, name) for name in ("holding", "away")}
    entry = {"domains": ["home.test"], "target": f"maildir:{places['holding']}/mail", **more}
    holding = Site(places["holding"], installed, HOLDING, {"home": entry})
    holding.make_owned_directory("mail")
    receive = quote(installed.command("batchmail-receive", "-c", holding.config, "--peer", "home"))
    entry = {"domains": ["*"], "target": target, "call": f"command: {receive}"}
    away = Site(places["away"], installed, AWAY, {"mx": entry}, **({"user": user} if user else {}))
    away.make_owned_directory("mail")
    return holding, away


def _compare(holding: Site, away: Site, kind: Server, server: Target | None) -> None:
    holding.accept(b"".join(case.bsmtp() for case in CASES), "-t", "home")
    away.call("mx")
    _check_told(ours(holding), kind, server, holding, away)


def _check_told(
    here: list[tuple[str, EmailMessage]],
    kind: Server,
    server: Target | None,
    holding: Site,
    away: Site,
    added_orcpt: str | None = None,  # by the first server, for nobody@
) -> None:
    """What we have told, and the server, is what the table says, and all is settled."""
    assert unsettled(holding) == unsettled(away) == []
    expected = {case: owed(kind, case) for case in CASES}
    if server and kind.offers_dsn:
        count = sum("SUCCESS" in case.notify for case in CASES)
        wait_until(lambda: len(theirs(server)) >= count, f"{count} confirmations of the server")
    there = theirs(server) if server else []
    assert {case: told(here, case) + told(there, case) for case in CASES} == expected
    assert len({to for to, _ in here}) == len(here), "one notice for each sender"
    for to, letter in here:
        case = next(case for case in CASES if case.sender == to)
        if kind.speaks:
            _check_form(letter, case, added_orcpt)


LATER = {
    "": True,
    "DELAY": True,
    "SUCCESS,FAILURE,DELAY": True,
    "FAILURE": False,
    "NEVER": False,
}


@pytest.mark.real
@pytest.mark.parametrize("name", [name for name in SERVERS if name != "dovecot"])
def test_a_delay_is_told_in_the_servers_words(
    open_path: str, installed: Installed, request: pytest.FixtureRequest, name: str
) -> None:
    kind = SERVERS[name]
    server = request.getfixturevalue(kind.fixture)(**kind.options)
    holding, away = _sites(
        open_path, installed, f"smtp://{LOOPBACK}:{server.port}", delay_notice="1s", calls="every 1h"
    )  # a report, or none yet
    for number, notify in enumerate(LATER):
        parameters = f" NOTIFY={notify}" if notify else ""
        text = f"MAIL FROM:<s{number}@src.test>\r\nRCPT TO:<later@home.test>{parameters}\r\nDATA\r\nSubject: x\r\n\r\n"
        holding.accept(text.encode() + BODY + b".\r\n", "-t", "home")
    away.call("mx")
    wanted = [f"s{number}@src.test" for number, is_told in enumerate(LATER.values()) if is_told]

    def heard() -> list[tuple[str, EmailMessage]]:
        assert holding.batchmail("run").returncode == 0
        return ours(holding)

    wait_until(lambda: len(heard()) >= len(wanted), "delays that are told")
    found = heard()
    assert sorted(to for to, _ in found) == wanted, "once, and to those who want to know"
    for _, letter in found:
        first, block = status(letter)
        assert first["reporting-mta"] == f"dns; {AWAY}"
        assert (block["action"], block["status"]) == ("delayed", "4.2.0")
        assert block["diagnostic-code"].startswith("smtp; 451 4.2.0 ") and "try later" in block["diagnostic-code"]
        assert "will-retry-until" in block and "last-attempt-date" in block


def _check_form(letter: EmailMessage, case: Case, added_orcpt: str | None) -> None:
    """What the notice says beside the outcome, and what it returns."""
    first, *blocks = status(letter)
    assert first["original-envelope-id"] == f"id{case.number}"
    assert first["reporting-mta"] == "dns; home.example.test"
    for block in blocks:
        is_ok = _address(block["final-recipient"]) == "ok@home.test"
        assert block.get("original-recipient") == ("rfc822; first+one@src.test" if is_ok else added_orcpt)
        assert block["remote-mta"].startswith(("dns; ", "x-local-hostname; "))
        assert block["diagnostic-code"].startswith("smtp; ")
        assert block["status"].startswith("5" if block["action"] == "failed" else "2")
    returned = letter.get_payload(2)
    assert isinstance(returned, EmailMessage)
    is_whole = case.ret != "HDRS" and any(block["action"] == "failed" for block in blocks)
    assert returned.get_content_type() == ("message/rfc822" if is_whole else "text/rfc822-headers")
    assert (BODY.strip() in bytes(letter)) is is_whole
    assert letter["Auto-Submitted"] == "auto-replied"
    failed = {_address(block["final-recipient"]).encode() for block in blocks if block["action"] == "failed"}
    if scan_message is not None and failed:
        assert set(scan_message(email.message_from_bytes(bytes(letter)))) == failed


@pytest.mark.real
@pytest.mark.parametrize("offers_dsn", [True, False])
def test_without_batchmail_the_sender_is_told_the_same(postfix_factory: Factory[Postfix], offers_dsn: bool) -> None:
    """The same messages from one Postfix to another: the table is theirs too."""
    kind = SERVERS["postfix" if offers_dsn else "postfix-without-dsn"]
    far = postfix_factory(**kind.options)
    near = postfix_factory(main=ANYBODY, transport=[f"/@home\\.test$/ smtp:[{LOOPBACK}]:{far.port}"])  # type: ignore[attr-defined]
    expected = {case: owed(kind, case) for case in CASES}
    _submit(near)

    def heard() -> list[tuple[str, EmailMessage]]:
        return theirs(near) + theirs(far)

    count = sum(sum(some.values()) for some in expected.values())
    wait_until(lambda: sum(len(status(letter)) - 1 for _, letter in heard()) >= count, f"{count} outcomes")
    found = heard()
    assert {case: told(found, case) for case in CASES} == expected

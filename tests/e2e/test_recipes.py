"""The recipes of contrib as they stand: nothing is changed in them but peers, domains, paths and ports."""

import os
import re
import smtplib
import subprocess
from collections.abc import Sequence

import pytest

from tests.e2e.door import Door
from tests.e2e.pair import AWAY, DOMAIN, HOLDING, Pair, below_received
from tests.e2e.sites import Site
from tests.servers.exim import Exim
from tests.servers.host import LOOPBACK, PATIENCE_S, Delivered, Factory, Installed, free_port, wait_until
from tests.servers.packages import CHECKOUT, unpacked
from tests.servers.postfix import Postfix
from tests.servers.smtp_log import SmtpLog
from tests.servers.sshd import Sshd

pytestmark = pytest.mark.real

FAR = "far.test"
STRANGE = "other.test"  # a domain at the away host that the holding one does not know
CONTENT = b"Subject: %b\r\n\r\n.dot\r\n..\r\n8-bit \xe9\r\nend\r\n"
# What stands in an Exim's configuration before the recipes come: Debian's names, and nobody is unknown.
ACLS = """\
acl_check_mail:
  accept
acl_check_rcpt:
  accept domains = *.test
"""
NOBODY = """\
nobody:
  driver = redirect
  local_parts = nobody
  domains = +local_domains
  allow_fail
  data = :fail: 5.1.1 no such user
"""


def recipe(name: str, installed: Installed, site: Site, **changes: str) -> str:
    """A file of contrib with its paths, its port and its peer's domain changed."""
    with open(os.path.join(CHECKOUT, "contrib", name), encoding="utf-8") as file:
        text = file.read()
    door = installed.program("batchmail-pipe")
    text = text.replace("/usr/bin/batchmail-pipe", f"{door} --spool {site.spool}")
    for link in ("bsmtp", "uux"):
        text = text.replace(f"/usr/lib/batchmail/{link}", installed.program(link))
    for before, after in {"home.example.org": DOMAIN, "user=batchmail": f"user={site.owner}", **changes}.items():
        text = text.replace(before, after)
    return text


class Mta:
    """A mail server with the recipes in it: `port` is the world's, and the target is batchmail's own."""

    def __init__(self, server: Exim | Postfix, port: int, target: int):
        self.server, self.port, self.target = server, port, target

    def submit(self, sender: str, *recipients: str, subject: bytes = b"x") -> None:
        send(self.port, f"<{sender}>", [f"<{recipient}>" for recipient in recipients], subject)

    def given(self, sender: str) -> list[Delivered]:
        return [one for one in self.server.messages() if one.sender == sender.encode()]


def send(port: int, mail: str, rcpts: Sequence[str], subject: bytes = b"x") -> None:
    """A transaction by its commands, parameters and all."""
    with smtplib.SMTP(LOOPBACK, port, timeout=PATIENCE_S) as client:
        client.ehlo("client.test")
        for command in (f"MAIL FROM:{mail}", *(f"RCPT TO:{rcpt}" for rcpt in rcpts)):
            code, text = client.docmd(command)
            assert code == 250, (command, text)
        assert client.data(CONTENT % subject)[0] == 250


def at(door: int) -> dict[str, str]:
    return {"2626": str(door)} if door else {}


def exim_with_recipes(
    factory: Factory[Exim], installed: Installed, site: Site, target: int, local: str, *, door: int = 0
) -> Mta:
    """`local` are its own domains; the holding site's relays for the peer, the away one's relays nothing.

    It hands mail to the door at this port, or to the pipe.
    """
    holding = site.name == HOLDING
    port = {"10026": str(target)}
    # Not all interfaces, and a port that is free.
    main = recipe("exim/main", installed, site, **port, **{"[0.0.0.0]:25 ; [::0]:25": f"[{LOOPBACK}]"})
    options = dict(re.findall(r"(?m)^(\w+) = (.*)$", main))
    mx = (
        {}
        if holding
        else {"batchmail_home": "batchmail_mx", "-t home": "-t mx", "user = batchmail": "user = batchmail"}
    )
    exim = factory(
        main={**options, "domainlist local_domains": local},
        routers=NOBODY + recipe("exim/router" if holding else "exim/router-rest", installed, site),
        transports=recipe("exim/transport-door" if door else "exim/transport", installed, site, **mx, **at(door)),
        acls=ACLS
        + recipe("exim/acl", installed, site, **port)
        + recipe("exim/target-acl-relay" if holding else "exim/target-acl", installed, site, **port),
    )
    return Mta(exim, exim.port, target)


def postfix_with_recipes(
    factory: Factory[Postfix],
    installed: Installed,
    site: Site,
    target: int,
    local: str,
    peer: str,
    *to_peer: str,
    door: int = 0,
) -> Mta:
    """`local` are its own domains as in Exim's lists; `to_peer` those that go to the peer, by the door or the pipe."""
    holding = site.name == HOLDING
    unlisted = os.path.join(site.directory, "listed")
    with open(unlisted, "w", encoding="ascii") as file:
        file.write("!/^nobody@/ mail/\n")
    os.chmod(unlisted, 0o644)
    port = {"10026": str(target)}
    postfix = factory(
        main={
            "virtual_mailbox_domains": local.replace(":", ","),
            "virtual_mailbox_maps": f"regexp:{unlisted}",
            "relay_domains": ",".join(to_peer),
            "smtpd_relay_restrictions": "permit_mynetworks, reject_unauth_destination",
        },
        transport=[
            f"/@{re.escape(domain)}$/ batchmail:{f'inet:{LOOPBACK}:{door}' if door else peer}" for domain in to_peer
        ],
        master=[
            recipe("postfix/master.cf-door" if door else "postfix/master.cf", installed, site, **at(door)),
            recipe(
                "postfix/master.cf-target-relay" if holding else "postfix/master.cf-target", installed, site, **port
            ),
        ],
    )
    return Mta(postfix, postfix.port, target)


def waiting(site: Site) -> int:
    return len([path for path in site.files("out") if "/waiting/" in path])


@pytest.mark.parametrize("by", ["pipe", "door"])
@pytest.mark.parametrize("holding_is", ["exim", "postfix"])
def test_two_hosts_with_their_mail_servers(
    request: pytest.FixtureRequest,
    open_path: str,
    installed: Installed,
    sshd: Sshd,
    exim_factory: Factory[Exim],
    postfix_factory: Factory[Postfix],
    holding_is: str,
    by: str,
) -> None:
    """Mail both ways, recipients that the far target refuses both ways, and a sender that the peer may not send for."""
    ports = free_port(), free_port()
    targets = [f"smtp://{LOOPBACK}:{port}" for port in ports]
    doors = (free_port(), free_port()) if by == "door" else (0, 0)
    tables = [{"listen": [f"{LOOPBACK}:{door}"]} if door else None for door in doors]
    sites = Pair(
        open_path,
        installed,
        sshd,
        holding_target=targets[0],
        away_target=targets[1],
        door=tables[0],
        away_door=tables[1],
    )
    for site, door in zip((sites.holding, sites.away), doors, strict=True):
        if door:
            running = Door(site, door).start()
            request.addfinalizer(running.stop)
    local = f"{DOMAIN} : {STRANGE}"
    if holding_is == "exim":
        holding = exim_with_recipes(exim_factory, installed, sites.holding, ports[0], FAR, door=doors[0])
        away = postfix_with_recipes(postfix_factory, installed, sites.away, ports[1], local, "mx", FAR, door=doors[1])
    else:
        holding = postfix_with_recipes(
            postfix_factory, installed, sites.holding, ports[0], FAR, "home", DOMAIN, door=doors[0]
        )
        away = exim_with_recipes(exim_factory, installed, sites.away, ports[1], local, door=doors[1])
    holding.submit(f"s@{FAR}", f"u1@{DOMAIN}", f"u2@{DOMAIN}", subject=b"down")
    holding.submit(f"lost@{FAR}", f"nobody@{DOMAIN}", f"u3@{DOMAIN}")
    holding.submit("", f"u4@{DOMAIN}", subject=b"null")
    away.submit(f"u@{DOMAIN}", f"s1@{FAR}", f"s2@{FAR}", subject=b"up")
    away.submit(f"lost@{DOMAIN}", f"nobody@{FAR}")
    away.submit(f"x@{STRANGE}", f"s@{FAR}", subject=b"strange")
    wait_until(lambda: (waiting(sites.holding), waiting(sites.away)) == (3, 3), "the pipes")
    sites.call()
    wait_until(lambda: away.given(f"s@{FAR}") and away.given(f"lost@{FAR}"), "mail at the away host")
    wait_until(lambda: holding.given(f"u@{DOMAIN}"), "mail at the holding host")
    (down,) = away.given(f"s@{FAR}")
    assert set(down.recipients) == {b"u1@home.test", b"u2@home.test"}
    assert below_received(down.content).endswith(CONTENT % b"down")
    (up,) = holding.given(f"u@{DOMAIN}")
    assert set(up.recipients) == {b"s1@far.test", b"s2@far.test"}
    assert below_received(up.content, AWAY).endswith(CONTENT % b"up")
    (other,) = away.given(f"lost@{FAR}")
    assert other.recipients == (f"u3@{DOMAIN}".encode(),)

    # A refusal comes back as a notice to the sender, in the sender's own mail server.
    wait_until(lambda: notices(holding) and len(notices(away)) == 2, "the notices")
    (bounce,) = notices(holding)
    assert bounce.recipients == (f"lost@{FAR}".encode(),)
    says(bounce, AWAY, f"nobody@{DOMAIN}", "5.1.1")
    bounces = {one.recipients[0].decode(): one for one in notices(away)}
    assert bounces.keys() == {f"lost@{DOMAIN}", f"x@{STRANGE}"}
    says(bounces[f"lost@{DOMAIN}"], HOLDING, f"nobody@{FAR}", "5.1.1")
    says(bounces[f"x@{STRANGE}"], HOLDING, f"s@{FAR}", "5.7.1")
    assert holding.given(f"x@{STRANGE}") == []
    (null,) = [one for one in away.given("") if b"Subject: null" in one.content]
    assert null.recipients == (b"u4@home.test",)


def notices(mta: Mta) -> list[Delivered]:
    return [one for one in mta.given("") if b"multipart/report" in one.content]


def says(notice: Delivered, tried: str, recipient: str, status: str) -> None:
    text = notice.content.decode("latin-1")
    for line in (
        f"Reporting-MTA: dns; {tried}",
        f"Final-Recipient: rfc822; {recipient}",
        "Action: failed",
        f"Status: {status}",
    ):
        assert f"\r\n{line}\r\n" in text


ASKED = (
    (f"<all@{DOMAIN}>", "NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;Orig+2Bone@x.test", "NOTIFY=FAILURE,DELAY"),
    (f"<one@{DOMAIN}>", "NOTIFY=SUCCESS ORCPT=rfc822;a;b+2Bc:d@x.test", "NOTIFY=NEVER"),
    (f"<no@{DOMAIN}>", "NOTIFY=NEVER", "NOTIFY=NEVER"),
    (f"<Two.Words+x@{DOMAIN.upper()}>", "ORCPT=X400;/C+3DUS/ NOTIFY=DELAY", "NOTIFY=DELAY"),
    (f'<"a b"@{DOMAIN}>', "NOTIFY=FAILURE", "NOTIFY=FAILURE"),
    (f"<plain@{DOMAIN}>", "", ""),
)


def test_exim_hands_on_what_the_client_asked_for(
    open_path: str,
    installed: Installed,
    sshd: Sshd,
    exim_factory: Factory[Exim],
    smtp_log: SmtpLog,
) -> None:
    """SUCCESS apart: Exim itself has told the sender that it relayed the message to a pipe."""
    sites = Pair(open_path, installed, sshd, away_target=f"smtp://{LOOPBACK}:{smtp_log.port}")
    exim = exim_with_recipes(exim_factory, installed, sites.holding, free_port(), FAR)
    with smtplib.SMTP(LOOPBACK, exim.port, timeout=PATIENCE_S) as client:  # what was reset is forgotten
        client.ehlo("client.test")
        client.docmd(f"MAIL FROM:<gone@{FAR}> RET=FULL ENVID=gone")
        client.docmd(f"RCPT TO:<plain@{DOMAIN}> NOTIFY=NEVER")
        client.rset()
        client.docmd(f"MAIL FROM:<s@{FAR}> RET=HDRS ENVID=id+2Bone;x BODY=8BITMIME")
        for path, words, _ in ASKED:
            assert client.docmd(f"RCPT TO:{path} {words}")[0] == 250
        client.data(CONTENT % b"asked")
        client.docmd("MAIL FROM:<>")
        client.docmd(f"RCPT TO:<plain@{DOMAIN}>")
        client.data(CONTENT % b"null")
    wait_until(lambda: waiting(sites.holding) == 2, "the pipe")
    sites.call()
    found = {one.mail.partition(b">")[0]: one for one in smtp_log.transactions}
    assert found.keys() == {b"MAIL FROM:<s@far.test", b"MAIL FROM:<"}
    asked = found[b"MAIL FROM:<s@far.test"]
    words = {word for word in asked.mail.split()[2:] if not word.startswith(b"SIZE=")}
    assert words == {b"RET=HDRS", b"ENVID=id+2Bone;x", b"BODY=8BITMIME"}
    rcpts = {frozenset(f"RCPT TO:{path} {_orcpt(words)} {left}".encode().split()) for path, words, left in ASKED}
    assert {frozenset(rcpt.split()) for rcpt in asked.rcpts} == rcpts
    assert found[b"MAIL FROM:<"].rcpts == (f"RCPT TO:<plain@{DOMAIN}>".encode(),)
    assert "error" not in exim.server.log()
    wait_until(lambda: exim.given(""), "Exim's own word that it relayed the message")
    (relayed,) = exim.given("")
    assert b"all@home.test" in relayed.content and b"no@home.test" not in relayed.content


def _orcpt(words: str) -> str:
    return " ".join(word for word in words.split() if word.startswith("ORCPT"))


# Debian's lines say nothing of the spool: the account's environment does.
STOCK = ("bsmtp", "uucp")


def test_debians_own_lines_in_postfix(
    open_path: str, installed: Installed, sshd: Sshd, postfix_factory: Factory[Postfix], smtp_log: SmtpLog
) -> None:
    """Stock `bsmtp` and `uucp`, and our own transport, as they stand; the stock ones with null_sender= as well."""
    sites = Pair(open_path, installed, sshd, away_target=f"smtp://{LOOPBACK}:{smtp_log.port}")
    stock = recipe("postfix/master.cf-stock", installed, sites.holding)
    names = [*STOCK, *(f"{name}-null" for name in STOCK), "batchmail"]
    with_null = re.sub(r"(?m)^(bsmtp|uucp) ", r"\1-null ", stock).replace(" argv=", " null_sender= argv=")
    upstream = postfix_factory(
        main={
            "export_environment": f"PATH=/usr/bin:/bin BATCHMAIL_SPOOL={sites.holding.spool}",
            "smtpd_relay_restrictions": "permit_mynetworks, reject",
            **{f"{name}_destination_recipient_limit": "100" for name in names},
        },
        transport=[f"/@{name}\\.{re.escape(DOMAIN)}$/ {name}:home" for name in names],
        master=[stock, with_null, _own_lines(installed, sites.holding)],
    )
    for name in names:
        for sender in (f"<Sender@{FAR}> ENVID=id+2Bone", "<>"):
            send(upstream.port, sender, [f"<U1@{name}.{DOMAIN}>", f'<"a b"@{name}.{DOMAIN}>'], name.encode())
    wait_until(lambda: waiting(sites.holding) == 2 * len(names), "the pipes")
    sites.call()
    found = {(one.mail.split(b">")[0], *_subject(one.content)): one for one in smtp_log.transactions}
    assert len(found) == len(smtp_log.transactions) == 2 * len(names)
    for name in names:
        for sender in (b"Sender@far.test", b""):
            one = found[b"MAIL FROM:<" + sender, name.encode()]
            user = b"u1" if name.startswith("uucp") else b"U1"  # Debian's line has the flag u
            domain = f"@{name}.{DOMAIN}".encode()
            assert set(one.rcpts) == {b"RCPT TO:<%b%b>" % (local, domain) for local in (user, b'"a b"')}
            assert below_received(one.content).endswith(CONTENT % name.encode())
            assert b"\r\n\tby mx.postfix.test (Postfix)" in below_received(one.content)[:300]
            if sender:
                assert (b" ENVID=id+2Bone" in one.mail) == (name == "batchmail")


def _subject(content: bytes) -> list[bytes]:
    return re.findall(rb"(?m)^Subject: (\S+)\r", content)


def _own_lines(installed: Installed, site: Site) -> str:
    """Our transport in the form that passes the envelope id; where Postfix has no such macro yet its value stands."""
    text = recipe("postfix/master.cf-envid", installed, site)
    return text if _postfix_version() >= (3, 9) else text.replace("${envid}", "id+one")


def _postfix_version() -> tuple[int, ...]:
    package = unpacked("postfix")
    command = package.command([package.path("usr/sbin/postconf"), "-d", "-h", "mail_version"])
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return tuple(map(int, re.findall(r"\d+", said)[:2]))

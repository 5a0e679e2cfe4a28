"""Real MTAs at both ends: what one hands to the pipe is what the other is given, below one Received: line."""

import os
import re
import smtplib
from collections.abc import Iterator, Sequence

import pytest

from tests.e2e.sites import Site, ssh_entry
from tests.servers.dovecot import Dovecot
from tests.servers.exim import Exim, pipe_router, pipe_transport
from tests.servers.host import LOOPBACK, PATIENCE_S, Delivered, Factory, Installed, wait_until
from tests.servers.maildir import crlf
from tests.servers.postfix import Postfix
from tests.servers.sshd import Sshd

pytestmark = pytest.mark.real

AWAY, HOLDING, DOMAIN = "home.example.test", "mx.example.test", "home.test"
CONTROL, CONTROL_HOST = b"control@src.test", "control.test"
# Keeps what the MTA wrote beside what batchmail made of it.
TEE = """\
#!/usr/bin/python3 -IS
import os, subprocess, sys
data = sys.stdin.buffer.read()
name = os.path.join({directory!r}, f"{{os.getpid()}}.{{os.urandom(4).hex()}}")
done = subprocess.run([{program!r}, *sys.argv[1:]], input=data)
if not done.returncode:
    with open(name, "wb") as file:
        file.write(data)
sys.exit(done.returncode)
"""


class Fixture:
    """Two sites joined by sshd; `target` is where the away one gives its mail."""

    def __init__(self, path: str, installed: Installed, sshd: Sshd, target: str, back: str = ""):
        self._installed = installed
        holding, away = os.path.join(path, "holding"), os.path.join(path, "away")
        back = back or f"maildir:{holding}/back"
        self.holding = Site(holding, installed, HOLDING, {"home": {"domains": [DOMAIN], "target": back}})
        self.holding.make_owned_directory("back")
        self.piped = self.holding.make_owned_directory("piped")
        entry = ssh_entry(sshd, away, self.holding, "home")
        self.away = Site(away, installed, AWAY, {"mx": {"domains": ["*"], "target": target, **entry}})

    def tee(self, name: str = "batchmail-pipe") -> str:
        """A program that stands in for the pipe door and keeps its input."""
        path = os.path.join(self.holding.directory, f"tee-{name}", name)
        os.makedirs(os.path.dirname(path))
        with open(path, "w", encoding="ascii") as file:
            file.write(TEE.format(directory=self.piped, program=self._installed.program(name)))
        os.chmod(path, 0o755)
        return path

    def contents(self) -> list[bytes]:
        """What the pipe was given, one message each, as content with CRLF line ends."""
        found = []
        for name in os.listdir(self.piped):
            with open(os.path.join(self.piped, name), "rb") as file:
                found.append(crlf(_content(file.read())))
        return sorted(found)


def _content(piped: bytes) -> bytes:
    if piped.startswith(b"MAIL FROM:"):
        piped = piped.partition(b"DATA\n")[2].removesuffix(b".\n")
        return re.sub(rb"(?m)^\.", b"", piped)
    return piped


def below_ours(delivered: Sequence[Delivered], host: str = HOLDING) -> list[bytes]:
    """The contents without the Received: line of who gave them to the target: the replaying site, or the control."""
    stripped = []
    for content in (one.content for one in delivered if (one.sender == CONTROL) == (host == CONTROL_HOST)):
        line = re.match(rb"Received: from %s[^\r]*\r\n(?:[ \t][^\r]*\r\n)*" % host.encode(), content)
        assert line, content[:500]
        stripped.append(content[line.end() :])
    return sorted(stripped)


def messages(corpus: str) -> Iterator[bytes]:
    """A choice of the collected messages: of each awkward property the smallest few, and some of a mailing list."""
    chosen: dict[str, list[tuple[int, str]]] = {}
    with open(os.path.join(corpus, "nasty.tsv"), encoding="utf-8") as file:
        for line in file.readlines()[1:]:
            name, octets, properties = line.rstrip("\n").split("\t")
            for word in properties.split("; "):
                chosen.setdefault(word, []).append((int(octets), name))
    names = {name for word, files in chosen.items() for _, name in sorted(files)[:6]}
    if os.environ.get("BATCHMAIL_WHOLE_CORPUS") == "1":
        names = {
            os.path.relpath(os.path.join(place, name), corpus)
            for place, _, files in os.walk(corpus)
            for name in files
            if name.endswith(".eml")
        }
    for name in sorted(names):
        with open(os.path.join(corpus, name), "rb") as file:
            content = file.read()
        if b"\0" not in content:  # refused at the door, see test_pipe
            yield content


def control(target: Exim | Postfix, port: int, contents: Sequence[bytes]) -> list[bytes]:
    """What the target makes of the same contents when a client gives them to it directly: MTAs mend headers."""
    with smtplib.SMTP(LOOPBACK, port, timeout=PATIENCE_S) as client:
        for content in contents:
            line = b"Received: from %s\r\n by control; Sat, 21 Nov 2026 00:00:00 +0000\r\n" % CONTROL_HOST.encode()
            client.ehlo("control.test")
            client.mail(CONTROL.decode(), ["BODY=8BITMIME"])
            client.rcpt(f"u@{DOMAIN}")
            assert client.data(line + content)[0] == 250
    return below_ours(target.wait_for(2 * len(contents), 60 + len(contents) / 10), CONTROL_HOST)


def submit(port: int, contents: Iterator[bytes] | Sequence[bytes]) -> int:
    """Give messages to an MTA; how many it took."""
    taken = 0
    with smtplib.SMTP(LOOPBACK, port, timeout=PATIENCE_S) as client:
        client.ehlo("client.test")
        for content in contents:
            recipient = f"u{taken}@{DOMAIN}"
            client.mail("sender@src.test", ["SMTPUTF8", "BODY=8BITMIME"])
            client.rcpt(recipient)
            code, reply = client.data(content)
            assert code == 250, reply
            taken += 1
    return taken


def _exim(exim_factory: Factory[Exim], pipe: str, owner: str, spool: str) -> Exim:
    transport = pipe_transport("batch", f"{pipe} --spool {spool} -t home", owner)
    return exim_factory(routers=pipe_router("far", DOMAIN, "batch"), transports=transport)


def _postfix(postfix_factory: Factory[Postfix], pipe: str, owner: str, spool: str, more: str = "") -> Postfix:
    return postfix_factory(
        strangers=True,
        transport=[f"/@{re.escape(DOMAIN)}$/ batchmail:home"],
        master=[
            "batchmail unix - n n - 4 pipe",
            f"  flags=q user={owner} null_sender= argv={pipe} --spool {spool} -t ${{nexthop}} -f ${{sender}}"
            " --queue-id=${queue_id} -- ${recipient}",
        ],
    )


def test_exim_to_postfix(
    open_path: str,
    installed: Installed,
    sshd: Sshd,
    exim_factory: Factory[Exim],
    postfix_factory: Factory[Postfix],
    corpus: str,
) -> None:
    target = postfix_factory(strangers=True, main={"smtpd_error_sleep_time": "0"})
    sites = Fixture(open_path, installed, sshd, f"smtp://{LOOPBACK}:{target.strangers_port}")
    upstream = _exim(exim_factory, sites.tee(), sites.holding.owner, sites.holding.spool)
    taken = submit(upstream.port, messages(corpus))
    _wait_for_pipe(sites, taken, upstream)
    sites.away.call("mx")
    through = below_ours(target.wait_for(taken, 60 + taken / 10))
    assert {d.recipients for d in target.messages()} == {(b"u%d@%s" % (n, DOMAIN.encode()),) for n in range(taken)}
    assert through == control(target, target.strangers_port, sites.contents())


def test_postfix_to_exim(
    open_path: str,
    installed: Installed,
    sshd: Sshd,
    exim_factory: Factory[Exim],
    postfix_factory: Factory[Postfix],
    corpus: str,
) -> None:
    target = exim_factory()
    sites = Fixture(open_path, installed, sshd, f"smtp://{LOOPBACK}:{target.port}")
    upstream = _postfix(postfix_factory, sites.tee(), sites.holding.owner, sites.holding.spool)
    taken = submit(upstream.strangers_port, messages(corpus))
    _wait_for_pipe(sites, taken, upstream)
    sites.away.call("mx")
    through = below_ours(target.wait_for(taken, 60 + taken / 10))
    assert through == control(target, target.port, sites.contents())


def test_dovecot_by_lmtp(
    open_path: str, installed: Installed, sshd: Sshd, exim_factory: Factory[Exim], dovecot: Dovecot, corpus: str
) -> None:
    sites = Fixture(open_path, installed, sshd, f"lmtp://{LOOPBACK}:{dovecot.port}")
    upstream = _exim(exim_factory, sites.tee(), sites.holding.owner, sites.holding.spool)
    taken = submit(upstream.port, list(messages(corpus))[:60])
    _wait_for_pipe(sites, taken, upstream)
    sites.away.call("mx")
    assert below_ours(dovecot.messages()) == sites.contents()


def _wait_for_pipe(sites: Fixture, count: int, upstream: Exim | Postfix) -> None:
    try:
        wait_until(lambda: len(os.listdir(sites.piped)) >= count, f"{count} messages in the pipe", 40 + count / 5)
    except TimeoutError as error:
        raise TimeoutError(f"{error}; there are {len(os.listdir(sites.piped))}; {upstream.log()[-3000:]}") from None

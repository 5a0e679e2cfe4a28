"""Real MTAs whose door goes away, does not get its answers through, or has no room: nothing lost, nothing twice.

And who else is used to try a door: Postfix's smtp-source and swaks.
"""

import glob
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from random import Random

import pytest

from tests.e2e.client import Client
from tests.e2e.door import Door, Whole
from tests.e2e.door_traffic import COUNT, make, submit
from tests.e2e.pair import HOLDING, unsettled
from tests.e2e.sites import Site
from tests.e2e.upstreams import DOMAIN, WAYS, recipe, retry_now
from tests.servers.host import LOOPBACK, PATIENCE_S, Factory, Installed, free_port, wait_until
from tests.servers.link import Link
from tests.servers.packages import Package
from tests.servers.postfix import Postfix

pytestmark = pytest.mark.real

BY_NAME = {way.name: way for way in WAYS}
# By SMTP the others are as these, and OpenSMTPD pauses for 15 seconds after each failure.
CUT = ["postfix-port", "exim", "sendmail", *(["postfix-smtp", "opensmtpd"] if COUNT >= 1000 else [])]


def retry_until(true: Callable[[], object], whole: Whole) -> None:
    """Wait, and have the MTA make no pause of its own after what it could not deliver."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not true() and time.monotonic() < deadline_s:
        retry_now(whole.mta)
        try:
            wait_until(true, "the MTA", 2)
        except TimeoutError:
            continue
    wait_until(true, "the MTA", 0)


def wait_and_retry(whole: Whole) -> None:
    """Until the MTA has delivered all that it has."""
    retry_until(whole.mta.queue_is_empty, whole)
    whole.wait_until_delivered(1)


@pytest.mark.parametrize("name", CUT)
def test_answers_are_lost_and_the_door_is_killed(
    name: str, request: pytest.FixtureRequest, open_path: str, link_factory: Factory[Link]
) -> None:
    """One recipient each: where LMTP's answer to one of several is lost, the MTA offers another transaction."""
    way = BY_NAME[name]
    random = Random(5)
    made = [one._replace(rcpts=one.rcpts[:1]) for one in make(way, 60, 6)]
    port = free_port()
    link = link_factory(port)
    whole = Whole(way, request, open_path, port, link.port)
    with whole.door, ThreadPoolExecutor() as threads:
        taking = threads.submit(submit, whole.mta, made)
        for turn in range(8):
            passed = link.octets["down"]
            link.cut_after(random.randrange(50, 1500), "down")
            retry_until(lambda: link.octets["down"] > passed + 2000 or whole.mta.queue_is_empty(), whole)  # noqa: B023
            if turn in (2, 5):
                whole.door.kill()
                whole.door.start()
        assert taking.result() == []
        wait_and_retry(whole)
    whole.sites.call()
    assert sorted(number for number, _ in whole.fate()) == [one.number for one in made]
    assert whole.mta.messages() == [], "a notice"
    assert unsettled(whole.sites.holding) == []


@pytest.mark.parametrize("name", ["postfix-socket", "exim", "sendmail", "opensmtpd"])
def test_a_full_disk_is_waited_for(name: str, request: pytest.FixtureRequest, open_path: str) -> None:
    way = BY_NAME[name]
    whole = Whole(way, request, open_path, disk_octets=1 << 20)
    content = b"Subject: large\r\n\r\n" + (b"x" * 70 + b"\r\n") * 1500
    with whole.door:
        filler = whole.door.inside(os.path.join(whole.sites.holding.spool, "filler"))
        with open(filler, "wb") as file:
            file.write(b"x" * 950_000)
        with Client(whole.mta.port) as client:
            for number in range(3):
                mail, rcpt = b"MAIL FROM:<s@src.test>", b"RCPT TO:<u%d@home.test>" % number
                assert client.transaction(mail, [rcpt], content).startswith(b"250")
        try:
            whole.mta.wait_for_log("4.3.1")
        except TimeoutError as error:
            raise TimeoutError(f"{error}; {whole.mta.log()[-2000:]}") from None
        assert not whole.mta.queue_is_empty()
        os.unlink(filler)
        wait_and_retry(whole)
        spool = whole.door.inside(whole.sites.holding.spool)
        assert len(glob.glob(f"{spool}/out/home/waiting/*/*/*.bsmtp")) == 3
        assert glob.glob(f"{spool}/tmp/*") == []
    assert whole.mta.messages() == [], "a notice"


class TwoPeers(Site):
    """A site with the peers home and other, and a door for both."""

    def __init__(self, directory: str, installed: Installed):
        self.port = free_port()
        super().__init__(
            directory,
            installed,
            HOLDING,
            {"home": {"domains": [DOMAIN]}, "other": {"domains": ["other.test", ".other.test"]}},
            door={"listen": [f"{LOOPBACK}:{self.port}"]},
        )

    def waiting(self, peer: str) -> list[bytes]:
        """The text of each transaction that waits for the peer."""
        found = []
        for path in self.files("out", peer, "waiting"):
            with open(path, "rb") as file:
                found.append(file.read())
        return found


def test_recipients_of_several_peers_and_of_none(
    open_path: str, installed: Installed, postfix_factory: Factory[Postfix]
) -> None:
    site = TwoPeers(open_path, installed)
    domains = f"({re.escape(DOMAIN)}|other\\.test|x\\.other\\.test|nowhere\\.test)"
    postfix = postfix_factory(
        main={"batchmail_destination_recipient_limit": "1000"},
        transport=[f"/@{domains}$/ batchmail:inet:{LOOPBACK}:{site.port}"],
        master=[recipe("postfix/master.cf-door", site.port)],
    )
    rcpts = [b"a@home.test", b"b@other.test", b"c@nowhere.test", b"d@x.other.test", b"e@home.test"]
    with Door(site, site.port):
        with Client(postfix.port) as client:
            lines = [b"RCPT TO:<%b> NOTIFY=FAILURE" % rcpt for rcpt in rcpts]
            mail = b"MAIL FROM:<s@src.test> RET=HDRS ENVID=one"
            assert client.transaction(mail, lines, b"Subject: x\r\n\r\nx\r\n").startswith(b"250")
        (bounce,) = postfix.wait_for(1)
        wait_until(postfix.queue_is_empty, "Postfix")
    (home,), (other,) = site.waiting("home"), site.waiting("other")
    assert re.findall(rb"RCPT TO:<(.*?)>", home) == [b"a@home.test", b"e@home.test"]
    assert sorted(re.findall(rb"RCPT TO:<(.*?)>", other)) == [b"b@other.test", b"d@x.other.test"]
    for text in (home, other):
        assert b" ENVID=one RET=HDRS\r\n" in text and text.count(b" NOTIFY=FAILURE\r\n") == 2
    assert (bounce.sender, bounce.recipients) == (b"", (b"s@src.test",))
    assert re.findall(rb"Final-Recipient: rfc822; (\S+)", bounce.content) == [b"c@nowhere.test"]
    assert b"\r\nStatus: 5.1.2\r\n" in bounce.content and b"smtp; 550 5.1.2 no peer takes mail" in bounce.content


@pytest.mark.parametrize("protocol", [[], ["-L"]], ids=["smtp", "lmtp"])
def test_smtp_source(
    open_path: str, installed: Installed, package: Callable[[str], Package], protocol: list[str]
) -> None:
    """Postfix's own load generator, five sessions at once, several recipients each."""
    site = TwoPeers(open_path, installed)
    postfix = package("postfix")
    source = [postfix.path("usr/sbin/smtp-source"), *protocol, "-s", "5", "-m", "200", "-l", "5120", "-r", "3", "-d"]
    with Door(site, site.port):
        command = postfix.command([*source, "-f", "s@src.test", "-t", f"u@{DOMAIN}", f"{LOOPBACK}:{site.port}"])
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")
    texts = site.waiting("home")
    assert len(texts) == 200 and all(text.count(b"\r\nRCPT TO:<") == 3 for text in texts)


@pytest.mark.skipif(not shutil.which("perl"), reason="swaks needs perl")
@pytest.mark.parametrize("protocol", ["ESMTP", "LMTP"])
def test_swaks(open_path: str, installed: Installed, package: Callable[[str], Package], protocol: str) -> None:
    site = TwoPeers(open_path, installed)
    swaks = ["perl", package("swaks").path("usr/bin/swaks"), "--protocol", protocol, "--pipeline"]
    options = ["--server", LOOPBACK, "--port", str(site.port), "--from", "s@src.test", "--body", ".dot\\n..\\nend"]
    with Door(site, site.port):
        for recipients, code in ((f"a@{DOMAIN},b@other.test", 0), ("c@nowhere.test", 24)):
            done = subprocess.run([*swaks, *options, "--to", recipients], capture_output=True, text=True, timeout=60)
            assert done.returncode == code, done.stdout + done.stderr
    (home,), (other,) = site.waiting("home"), site.waiting("other")
    assert b"\r\n..dot\r\n...\r\nend\r\n" in home and b"RCPT TO:<b@other.test>\r\n" in other

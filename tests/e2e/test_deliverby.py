"""Deliver-By with real Sendmails, the MTA that has it: from its client through the door and a call into its server."""

import re
import smtplib

import pytest

from tests.e2e.door import Door
from tests.e2e.pair import Pair, letters, unsettled
from tests.e2e.upstreams import WAYS
from tests.servers.host import LOOPBACK, Factory, Installed, free_port, wait_until
from tests.servers.sendmail import Sendmail
from tests.servers.smtp_log import SmtpLog

pytestmark = pytest.mark.real
(SENDMAIL,) = (way for way in WAYS if way.name == "sendmail")


def submit(port: int, parameters: str, content: bytes = b"Subject: x\r\n\r\nx\r\n") -> None:
    with smtplib.SMTP(LOOPBACK, port) as client:
        client.ehlo("client.test")
        assert client.has_extn("deliverby")
        assert client.mail("s@src.test", parameters.split())[0] == 250
        assert client.rcpt("u@home.test")[0] == 250
        assert client.data(content)[0] == 250


def test_the_time_that_is_left_goes_from_sendmail_to_sendmail(
    request: pytest.FixtureRequest, open_path: str, installed: Installed, sendmail_factory: Factory[Sendmail]
) -> None:
    port = free_port()
    first, last = SENDMAIL.start(request, port), sendmail_factory()
    assert isinstance(first, Sendmail)
    door = {"listen": [f"{LOOPBACK}:{port}"]}
    sites = Pair(open_path, installed, None, away_target=f"smtp://{LOOPBACK}:{last.port}", door=door)
    with Door(sites.holding, port):
        for parameters in ("BY=3600;R", "BY=7200;NT"):
            submit(first.port, parameters)
        wait_until(first.queue_is_empty, "Sendmail to have delivered all")
    sites.call()
    # Beside them the last one delivers what it tells of the traced one.
    wait_until(
        lambda: len([one for one in last.messages() if one.sender == b"s@src.test"]) == 2,
        "the messages to be delivered",
    )
    found = re.findall(r"<<< MAIL FROM:<s@src.test>[^\r\n]* BY=(\d+);(\w+)", last.log())
    assert sorted((round(int(left), -2), mode) for left, mode in found) == [(3600, "R"), (7200, "NT")]
    (letter,) = letters(sites.holding)  # and so do we, and the first one
    assert b"\r\nAction: relayed\r\n" in letter
    assert b"\r\nDeliver-By-Date: " in letter
    wait_until(lambda: any(b"Action: relayed" in one.content for one in first.messages()), "the first one's notice")
    assert unsettled(sites.holding) == unsettled(sites.away) == []


def test_what_a_server_cannot_give_back_comes_back_at_once(
    open_path: str, installed: Installed, smtp_log_factory: Factory[SmtpLog]
) -> None:
    """By a notice while nothing is known of the target, and from then on in the session."""
    port, target = free_port(), smtp_log_factory()
    door = {"listen": [f"{LOOPBACK}:{port}"]}
    sites = Pair(open_path, installed, None, away_target=f"smtp://{LOOPBACK}:{target.port}", door=door)
    with Door(sites.holding, port):
        submit(port, "BY=3600;R")
    sites.call()
    assert target.transactions == []
    (letter,) = letters(sites.holding)
    assert b"\r\nStatus: 5.3.3\r\n" in letter
    assert b"offers no DELIVERBY" in letter
    assert b"\r\nDeliver-By-Date: " in letter
    sites.call()  # it says what its target offers
    with Door(sites.holding, port), smtplib.SMTP(LOOPBACK, port) as client:
        client.ehlo("client.test")
        client.mail("s@src.test", ["BY=3600;R"])
        code, text = client.rcpt("u@home.test")
        assert (code, text[:5]) == (550, b"5.3.3")
        client.rset()
        client.mail("s@src.test", ["BY=3600;N"])
        assert client.rcpt("u@home.test")[0] == 250
    assert unsettled(sites.holding) == unsettled(sites.away) == []

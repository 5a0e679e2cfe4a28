"""MTAs that give the domain home.test to a door, each by a recipe of contrib as it stands but for ports and paths."""

import os
import re
import subprocess
from collections.abc import Callable
from typing import NamedTuple

import pytest

from tests.servers.exim import Exim
from tests.servers.host import LOOPBACK, PATIENCE_S
from tests.servers.opensmtpd import OpenSmtpd
from tests.servers.packages import CHECKOUT
from tests.servers.postfix import Postfix
from tests.servers.sendmail import Sendmail

DOMAIN = "home.test"
Mta = Exim | Postfix | OpenSmtpd | Sendmail


class Way(NamedTuple):
    """An MTA with the kind of connection it makes, and what can be asked of it."""

    name: str
    start: Callable[[pytest.FixtureRequest, int], Mta]  # to a door at this port
    lmtp: bool = True
    socket: str = ""  # below the MTA's directory, for a door that has no port
    utf8: bool = True
    xforward: bool = False
    quoted: bool = True  # takes quoted local parts
    mixed: bool = True  # recipients may ask for different reports


def recipe(name: str, port: int) -> str:
    with open(os.path.join(CHECKOUT, "contrib", name), encoding="utf-8") as file:
        text = file.read()
    return text.replace("home.example.org", DOMAIN).replace("2626", str(port))


def _postfix(nexthop: str, name: str = "postfix/master.cf-door") -> Callable[[pytest.FixtureRequest, int], Mta]:
    def start(request: pytest.FixtureRequest, port: int) -> Mta:
        postfix: Postfix = request.getfixturevalue("postfix_factory")(
            main={"batchmail_destination_recipient_limit": "1000"},
            transport=[f"/@{re.escape(DOMAIN)}$/ batchmail:{nexthop.format(port=port)}"],
            master=[recipe(name, port)],
        )
        return postfix

    return start


def _exim(request: pytest.FixtureRequest, port: int) -> Mta:
    exim: Exim = request.getfixturevalue("exim_factory")(
        routers=recipe("exim/router", port), transports=recipe("exim/transport-door", port)
    )
    return exim


def _sendmail(request: pytest.FixtureRequest, port: int) -> Mta:
    # Where an administrator has a mailertable, here is a line of what it comes down to.
    sendmail: Sendmail = request.getfixturevalue("sendmail_factory")(
        mailers=recipe("sendmail/batchmail.mc", port),
        rules=f"R$* < @ {DOMAIN} . > $*\t$#batchmail $@ home $: $1 < @ {DOMAIN} . > $2",
    )
    return sendmail


def _opensmtpd(request: pytest.FixtureRequest, port: int) -> Mta:
    lines = recipe("opensmtpd/smtpd.conf", port).splitlines()
    opensmtpd: OpenSmtpd = request.getfixturevalue("opensmtpd_factory")(
        actions="\n".join(line for line in lines if line.startswith("action")),
        matches="\n".join(line for line in lines if line.startswith("match")),
    )
    return opensmtpd


WAYS = (
    Way("postfix-socket", _postfix("unix:batchmail/door"), socket="spool/batchmail/door", xforward=True),
    Way("postfix-port", _postfix(f"inet:{LOOPBACK}:{{port}}"), xforward=True),
    Way("postfix-smtp", _postfix(f"[{LOOPBACK}]:{{port}}", "postfix/master.cf-door-smtp"), lmtp=False, xforward=True),
    Way("exim", _exim),
    Way("sendmail", _sendmail, utf8=False),
    Way("opensmtpd", _opensmtpd, lmtp=False, utf8=False, quoted=False, mixed=False),
)


def retry_now(mta: Mta) -> None:
    """Have the MTA try again what waits, without its pauses."""
    if isinstance(mta, Postfix):
        command = mta.command("postqueue", "-f")
    elif isinstance(mta, Exim):
        command = mta.command("-qff")
    elif isinstance(mta, Sendmail):
        command = mta.command("-q")
    else:
        command = mta.command("smtpctl", "schedule", "all")
    subprocess.run(command, capture_output=True, timeout=PATIENCE_S)

"""The away host's valid recipients, told over a real line: what the door answers, and mail servers that ask it."""

import smtplib
from collections.abc import Callable

import pytest

from tests.e2e.door import Door
from tests.e2e.pair import DOMAIN, Pair, letters, unsettled
from tests.e2e.sites import Site
from tests.e2e.upstreams import recipe
from tests.servers.exim import Exim
from tests.servers.host import LOOPBACK, PATIENCE_S, Factory, Installed, free_port, wait_until
from tests.servers.postfix import Postfix
from tests.servers.sshd import Sshd

pytestmark = pytest.mark.real

LISTED = f'valid_recipients = ["ann@{DOMAIN}", "bob@{DOMAIN}"]\n'
NO_SUCH = "home has no such recipient by its list of "


class World:
    """Both sites, joined by sshd, and the door."""

    def __init__(self, path: str, installed: Installed, sshd: Sshd):
        self.port = free_port()
        self.sites = Pair(path, installed, sshd, door={"listen": [f"{LOOPBACK}:{self.port}"]})
        self.door = Door(self.sites.holding, self.port)
        with open(self.sites.away.config, encoding="utf-8") as file:
            self._without = file.read()

    def configure(self, lines: str) -> None:
        """At the away site, in the entry of its peer."""
        with open(self.sites.away.config, "w", encoding="utf-8") as file:
            file.write(self._without + lines)

    def answers(self, *users: str) -> dict[str, tuple[int, str]]:
        with smtplib.LMTP(LOOPBACK, self.port) as client:
            client.ehlo_or_helo_if_needed()
            client.mail("s@src.test")
            found = {user: client.rcpt(f"{user}@{DOMAIN}") for user in users}
        return {user: (code, text.decode()) for user, (code, text) in found.items()}

    def codes(self, *users: str) -> list[int]:
        return [code for code, _ in self.answers(*users).values()]


@pytest.fixture
def world(open_path: str, installed: Installed, sshd: Sshd) -> World:
    return World(open_path, installed, sshd)


def test_what_is_not_listed_is_refused_at_the_door(world: World) -> None:
    with world.door:
        assert world.codes("ann", "carol") == [250, 250]
        world.configure(LISTED)
        world.sites.call()
        code, text = world.answers("carol")["carol"]
        assert (code, text[: 6 + len(NO_SUCH)]) == (550, f"5.1.1 {NO_SUCH}")
        assert world.codes("ann", "ANN+list", '"bob"', "postmaster", "carol+ann") == [250, 250, 250, 250, 550]
        with smtplib.LMTP(LOOPBACK, world.port) as client:
            refused = client.sendmail("s@src.test", [f"ann@{DOMAIN}", f"carol@{DOMAIN}"], "Subject: x\r\n\r\nx\r\n")
        assert list(refused) == [f"carol@{DOMAIN}"]
        world.sites.call()
        assert len(letters(world.sites.away)) == 1
        assert (unsettled(world.sites.holding), letters(world.sites.holding)) == ([], [])

        world.configure(f'valid_recipients = ["*@{DOMAIN}"]\nhide_recipients = false\n')
        world.sites.call()
        assert world.codes("ann", "carol") == [250, 250]
        world.configure(LISTED + 'recipient_delimiter = ""\n')
        world.sites.call()
        assert world.codes("bob", "carol", "ann+list") == [250, 550, 550]
        world.configure("")
        world.sites.call()
        assert world.codes("ann", "carol") == [250, 250]


def refusal(port: int, user: str) -> tuple[int, str]:
    with smtplib.SMTP(LOOPBACK, port, timeout=PATIENCE_S) as client:
        client.ehlo_or_helo_if_needed()
        client.mail("stranger@src.test")
        code, text = client.rcpt(f"{user}@{DOMAIN}")
    return code, text.decode()


def postfix_that_asks(request: pytest.FixtureRequest, port: int) -> Postfix:
    factory: Factory[Postfix] = request.getfixturevalue("postfix_factory")
    return factory(
        main={
            "batchmail_destination_recipient_limit": "1000",
            "smtpd_recipient_restrictions": f"check_recipient_access inline:{{{DOMAIN}=reject_unverified_recipient}}",
            "unverified_recipient_reject_code": "550",
            "address_verify_negative_refresh_time": "5m",
            "address_verify_negative_expire_time": "5m",
            "address_verify_positive_refresh_time": "1h",
            "address_verify_positive_expire_time": "2h",
            "address_verify_map": "",  # there: a file, for which the tests' Postfix lacks the library
        },
        transport=[f"/@{DOMAIN}$/ batchmail:inet:{LOOPBACK}:{port}"],
        master=[recipe("postfix/master.cf-door", port)],
    )


def exim_that_asks(request: pytest.FixtureRequest, port: int) -> Exim:
    factory: Factory[Exim] = request.getfixturevalue("exim_factory")
    return factory(
        routers=recipe("exim/router", port),
        transports=recipe("exim/transport-door", port),
        rcpt_acl=f"  deny domains = {DOMAIN}\n       !verify = recipient/callout=10s,defer_ok,no_cache\n",
    )


@pytest.mark.parametrize(("start", "when_down"), [(postfix_that_asks, 450), (exim_that_asks, 250)])
def test_a_mail_server_that_asks_the_door_refuses_strangers_mail_itself(
    world: World,
    request: pytest.FixtureRequest,
    start: Callable[[pytest.FixtureRequest, int], Postfix | Exim],
    when_down: int,
) -> None:
    world.configure(LISTED)
    world.sites.call()
    mta = start(request, world.port)
    with world.door:
        for _ in range(2):
            code, text = refusal(mta.port, "carol")
            assert code == 550, text
            assert refusal(mta.port, "ann")[0] == 250
        wait_until(mta.queue_is_empty, "probes to be over")
        assert mail_in(world.sites.holding) == []
        with smtplib.SMTP(LOOPBACK, mta.port, timeout=PATIENCE_S) as client:
            client.sendmail("stranger@src.test", [f"ann@{DOMAIN}"], "Subject: x\r\n\r\nx\r\n")
        wait_until(mta.queue_is_empty, "the message to be handed over")
        assert len(mail_in(world.sites.holding)) == 1
        assert "5.1.1 home has no such recipient" in mta.log() + world.door.log()
    assert refusal(mta.port, "bob")[0] == when_down
    assert mta.messages() == []


def mail_in(site: Site) -> list[str]:
    return [path for path in site.files("out") if path.endswith(".bsmtp")]

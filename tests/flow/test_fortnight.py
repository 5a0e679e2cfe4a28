"""A fortnight of an away host by the calendar, with the programs' own clock moved: which notices are sent on which day.

Summer time begins within it in Europe; what is told and when must not depend on where the host stands.
"""

import os
import pwd
import signal
import time
from collections.abc import Iterator
from datetime import datetime

import pytest
from freezegun import freeze_time

from batchmail.cli import start
from batchmail.cli.main import command
from batchmail.store.durable import make_dir
from tests.flow.test_expire import fields, notices
from tests.sites import Clock, Mailbox, Pair, make_site, messages

CONFIG = """
site = "mx.example"
spool = "{spool}"
user = "{user}"
reserve = 0

[peers.home]
domains = ["*"]
target = "bsmtp:{spool}.drop"
calls = "daily 06:00"
away_until = 2027-03-27
delay_notice = "1d"
lifetime = "12d"
"""


class Fortnight:
    """A site that is run day by day, and the away host that is its peer."""

    def __init__(self, root: str):
        self._config = f"{root}/batchmail.toml"
        with open(self._config, "w", encoding="utf-8") as file:
            file.write(CONFIG.format(spool=f"{root}/mx", user=pwd.getpwuid(os.geteuid()).pw_name))
        self._clock = Clock()
        self._batchmail("2027-03-20 11:00:00", "setup")
        site, _ = start.load(self._config)
        context = start.context(site, start.open_spool(site), site.peers["home"])
        mx = Mailbox(f"{root}/mx", context._replace(now_ms=self._clock), self._clock)
        self.pair = Pair(
            mx, make_site(f"{root}/home", "home.example", "mx", self._clock, target=f"maildir:{root}/mail")
        )
        self.inbox = f"{root}/mail/new"
        self.sent: list[tuple[str, str, str]] = []  # day, recipient, action

    def _batchmail(self, moment: str, *arguments: str) -> None:
        with freeze_time(moment):
            assert command.main(["-c", self._config, *arguments], standalone_mode=False) in (None, 0)

    def at(self, moment: str) -> None:
        """A moment for the door, and for both ends of a call, which measure time as well."""
        self._clock.now_ms = round(datetime.fromisoformat(f"{moment}+00:00").timestamp() * 1000)

    def run(self, moment: str) -> None:
        """`batchmail run` at a moment; what it sends is noted."""
        before = len(notices(self.pair.mx))
        self._batchmail(moment, "run")
        day = datetime.fromisoformat(moment).strftime("%a, %d %b %Y ")
        for letter in notices(self.pair.mx)[before:]:
            assert letter["date"].startswith(day)
            for group in fields(letter)[1:]:
                self.sent.append((moment[5:10], group["final-recipient"].partition("@")[0][8:], group["action"]))

    def call(self, moment: str) -> None:
        self.at(moment)
        assert [str(one.error or "") for one in self.pair.call()] == ["", ""]


@pytest.fixture(params=["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Auckland"])
def fortnight(request: pytest.FixtureRequest, tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fortnight]:
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    mask = os.umask(0o077)
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    make_dir(f"{tmp_path}/all")
    try:
        yield Fortnight(f"{tmp_path}/all")
    finally:
        os.umask(mask)
        for number, handler in signals.items():
            signal.signal(number, handler)
        monkeypatch.undo()
        time.tzset()


def test_which_notices_are_sent_when(fortnight: Fortnight) -> None:
    mx, home = fortnight.pair
    fortnight.call("2027-03-20 12:00:00")
    fortnight.at("2027-03-20 13:00:00")
    wishes = ("<plain@home.example>", "<never@home.example> NOTIFY=NEVER", "<success@home.example> NOTIFY=SUCCESS")
    mx.accept(*messages(1), rcpts=wishes)
    for day in range(21, 27):
        fortnight.run(f"2027-03-{day} 07:30:00")
    fortnight.at("2027-03-26 10:00:00")
    mx.accept(*messages(1, seed=1), rcpts=("<later@home.example>", "<told@home.example> NOTIFY=SUCCESS,FAILURE"))
    assert fortnight.sent == [], "while the host is known to be away nothing is late"
    fortnight.run("2027-03-27 06:59:00")
    assert fortnight.sent == [], "a call may be an hour late"
    fortnight.run("2027-03-27 07:30:00")
    fortnight.run("2027-03-28 07:30:00")  # Europe has another time since six hours
    delayed = [("03-27", "plain", "delayed"), ("03-28", "later", "delayed")]
    assert fortnight.sent == delayed
    first = notices(mx)[0]
    assert "connected next on Sun, 28 Mar 2027 06:00:00 +0000" in first.get_payload(0).get_content()  # type: ignore
    assert fields(first)[1]["will-retry-until"] == "Thu, 01 Apr 2027 13:00:00 +0000"
    for day in ("03-29", "03-30", "03-31", "04-01"):
        fortnight.run(f"2027-{day} 07:30:00")
    fortnight.run("2027-04-01 12:59:00")
    assert fortnight.sent == delayed
    fortnight.run("2027-04-02 07:30:00")
    ended = [*delayed, ("04-02", "plain", "failed")]
    assert fortnight.sent == ended
    fortnight.call("2027-04-03 06:01:00")
    fortnight.at("2027-04-03 06:10:00")
    home.run()
    fortnight.call("2027-04-03 06:20:00")
    for day in range(3, 15):
        fortnight.run(f"2027-04-{day:02} 07:30:00")
    assert len(os.listdir(fortnight.inbox)) == 1, "the second message, once for both of its recipients"
    assert fortnight.sent == ended
    actions = [(group["final-recipient"], group["action"]) for group in fields(notices(mx)[-1])[1:]]
    assert actions == [("rfc822; told@home.example", "delivered")], "in the call that brought its report"
    assert (mx.waiting(), mx.outbox(), mx.inbox()) == ([], [], [])
    assert len(notices(mx)) == 4

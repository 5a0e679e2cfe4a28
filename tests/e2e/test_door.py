"""Real MTAs at the LMTP and SMTP door, each by its recipe as it stands, through a call, into a server that logs.

What arrives is compared with what the same MTA, given the same, sends to a logging server in the place of the door:
an MTA changes some of it by itself.  BATCHMAIL_DOOR_COUNT sets how many transactions each of them is given.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e import traffic
from tests.e2e.door import Whole, beside
from tests.e2e.door_traffic import COUNT, fate, make, submit
from tests.e2e.pair import letters, unsettled
from tests.e2e.upstreams import WAYS, Way
from tests.servers.host import Factory, wait_until
from tests.servers.smtp_log import SmtpLog, Transaction

pytestmark = pytest.mark.real


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_everything_arrives_as_it_left(
    way: Way, request: pytest.FixtureRequest, open_path: str, smtp_log_factory: Factory[SmtpLog]
) -> None:
    made = make(way, COUNT, 1)
    whole = Whole(way, request, open_path)
    plain, log = beside(way, request, smtp_log_factory)
    with whole.door, ThreadPoolExecutor() as threads:
        assert list(threads.map(lambda mta: submit(mta, made), (whole.mta, plain))) == [[], []]
        whole.wait_until_delivered(60 + COUNT / 5)
        wait_until(plain.queue_is_empty, "the other MTA", 60 + COUNT / 5)
    whole.sites.call()
    expected = fate([(_true_body(one), one.content) for one in log.transactions])
    assert len(expected) == sum(len(one.rcpts) for one in made)
    assert whole.fate() == expected
    assert unsettled(whole.sites.holding) == unsettled(whole.sites.away) == []
    assert letters(whole.sites.holding) == []
    assert whole.mta.messages() == [], "the MTA told senders something by itself"
    told = {_told(one.forwarded) for one in whole.target.transactions}
    assert told == {_told(one.forwarded) for one in log.transactions}
    assert bool(told - {frozenset()}) == way.xforward


def _true_body(one: Transaction) -> Transaction:
    """8-bit content is said to be that, whatever was said of it before."""
    words = one.mail.split(b" ")
    if one.content.isascii() or b"BODY=8BITMIME" in map(bytes.upper, words):
        return one
    words = [word for word in words if word.upper() != b"BODY=7BIT"]
    return one._replace(mail=b" ".join((*words, b"BODY=8BITMIME")))


def _told(forwarded: Sequence[bytes]) -> traffic.Words:
    """What XFORWARD said of the client, but for what is another for each connection and each MTA."""
    words = frozenset(word for line in forwarded for word in line.split()[1:])
    return frozenset(word for word in words if not word.startswith((b"PORT=", b"IDENT=")))

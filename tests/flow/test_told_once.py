"""A delay is told once, whatever is decided about the transaction afterwards: under a new ID, at another peer."""

from contextlib import closing

import pytest

from batchmail.core.schedule import Span
from batchmail.core.settings import DAY_MS, Peer
from batchmail.flow.choose import Chosen, plan
from batchmail.store.plans import MOVE, REQUEUE
from batchmail.store.setup import set_up
from batchmail.store.spool import Door
from tests.crash import test_steps as steps
from tests.flow.test_expire import pass_days, told
from tests.flow.test_requests import exchange, serve
from tests.sites import Mailbox, Pair, make_pair, messages

BY = "<s@mx.example> BY=86400;N"


@pytest.fixture
def pair(tmp_path: object) -> Pair:
    return make_pair(tmp_path, lifetime=Span(30 * DAY_MS), delay_notice=Span(3 * DAY_MS))


def other_peer(site: Mailbox) -> Mailbox:
    """The same site as it sees a second peer, `boat`."""
    boat = site.context.peer._replace(name="boat", domains=("boat.example",))
    peers: dict[str, Peer] = {**site.context.site.peers, "boat": boat}
    doors = [(Door(name, name, 1 << 30, 0, "normalize"), [f"{name}.example"]) for name in peers]
    set_up(site.root, doors)
    both = site.context.site._replace(peers=peers)
    return site._replace(context=site.context._replace(site=both, peer=boat))


@pytest.mark.parametrize("sender", ["<s@mx.example>", BY])
def test_what_the_far_side_gave_back(pair: Pair, sender: str) -> None:
    (identifier,) = pair.mx.accept(*messages(1), sender=sender)
    steps.seal(pair.mx)
    if sender == BY:
        assert [action for _, action in pass_days(pair.mx, 4)] == ["delayed"]
    steps.carry(pair.mx, pair.home)
    if sender != BY:
        assert [action for _, action in pass_days(pair.mx, 4)] == ["delayed"]
    plan([Chosen(pair.mx.context, identifier)], REQUEUE, "", "", "")
    pair.mx.run()
    for there, here in ((pair.mx, pair.home), (pair.home, pair.mx)):
        exchange(there, here)
        serve(here)
    pair.mx.run()
    (anew,) = pair.mx.waiting()
    assert anew != identifier
    steps.seal(pair.mx)
    pass_days(pair.mx, 10)
    steps.carry(pair.mx, pair.home)
    pass_days(pair.mx, 10)
    assert [action for action, _ in told(pair.mx)] == ["delayed"]


@pytest.mark.parametrize("sender", ["<s@mx.example>", BY])
def test_what_was_moved(pair: Pair, sender: str) -> None:
    boat = other_peer(pair.mx)
    mx = pair.mx._replace(context=boat.context._replace(peer=pair.mx.context.peer))
    (identifier,) = mx.accept(*messages(1), sender=sender)
    assert [action for _, action in pass_days(mx, 4)] == ["delayed"]
    plan([Chosen(mx.context, identifier)], MOVE, "boat", "", "")
    mx.run()
    assert boat.waiting() == [identifier]
    pass_days(boat, 10)
    assert [action for action, _ in told(mx)] == ["delayed"]
    with closing(boat.context.open_ledger()) as ledger:
        assert ledger.rows("SELECT COUNT(*) FROM told WHERE id = ?", identifier) == [(1,)]

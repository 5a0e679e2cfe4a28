"""One session of the socket door without sockets: what the committer says is what the MTA hears."""

import errno
import os
from collections.abc import Callable, Sequence

import pytest

from batchmail.core.names import make_id
from batchmail.flow.budget import Budget
from batchmail.flow.door import Desk, DoorSession
from batchmail.flow.doors import Doors
from batchmail.store.deadlines import Deadline, Deadlines
from batchmail.store.durable import Directories
from batchmail.store.group import Put, put_group
from batchmail.store.offers import write_offers
from batchmail.store.setup import set_up
from batchmail.store.spool import Door, Spool, find_peer_door
from batchmail.store.waiting import WaitingRoom

NOW_MS = 1_795_222_800_000
HELLO = b"EHLO me\r\n"
BOTH = b"RCPT TO:<a@home.example>\r\nRCPT TO:<b@away.example>\r\n"


class Visit:
    """A session and what was submitted; `fail` is answered in the place of what the disk says."""

    def __init__(self, root: object, peer: str = "", reserve: int = 0, peers: Sequence[str] = ("home", "away")):
        entries = [(Door(name, "mx.example", 1 << 20, reserve, "normalize"), [f"{name}.example"]) for name in peers]
        set_up(str(root), entries)
        self.spool = Spool(str(root))
        self.units: list[list[Put]] = []
        doors_of = Doors(self.spool)
        budget = Budget(200_000)
        desk = Desk(self.spool, doors_of, "mx.example", True, lambda: NOW_MS, os.urandom, lambda: 4096, budget)
        self._open: Callable[[], DoorSession] = lambda: DoorSession(desk, peer, self.units.append)
        self.session = self._open()
        self.session.output()

    def say(self, octets: bytes) -> list[bytes]:
        """Give it octets; the replies."""
        self.session.receive(octets)
        replies = b""
        while output := self.session.output():
            replies += output
        return replies.split(b"\r\n")[:-1]

    def commit(self, fail: OSError | None = None) -> list[bytes]:
        (unit,) = self.units
        self.units.clear()
        directories = Directories()
        (result,) = put_group([unit], directories) if fail is None else [fail]
        directories.close()
        for put in unit:
            put.draft.discard()
        self.session.committed(result)
        return self.say(b"")[0:] if self.session.is_over else self.session.output().split(b"\r\n")[:-1]

    def again(self) -> None:
        """A new connection."""
        self.session = self._open()
        self.session.output()

    def waiting(self, peer: str) -> list[str]:
        return [waiting.id for waiting in WaitingRoom(self.spool, peer).scan()]


def test_no_answer_before_the_committers(tmp_path: object) -> None:
    visit = Visit(tmp_path)
    assert visit.say(HELLO + b"MAIL FROM:<s@x.example>\r\n" + BOTH + b"DATA\r\n")[-1].startswith(b"354 ")
    assert visit.say(b"x\r\n.\r\nNOOP\r\n") == []  # not even to what follows
    assert visit.waiting("home") == visit.waiting("away") == []
    said, noop = visit.commit()
    assert noop.startswith(b"250 ")
    assert said.decode().split()[-2:] == [*visit.waiting("home"), *visit.waiting("away")]


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOSPC, b"452 4.3.1"), (errno.EDQUOT, b"452 4.3.1"), (errno.EIO, b"451 4.3.0")]
)
def test_what_the_disk_refuses_is_for_later(tmp_path: object, number: int, code: bytes) -> None:
    visit = Visit(tmp_path)
    visit.say(HELLO + b"MAIL FROM:<s@x.example>\r\n" + BOTH + b"DATA\r\n")
    visit.say(b"x\r\n.\r\n")
    (said,) = visit.commit(OSError(number, os.strerror(number)))
    assert said.startswith(code)
    assert visit.say(b"MAIL FROM:<s@x.example>\r\n")[0].startswith(b"250 ")


@pytest.mark.parametrize("last", [b"RSET\r\n", b"", b"QUIT\r\n"])
def test_an_end_in_the_middle_leaves_nothing(tmp_path: object, last: bytes) -> None:
    visit = Visit(tmp_path)
    visit.say(HELLO + b"MAIL FROM:<s@x.example>\r\n" + BOTH + b"BDAT 90000\r\n" + b"x" * 90000 + last)
    visit.session.gone()
    assert visit.units == []
    assert os.listdir(visit.spool.tmp) == []


def test_smtputf8_where_the_far_target_has_it(tmp_path: object) -> None:
    """Nothing known: offered.  Known of one peer: offered while another has it, and refused for the one without."""
    visit = Visit(tmp_path)
    assert any(b"SMTPUTF8" in line for line in visit.say(HELLO))
    write_offers(visit.spool, "home", ("8BITMIME", "DSN", "not a keyword"))
    visit = Visit(tmp_path)
    assert any(b"SMTPUTF8" in line for line in visit.say(HELLO))
    replies = visit.say(b"MAIL FROM:<s@x.example> SMTPUTF8\r\n" + BOTH)
    assert [reply[:9] for reply in replies] == [b"250 2.1.0", b"550 5.6.7", b"250 2.1.5"]
    write_offers(visit.spool, "away", ("DSN",))
    visit = Visit(tmp_path)
    assert not any(b"SMTPUTF8" in line for line in visit.say(HELLO))


def test_deliverby_where_the_far_target_can_give_back(tmp_path: object) -> None:
    """Offered always: who lacks it is refused by its recipient, and only where a message has to be given back."""
    visit = Visit(tmp_path)
    assert b"250-DELIVERBY" in visit.say(HELLO)
    write_offers(visit.spool, "home", ("DSN",))
    visit = Visit(tmp_path)
    visit.say(HELLO)
    replies = visit.say(b"MAIL FROM:<s@x.example> BY=60;R\r\n" + BOTH)
    assert [reply[:9] for reply in replies] == [b"250 2.1.0", b"550 5.3.3", b"250 2.1.5"]
    write_offers(visit.spool, "home", ("DSN", "DELIVERBY"))
    for mode in (b"R", b"N"):
        visit = Visit(tmp_path)
        visit.say(HELLO)
        replies = visit.say(b"MAIL FROM:<s@x.example> by=+60;%b\r\n" % mode + BOTH)
        assert [reply[:9] for reply in replies] == [b"250 2.1.0", b"250 2.1.5", b"250 2.1.5"]
    visit.say(b"DATA\r\n")
    visit.say(b"x\r\n.\r\n")
    visit.commit()
    ((tx,), (other,)) = visit.waiting("home"), visit.waiting("away")
    assert Deadlines(visit.spool, "home").find(tx) == Deadline(NOW_MS + 60_000, False)
    assert Deadlines(visit.spool, "away").find(other) == Deadline(NOW_MS + 60_000, False)
    (waiting,) = WaitingRoom(visit.spool, "home").scan()
    with open(waiting.path, "rb") as file:
        assert b"MAIL FROM:<s@x.example> by=+60;N\r\n" in file.read()


def test_a_second_offer_after_the_first_was_sealed_or_held(tmp_path: object) -> None:
    """It has the first one's name again: what is sealed, or known by the ledger, is a leftover of that name."""
    visit = Visit(tmp_path, "home")
    text = b"XFORWARD IDENT=Q1\r\nMAIL FROM:<s@x.example>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n"
    room = WaitingRoom(visit.spool, "home")
    answers = []
    for turn in range(3):
        visit.say(HELLO + text)
        visit.say(b"x\r\n.\r\n")
        answers.append(visit.commit())
        (waiting,) = room.scan()
        if turn == 0:
            room.remove([waiting.path])
        else:
            room.hold(waiting)
            break
        visit.again()
    visit.again()
    visit.say(HELLO + text)
    visit.say(b"x\r\n.\r\n")
    answers.append(visit.commit())
    assert len({tuple(answer) for answer in answers}) == 1
    assert room.is_empty()
    assert len(list(room.scan_held())) == 1


def test_another_size_is_no_other_message(tmp_path: object) -> None:
    """Sendmail says SIZE of what the client gave it first, and of its own file when it tries again."""
    visit = Visit(tmp_path)
    for size in (222, 1411):
        visit.say(HELLO + b"MAIL FROM:<s@x.example> SIZE=%d RET=HDRS\r\nRCPT TO:<a@home.example>\r\nDATA\r\n" % size)
        visit.say(b"Received: from a by b\r\n id 6AR4EbZ5;\r\n date\r\n\r\nx\r\n.\r\n")
        visit.commit()
        visit.again()
    (waiting,) = WaitingRoom(visit.spool, "home").scan()
    with open(waiting.path, "rb") as file:
        assert b"\r\nMAIL FROM:<s@x.example> RET=HDRS\r\n" in file.read()


def test_less_time_left_is_no_other_message(tmp_path: object) -> None:
    """Who offers a message again counts BY's seconds down."""
    visit = Visit(tmp_path)
    for by in (b"195;R", b"100;R"):
        visit.say(HELLO + b"XFORWARD IDENT=4A1\r\nMAIL FROM:<s@x.example> BY=%b\r\n" % by + BOTH + b"DATA\r\n")
        visit.say(b"x\r\n.\r\n")
        visit.commit()
        visit.again()
    assert (len(visit.waiting("home")), len(visit.waiting("away"))) == (1, 1)


def test_no_room(tmp_path: object) -> None:
    visit = Visit(tmp_path, reserve=1 << 60)
    said = visit.say(HELLO + b"MAIL FROM:<s@x.example>\r\n" + BOTH + b"DATA\r\n")[-1]
    assert said.startswith(b"452 4.3.1 ")


@pytest.mark.parametrize("domain", [b"nobody.example", b"[192.0.2.1]", "bücher.nobody".encode()])
def test_a_domain_that_no_peer_has_costs_no_listing(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, domain: bytes
) -> None:
    """Whoever offers mail for it, and how often, with ten thousand peers."""
    visit = Visit(tmp_path)
    listed: list[object] = []
    visit.say(HELLO + b"MAIL FROM:<s@x.example> SMTPUTF8\r\n")
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(path) or [])
    assert visit.say(b"RCPT TO:<a@%b>\r\n" % domain)[0].startswith(b"550 5.1.2 ")
    assert listed == []


def test_a_domain_by_its_letters(tmp_path: object) -> None:
    """RFC 6531: where SMTPUTF8 is offered MTAs pass it as it was written."""
    visit = Visit(tmp_path, peers=["home", "xn--bcher-kva"])
    visit.say(HELLO + b"MAIL FROM:<s@x.example> SMTPUTF8\r\n")
    address = "r@b\u00fccher.example".encode()
    assert visit.say(b"RCPT TO:<%b>\r\n" % address)[0].startswith(b"250")
    visit.say(b"DATA\r\n")
    visit.say(b"x\r\n.\r\n")
    visit.commit()
    (waiting,) = WaitingRoom(visit.spool, "xn--bcher-kva").scan()
    with open(waiting.path, "rb") as file:
        assert b"\r\nRCPT TO:<%b>\r\n" % address in file.read()  # which stays


@pytest.mark.parametrize(
    ("start", "size", "second"),
    [
        (HELLO, b"", b"452 4.5.3 "),
        (HELLO, b" SIZE=3002", b"552 5.3.4 "),
        (HELLO, b" SIZE=9", b"250"),
        (b"LHLO me\r\n", b"", b"250"),
    ],
)
def test_peers_with_other_limits_get_a_transaction_each(
    tmp_path: object, start: bytes, size: bytes, second: bytes
) -> None:
    """SMTP has one answer behind the dot: without a SIZE one peer's limit would refuse the mail of all."""
    visit = Visit(tmp_path)
    home = Door("home", "mx.example", 1 << 20, 0, "normalize")
    small = home._replace(peer="away", max_message_octets=2000)
    set_up(visit.spool.root, [(home, ["home.example"]), (small, ["away.example"])])
    visit.again()
    first, other = visit.say(start + b"MAIL FROM:<s@x.example>%b\r\n" % size + BOTH)[-2:]
    assert first.startswith(b"250")
    assert other.startswith(second)
    visit.say(b"DATA\r\n" + b"x" * 8 + b"\r\n.\r\n")
    visit.commit()
    assert visit.waiting("home")


@pytest.mark.parametrize(("free", "code"), [(2 * 9_002 + 600, b"250"), (2 * 9_002 + 599, b"452 4.3.1 ")])
def test_room_for_a_copy_for_each_peer(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, free: int, code: bytes
) -> None:
    visit = Visit(tmp_path, reserve=600)
    monkeypatch.setattr("batchmail.store.room.free_octets", lambda _: free)
    visit.say(HELLO + b"MAIL FROM:<s@x.example>\r\n" + BOTH + b"DATA\r\n")
    said = visit.say(b"x" * 9_000 + b"\r\n.\r\n") or visit.commit()
    assert said[0].startswith(code)
    assert os.listdir(visit.spool.tmp) == []


def test_ids_are_of_the_time(tmp_path: object) -> None:
    visit = Visit(tmp_path, "home")
    visit.say(HELLO + b"MAIL FROM:<>\r\nRCPT TO:<a@b.example>\r\nDATA\r\n")
    visit.say(b"x\r\n.\r\n")
    visit.commit()
    assert visit.waiting("home")[0][:10] == make_id(NOW_MS, bytes(10))[:10]


def test_recipients_of_all_sessions_have_one_bound(tmp_path: object) -> None:
    """What one session has is missing for the next, until its transaction is over, however it ends."""
    visit = Visit(tmp_path)
    mail = b"MAIL FROM:<s@x.example>\r\n"
    many = mail + b"".join(b"RCPT TO:<u%d@home.example>\r\n" % number for number in range(1000))
    for end in (b"RSET\r\n", b"QUIT\r\n", b"", b"DATA\r\nx\0\r\n.\r\n"):
        visit.again()
        codes = [
            reply[:9] for reply in visit.say(HELLO + many) if b"2.1.0" in reply or b".5 " in reply or b"4.5" in reply
        ]
        taken = codes.count(b"250 2.1.5")
        assert 100 < taken < 1000
        assert codes[-1] == b"452 4.5.3"
        first = visit.session
        visit.again()
        assert visit.say(HELLO + mail + b"RCPT TO:<u@home.example>\r\n")[-1].startswith(b"452 4.5.3 ")
        first.receive(end)
        while first.output():
            pass
        if first.is_over:
            first.gone()
        assert visit.say(b"RCPT TO:<u@home.example>\r\n")[-1].startswith(b"250 2.1.5 ")
        visit.say(b"QUIT\r\n")
        visit.session.gone()


def test_no_more_peers_than_files_can_be_open(tmp_path: object) -> None:
    """The rest is for another transaction; and what waits for the committer is no more in memory than one message."""
    peers = [f"p{number}" for number in range(101)]
    visit = Visit(tmp_path, peers=peers)
    visit.say(HELLO + b"MAIL FROM:<s@x.example>\r\n")
    replies = visit.say(b"".join(b"RCPT TO:<u@%b.example>\r\n" % peer.encode() for peer in [*peers, *peers[:1]]))
    assert [reply[:3] for reply in replies] == [b"250"] * 100 + [b"452", b"250"]
    visit.say(b"DATA\r\n")
    visit.say(b"x" * 500 + b"\r\n.\r\n")
    assert len(os.listdir(visit.spool.tmp)) == 100  # files already: 4096 octets are held of all together
    visit.commit()
    assert [len(visit.waiting(peer)) for peer in peers] == [1] * 100 + [0]


def test_what_follows_on_a_connection_that_is_gone_is_not_taken(tmp_path: object) -> None:
    """Nobody would hear that it was, and it would come again."""
    visit = Visit(tmp_path)
    one = b"MAIL FROM:<s@x.example>\r\n" + BOTH + b"BDAT 3 LAST\r\nx\r\n"
    visit.say(HELLO + one + one)
    visit.session.gone()
    visit.commit()
    assert visit.units == []
    assert len(visit.waiting("home")) == 1
    assert os.listdir(visit.spool.tmp) == []


@pytest.mark.parametrize("alone", [True, False])
def test_mail_for_a_retired_peer_is_for_later_and_for_nobody_else(tmp_path: object, alone: bool) -> None:
    home = Door("home", "mx.example", 1 << 20, 0, "normalize")
    others = [] if alone else [(home._replace(peer="away"), ["*"])]
    visit = Visit(tmp_path)
    set_up(visit.spool.root, [(home._replace(is_retired=True), ["home.example"]), *others])
    visit.again()
    replies = visit.say(HELLO + b"MAIL FROM:<s@x.example>\r\n" + BOTH)
    assert replies[-2].startswith(b"450 4.3.5 ")
    assert replies[-1].startswith(b"550 5.1.2 " if alone else b"250 ")
    set_up(visit.spool.root, [(home, ["home.example"]), *others])
    assert visit.say(b"RCPT TO:<c@home.example>\r\n")[0].startswith(b"250 ")


@pytest.mark.parametrize("changed_s", [0, 4e9], ids=["long ago", "and then the clock went back"])
def test_doors_are_read_when_they_change_and_not_for_each_connection(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, changed_s: float
) -> None:
    """Ten thousand peers are ordinary."""
    visit = Visit(tmp_path, peers=["home", "away", "third"])
    os.utime(f"{visit.spool.root}/doors", (changed_s, changed_s))
    read: list[str] = []

    def find(root: str, name: str) -> Door | None:
        read.append(name)
        return find_peer_door(root, name)

    monkeypatch.setattr("batchmail.flow.doors.find_peer_door", find)
    monkeypatch.setattr("batchmail.flow.doors._MAX_REMEMBERED", 2)
    for _ in range(5):
        visit.again()
    assert sorted(read) == ["away", "home", "third"]
    os.utime(f"{visit.spool.root}/doors", (1, 1))
    visit.again()
    assert len(read) == 6

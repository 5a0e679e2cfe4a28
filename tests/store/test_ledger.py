"""The ledger: made once, for one directory; every step may be said twice; two at once wait for each other."""

import os
import shutil
import sqlite3
import threading

import pytest

from batchmail.core.errors import PeerError, SpoolError
from batchmail.core.manifest import Item
from batchmail.core.names import make_id
from batchmail.core.numbered import BATCH, REPORT, VOID, Number
from batchmail.core.outcome import Outcome
from batchmail.core.report import Reported
from batchmail.store import ledger as ledgers
from batchmail.store.ledger import Ledger
from batchmail.store.owed import Owed
from batchmail.store.received import Received
from batchmail.store.sent import Sent
from batchmail.store.spool import Spool
from tests import batches
from tests.spools import make_spool

NOW = 1795222800000
THEIRS = "FEDCBA9876543210"
PEER = "home"


@pytest.fixture
def spool(tmp_path: object) -> Spool:
    return make_spool(f"{tmp_path}/spool")


@pytest.fixture
def ledger(spool: Spool) -> Ledger:
    return Ledger(spool, PEER)


@pytest.fixture
def sent(ledger: Ledger) -> Sent:
    return Sent(ledger)


@pytest.fixture
def received(ledger: Ledger) -> Received:
    return Received(ledger)


def items(*numbers: int, recipients: int = 1) -> list[Item]:
    return [Item(batches.describe(batches.PLAIN, n, recipients=recipients), 0, 86_400_000) for n in numbers]


def ident(number: int) -> str:
    return items(number)[0].entry.id


def outcome(recipient: int = 0, action: str = "delivered", text: bytes = b"") -> Outcome:
    return Outcome(recipient, action, 250, "2.0.0", text, b"mta", NOW)


def reported(number: int, recipient: int = 0, action: str = "delivered", text: bytes = b"") -> Reported:
    return Reported(ident(number), outcome(recipient, action, text), False)


# The file


def test_a_new_ledger_knows_itself(spool: Spool, ledger: Ledger) -> None:
    again = Ledger(spool, PEER)
    assert (again.memory, again.stream) == (ledger.memory, ledger.stream)
    assert len(ledger.memory) == 32


def test_two_ledgers_are_never_alike(spool: Spool, tmp_path: object) -> None:
    other = make_spool(f"{tmp_path}/other")
    assert Ledger(spool, PEER).stream != Ledger(other, PEER).stream
    assert Ledger(spool, PEER).memory != Ledger(other, PEER).memory


def test_a_ledger_of_another_directory_is_refused_until_it_is_adopted(spool: Spool, tmp_path: object) -> None:
    Ledger(spool, PEER).close()
    shutil.copytree(spool.root, f"{tmp_path}/copy")
    copy = Spool(f"{tmp_path}/copy")
    with pytest.raises(SpoolError, match=r"made for another directory.*setup --adopt home"):
        Ledger(copy, PEER)
    Ledger(copy, PEER, adopt=True).close()
    Ledger(copy, PEER).close()
    Ledger(spool, PEER).close()


@pytest.mark.parametrize("place", ["out/home/outbox", "in/home/inbox"])
@pytest.mark.parametrize("lost", ["missing", "empty"])
def test_a_ledger_that_is_lost_beside_files_is_not_made_anew(spool: Spool, place: str, lost: str) -> None:
    Ledger(spool, PEER).close()
    with open(f"{spool.root}/{place}/{batches.STREAM}.1.batch", "wb"):
        pass
    for suffix in ("-wal", "-shm"):
        if os.path.exists(f"{spool.root}/ledger/{PEER}{suffix}"):
            os.unlink(f"{spool.root}/ledger/{PEER}{suffix}")
    os.unlink(f"{spool.root}/ledger/{PEER}")
    if lost == "empty":
        with open(f"{spool.root}/ledger/{PEER}", "wb"):
            pass
    for _ in range(2):
        with pytest.raises(SpoolError, match=f"is missing, but {place} holds files.*setup --adopt home"):
            Ledger(spool, PEER)
    Ledger(spool, PEER, adopt=True).close()
    Ledger(spool, PEER).close()


def test_a_newer_ledger_is_refused(spool: Spool, ledger: Ledger) -> None:
    ledger.database.execute(f"PRAGMA user_version = {ledgers.VERSION + 1}")
    with pytest.raises(SpoolError, match="install a newer batchmail"):
        Ledger(spool, PEER)


def test_an_older_ledger_is_brought_up_to_date_in_place(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "VERSION", 1)
    old = Ledger(spool, PEER)
    with old.transaction():
        old.rows("INSERT INTO sent VALUES (1, ?, 'batch', '', 1, 'sealed', 0, ?, NULL)", old.stream, NOW)
    memory, tables = old.memory, old.rows("SELECT COUNT(*) FROM sqlite_master")
    old.close()
    monkeypatch.undo()
    new = Ledger(spool, PEER)
    assert new.rows("PRAGMA user_version") == [(ledgers.VERSION,)]
    assert new.rows("SELECT COUNT(*) FROM sqlite_master") > tables
    assert (new.memory, [file.octets for file in Sent(new).files("sealed")]) == (memory, [1])
    made = new.rows("SELECT sql FROM sqlite_master ORDER BY name")
    other = make_spool(f"{spool.root}.other")
    assert Ledger(other, PEER).rows("SELECT sql FROM sqlite_master ORDER BY name") == made


def test_a_damaged_schema_says_so(spool: Spool, ledger: Ledger) -> None:
    ledger.close()
    with open(f"{spool.root}/ledger/{PEER}", "r+b") as file:
        octets = file.read().replace(b"CREATE TABLE fact", b"CREATE TABLE (act")
        octets = octets.replace(b"tablefactfact", b"tablefac\xd8fact")  # which SQLite quotes
        file.seek(0)
        file.write(octets)
    with pytest.raises(SpoolError, match=r"is damaged: .*setup --adopt"):
        Ledger(spool, PEER)


def test_what_is_no_ledger_says_so(spool: Spool) -> None:
    with open(f"{spool.root}/ledger/{PEER}", "wb") as file:
        file.write(b"not a database" * 1000)
    with pytest.raises(SpoolError, match=r"ledger .* is damaged: .*setup --adopt"):
        Ledger(spool, PEER)


def test_commits_are_on_stable_storage(ledger: Ledger) -> None:
    assert ledger.rows("PRAGMA synchronous") == [(2,)]
    assert ledger.rows("PRAGMA journal_mode") == [("wal",)]


def test_a_transaction_is_all_or_nothing(ledger: Ledger) -> None:
    with pytest.raises(KeyboardInterrupt), ledger.transaction():
        ledger.set_fact("x", "1")
        raise KeyboardInterrupt
    assert ledger.fact("x") is None
    with pytest.raises(SpoolError, match="cannot be used"), ledger.transaction():
        ledger.set_fact("x", "1")
        ledger.database.execute("INSERT INTO fact VALUES ('x', '2')")
    assert ledger.fact("x") is None
    with ledger.transaction():
        ledger.set_fact("x", "3")
    assert ledger.fact("x") == "3"


def test_whoever_waits_too_long_is_told(spool: Spool, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledgers, "_BUSY_S", 0.01)
    ledger.database.execute("BEGIN IMMEDIATE")
    other = Ledger(spool, PEER)  # who only looks does not wait
    with pytest.raises(SpoolError, match="locked"), other.transaction():
        pass
    other.close()
    ledger.database.execute("ROLLBACK")


def test_a_full_disk_is_told_and_undone(ledger: Ledger) -> None:
    pages = ledger.rows("PRAGMA page_count")[0][0]
    ledger.database.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(SpoolError, match="full"), ledger.transaction():
        for n in range(1000):
            ledger.set_fact(f"x{n}", "y" * 1000)
    assert ledger.fact("x0") is None
    with ledger.transaction():
        ledger.set_fact("x", "y")


def test_two_at_once_number_without_gap_or_double(spool: Spool) -> None:
    found: list[int] = []
    errors: list[Exception] = []

    def work() -> None:
        ledger = Ledger(spool, PEER)
        try:
            found.extend(Sent(ledger).reserve(BATCH, NOW).seq for _ in range(25))
        except (SpoolError, sqlite3.Error) as error:
            errors.append(error)
        ledger.close()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert sorted(found) == list(range(1, 101))


def test_a_new_ledger_that_two_open_at_once_is_one(spool: Spool) -> None:
    found: list[str] = []
    start = threading.Barrier(4)

    def work() -> None:
        start.wait(30)
        found.append(Ledger(spool, PEER).stream)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == 4
    assert len(set(found)) == 1


# What we sent


def state(sent: Sent, number: Number) -> str | None:
    file = sent.file(number.stream, number.seq)
    return file.state if file else None


def test_a_batch_from_number_to_settled(sent: Sent) -> None:
    number = sent.reserve(BATCH, NOW)
    assert (number.seq, state(sent, number), sent.last_seq(number.stream)) == (1, "reserved", 1)
    for _ in range(2):
        sent.seal(number, "ab" * 32, 100, items(1, 2))
        assert sent.file(number.stream, 1) == (number, "ab" * 32, 100, "sealed", 0)
        assert sent.sealed_ids([ident(n) for n in (1, 2, 3)]) == {ident(1), ident(2)}
        assert sent.count_transactions(number) == 2
    for _ in range(2):
        assert sent.custody(number, NOW) == []
        assert state(sent, number) == "custody"
        assert sent.let_go(NOW) == []
    rows = sent.new_outcomes([reported(1), reported(2)])
    assert [(row.id, place) for row, place in rows] == [(ident(1), number), (ident(2), number)]
    sent.settle([row for row, _ in rows], {}, NOW)
    assert sent.new_outcomes([reported(1), reported(2)]) == []
    assert sent.let_go(NOW) == [number]
    assert sent.let_go(NOW) == []
    assert state(sent, number) == "settled"
    assert sent.new_outcomes([reported(1)]) == []


def test_sealing_again_after_custody_takes_nothing_back(sent: Sent) -> None:
    number = sent.reserve(BATCH, NOW)
    sent.seal(number, "ab" * 32, 100, items(1))
    sent.custody(number, NOW)
    sent.seal(number, "cd" * 32, 1, items(1))
    assert sent.file(number.stream, 1) == (number, "ab" * 32, 100, "custody", 0)


def test_custody_of_what_was_not_sealed_is_nothing(sent: Sent) -> None:
    number = sent.reserve(BATCH, NOW)
    assert sent.custody(number, NOW) == []
    assert state(sent, number) == "reserved"


def sealed(sent: Sent, *numbers: int, recipients: int = 1) -> Number:
    number = sent.reserve(BATCH, NOW)
    sent.seal(number, f"{number.seq:064x}", 100, items(*numbers, recipients=recipients))
    sent.custody(number, NOW)
    return number


def settle(sent: Sent, *rows: Reported, notices: dict[tuple[str, int], str] | None = None) -> int:
    found = [row for row, _ in sent.new_outcomes(list(rows))]
    sent.settle(found, notices or {}, NOW)
    return len(found)


def test_outcomes_of_what_was_never_sent_are_passed_over(sent: Sent) -> None:
    number = sealed(sent, 1)
    assert settle(sent, reported(7), reported(1, recipient=1), reported(1, recipient=9999)) == 0
    assert sent.let_go(NOW) == []
    assert sent.count_transactions(number) == 1


def test_an_outcome_that_comes_twice_counts_once(sent: Sent) -> None:
    number = sealed(sent, 1, recipients=2)
    assert settle(sent, reported(1), reported(1), reported(1, action="failed")) == 1
    assert settle(sent, reported(1)) == 0
    assert sent.let_go(NOW) == []
    assert settle(sent, reported(1, 1)) == 1
    assert sent.let_go(NOW) == [number]


def test_a_delay_is_followed_by_its_end_and_not_the_other_way_round(sent: Sent) -> None:
    number = sealed(sent, 1)
    assert settle(sent, reported(1, action="delayed")) == 1
    assert settle(sent, reported(1, action="delayed")) == 0
    assert sent.let_go(NOW) == []
    assert settle(sent, reported(1, action="failed")) == 1
    assert settle(sent, reported(1, action="delayed"), reported(1)) == 0
    assert sent.let_go(NOW) == [number]


def test_nothing_goes_while_a_notice_is_owed(sent: Sent, ledger: Ledger) -> None:
    notices = Owed(ledger)
    number = sealed(sent, 1, 2)
    settle(sent, reported(1, action="failed"), reported(2), notices={(ident(1), 0): "N1"})
    assert sent.let_go(NOW) == []
    (owed,) = notices.due(NOW)
    assert (owed.id, owed.tx, owed.attempts) == ("N1", ident(1), 0)
    notices.postpone("N1", NOW + 5)
    assert notices.due(NOW + 4) == []
    assert notices.due(NOW + 5)[0].attempts == 1
    assert sent.let_go(NOW) == []
    for _ in range(2):
        notices.done("N1", "sent", b"ok")
    assert (notices.due(NOW + 9), notices.ids()) == ([], set())
    assert sent.let_go(NOW) == [number]


def test_a_transaction_sealed_anew_belongs_to_the_new_batch(sent: Sent) -> None:
    old = sealed(sent, 1, 2)
    settle(sent, reported(1))
    new = sent.reserve(BATCH, NOW)
    sent.seal(new, "ef" * 32, 10, items(1, 2))
    assert (sent.count_transactions(old), sent.count_transactions(new)) == (0, 2)
    assert settle(sent, reported(1)) == 0  # known from before
    assert settle(sent, reported(2)) == 1
    sent.custody(new, NOW)
    assert sent.let_go(NOW) == [old, new]


def test_a_settled_transaction_stays_so_when_it_is_sealed_anew(sent: Sent) -> None:
    old = sealed(sent, 1)
    settle(sent, reported(1))
    sent.let_go(NOW)
    new = sent.reserve(BATCH, NOW)
    sent.seal(new, "ef" * 32, 10, items(1))
    assert (sent.count_transactions(old), sent.count_transactions(new)) == (0, 0)


def test_a_void_takes_a_numbers_place(sent: Sent) -> None:
    number = sent.reserve(BATCH, NOW)
    sent.seal(number, "ab" * 32, 100, items(1))
    for _ in range(2):
        void = sent.void(number)
        assert (void, state(sent, number)) == (number._replace(kind=VOID), "reserved")
    for _ in range(2):
        sent.seal(void, "cd" * 32, 5)
        assert sent.file(number.stream, 1) == (void, "cd" * 32, 5, "sealed", 0)
    sent.custody(void, NOW)
    assert state(sent, void) == "settled"


def test_cuts_are_counted_for_one_sealing(sent: Sent) -> None:
    number = sent.reserve(BATCH, NOW)
    sent.seal(number, "ab" * 32, 100)
    assert [sent.count_cut(number) for _ in range(3)] == [1, 2, 3]
    sent.seal(sent.void(number), "cd" * 32, 5)
    assert sent.files("sealed")[0].cuts == 0


def test_what_an_older_version_sealed_has_a_lifetime_once_it_is_sealed_anew(sent: Sent, ledger: Ledger) -> None:
    for n in (1, 2):
        sent.seal(sent.reserve(BATCH, NOW), "ab" * 32, 1, items(n))
    expire_ms = items(1)[0].entry.arrival_ms + items(1)[0].lifetime_ms
    ledger.rows("UPDATE out_tx SET expire_ms = NULL WHERE id = ?", ident(1))
    ledger.rows("UPDATE out_tx SET expire_ms = 5 WHERE id = ?", ident(2))
    sent.seal(sent.reserve(BATCH, NOW), "ab" * 32, 1, items(1, 2))
    assert ledger.rows("SELECT expire_ms FROM out_tx ORDER BY id") == [(expire_ms,), (5,)]


def test_what_was_settled_long_ago_is_forgotten(sent: Sent, ledger: Ledger) -> None:
    sealed(sent, 1, 2)
    settle(sent, reported(1, action="failed"), notices={(ident(1), 0): "N1"})
    Owed(ledger).done("N1", "sent", b"")
    sent.let_go(NOW)
    sent.prune(NOW)
    assert sent.sealed_ids([ident(1), ident(2)]) == {ident(1), ident(2)}
    sent.prune(NOW + 1)
    assert sent.sealed_ids([ident(1), ident(2)]) == {ident(2)}
    assert ledger.rows("SELECT * FROM out_rcpt") == ledger.rows("SELECT * FROM notice") == []


# What came


def number(seq: int, kind: str = BATCH, stream: str = THEIRS) -> Number:
    return Number(stream, seq, kind)


def take(received: Received, seq: int, *numbers: int, recipients: int = 1, stream: str = THEIRS) -> Number:
    received.custody(number(seq, stream=stream), f"{seq:064x}", items(*numbers, recipients=recipients), NOW, 0)
    return number(seq, stream=stream)


def test_custody_is_said_twice_and_counts_once(received: Received) -> None:
    for _ in range(2):
        take(received, 1, 1, 2)
        assert received.identity(THEIRS, 1) == f"{1:064x}"
        assert received.in_custody(BATCH) == [number(1)]
        assert received.due_batches(NOW) == [number(1)]
        assert set(received.due(number(1), NOW)) == {ident(1), ident(2)}
    assert received.identity(THEIRS, 2) is None


def test_what_we_have_of_a_stream(received: Received) -> None:
    assert received.having() == []
    for seq in (2, 3, 7, 5):
        take(received, seq, seq)
    assert received.having() == [(THEIRS, 0, "", [(2, 3), (5, 5), (7, 7)])]
    take(received, 1, 1)
    assert received.having() == [(THEIRS, 3, f"{3:064x}", [(5, 5), (7, 7)])]
    take(received, 4, 4)
    take(received, 6, 6)
    assert received.having() == [(THEIRS, 7, f"{7:064x}", [])]


def test_at_most_two_streams_are_told_the_newest(received: Received) -> None:
    for n, stream in enumerate(["A" * 16, "B" * 16, "C" * 16]):
        received.custody(number(1, stream=stream), "ab" * 32, items(n), NOW + n, 0)
    assert [have.stream for have in received.having()] == ["C" * 16, "B" * 16]


def test_the_newest_stream_is_the_one_heard_last_whatever_the_clock_says(received: Received, ledger: Ledger) -> None:
    for n, stream in enumerate(["A" * 16, "B" * 16, "C" * 16]):
        received.custody(number(1, stream=stream), "ab" * 32, items(n), NOW - n * 86_400_000, 0)
        received.custody(number(2, stream=stream), "ab" * 32, [], NOW + 86_400_000, 0)
    assert [have.stream for have in received.having()] == ["C" * 16, "B" * 16]


def test_a_transaction_to_its_end(received: Received, sent: Sent) -> None:
    batch = take(received, 1, 1, recipients=3)
    assert not received.before_dot(ident(1))
    assert not received.outcomes(ident(1), [outcome(0), outcome(1, "delayed")], NOW + 60_000)
    assert received.finished(ident(1)) == {0}
    assert received.due(batch, NOW) == {}
    assert received.due(batch, NOW + 60_000)[ident(1)].attempts == 1
    rows = received.unreported(100)
    assert [(row.outcome.recipient, row.outcome.action) for row in rows] == [(0, "delivered"), (1, "delayed")]
    first = sent.reserve(REPORT, NOW)
    for _ in range(2):
        received.reported(first, rows)
        assert (received.unreported(100), received.has_unreported()) == ([], False)
    sent.seal(first, "ab" * 32, 1)
    for _ in range(2):
        sent.custody(first, NOW)
    assert received.let_go() == []
    # A second delay is not told again, the end is.
    received.outcomes(ident(1), [outcome(1, "delayed", b"again"), outcome(2)], NOW)
    assert [(row.outcome.recipient, row.outcome.action) for row in received.unreported(9)] == [(2, "delivered")]
    assert received.outcomes(ident(1), [outcome(1, "failed")], NOW)
    rows = received.unreported(100)
    assert [(row.outcome.recipient, row.outcome.action) for row in rows] == [(1, "failed"), (2, "delivered")]
    assert received.due_batches(NOW + 10**9) == []
    second = sent.reserve(REPORT, NOW)
    received.reported(second, rows)
    sent.seal(second, "cd" * 32, 1)
    assert received.let_go() == []
    sent.custody(second, NOW)
    assert received.let_go() == [batch]
    assert received.let_go() == []
    assert received.in_custody(BATCH) == []


def test_an_outcome_that_changed_under_a_report_is_left_for_the_next(received: Received, sent: Sent) -> None:
    take(received, 1, 1)
    received.outcomes(ident(1), [outcome(0, "delayed")], NOW)
    rows = received.unreported(9)
    received.outcomes(ident(1), [outcome(0, "failed")], NOW)
    report = sent.reserve(REPORT, NOW)
    received.reported(report, rows)
    assert [row.outcome.action for row in received.unreported(9)] == ["failed"]
    sent.seal(report, "ab" * 32, 1)
    sent.custody(report, NOW)
    assert received.let_go() == []


def test_a_dot_that_was_written_before_is_in_doubt(received: Received) -> None:
    take(received, 1, 1)
    assert not received.before_dot(ident(1))
    assert received.before_dot(ident(1))
    received.outcomes(ident(1), [outcome()], NOW)
    assert received.unreported(1)[0].doubtful


def test_a_transaction_that_comes_again_is_not_replayed_and_its_outcome_is_told_again(
    received: Received, sent: Sent
) -> None:
    old = take(received, 1, 1, 2)
    received.outcomes(ident(1), [outcome()], NOW)
    report = sent.reserve(REPORT, NOW)
    received.reported(report, received.unreported(9))
    sent.seal(report, "ab" * 32, 1)
    sent.custody(report, NOW)
    new = take(received, 2, 1, 2)
    assert (received.due(old, NOW), set(received.due(new, NOW))) == ({}, {ident(2)})
    assert [row.id for row in received.unreported(9)] == [ident(1)]
    assert received.let_go() == [old]


def test_a_transaction_that_comes_again_as_another_is_refused(received: Received) -> None:
    take(received, 1, 1, recipients=2)
    with pytest.raises(PeerError, match="came before with 2 recipients, not 3"):
        take(received, 2, 1, recipients=3)
    assert received.identity(THEIRS, 2) is None
    assert received.having() == [(THEIRS, 1, f"{1:064x}", [])]


def test_a_file_that_is_no_batch_is_done_when_we_say_so(received: Received) -> None:
    received.custody(number(1, REPORT), "ab" * 32, [], NOW, 0)
    assert received.in_custody(REPORT) == [number(1, REPORT)]
    assert received.let_go() == []
    for _ in range(2):
        received.done(number(1, REPORT))
        assert received.in_custody(REPORT) == []
    assert received.identity(THEIRS, 1) == "ab" * 32


def test_lifetime_counts_by_the_peers_clock(received: Received) -> None:
    received.custody(number(1), "ab" * 32, items(1), NOW, 5000)
    due = received.due(number(1), NOW)[ident(1)]
    assert due.expire_ms == due.arrival_ms + 86_400_000 + 5000


def test_what_was_reported_long_ago_is_forgotten(received: Received, sent: Sent, ledger: Ledger) -> None:
    take(received, 1, 1, 2)
    received.outcomes(ident(1), [outcome()], NOW)
    received.outcomes(ident(2), [outcome()], NOW)
    report = sent.reserve(REPORT, NOW)
    received.reported(report, received.unreported(1))
    sent.seal(report, "ab" * 32, 1)
    sent.custody(report, NOW)
    received.prune(NOW)
    assert len(ledger.rows("SELECT * FROM in_tx")) == 2
    received.prune(NOW + 1)
    assert ledger.rows("SELECT id FROM in_tx") == ledger.rows("SELECT id FROM in_rcpt") == [(ident(2),)]


def aged(*numbers: int) -> list[Item]:
    """Each arrived a second after the one before."""
    rows = []
    for n in numbers:
        arrival_ms = NOW - 100_000 + n * 1000
        entry = batches.describe(batches.PLAIN, id=make_id(arrival_ms, b"0123456789"), arrival_ms=arrival_ms)
        rows.append(Item(entry, 0, 86_400_000))
    return rows


def forget(received: Received, sent: Sent, *numbers: int) -> None:
    """Deliver and report what came, and prune by a clock that is ten years ahead."""
    received.custody(number(1), "ab" * 32, aged(*numbers), NOW, 0)
    for item in aged(*numbers):
        received.outcomes(item.entry.id, [outcome()], NOW)
    report = sent.reserve(REPORT, NOW)
    received.reported(report, received.unreported(9))
    sent.seal(report, "ab" * 32, 1)
    sent.custody(report, NOW)
    received.prune(NOW + 3650 * 86_400_000)


@pytest.mark.parametrize("ahead_ms", [-86_400_000, 0, 86_400_000])
def test_a_clock_that_ran_ahead_does_not_have_later_mail_held(
    received: Received, sent: Sent, ledger: Ledger, ahead_ms: int
) -> None:
    forget(received, sent, 2, 1)
    assert ledger.rows("SELECT id FROM in_tx") == []
    received.custody(number(1, stream="C" * 16), "ab" * 32, aged(0, 1, 2, 3), NOW, ahead_ms)
    states = [row[0] for row in ledger.rows("SELECT state FROM in_tx ORDER BY id")]
    assert states == ["held", "held", "held", "waiting"]


def test_what_was_forgotten_is_held_in_a_stream_first_heard_while_the_clock_is_behind(
    received: Received, sent: Sent, ledger: Ledger
) -> None:
    forget(received, sent, 1)
    received.custody(number(1, stream="C" * 16), "ab" * 32, aged(1), NOW - 400 * 86_400_000, 0)
    assert ledger.rows("SELECT state FROM in_tx") == [("held",)]

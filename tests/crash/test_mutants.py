"""The harness is worth its time only if it finds what is wrong: each of these faults is put in, and has to be found.

MUTANTS is the table: the name says what is done wrong, `site` where the power fails then, `near` which of the world's
observations are tried first, to save time.  A fault that shows without any cut would be found by simpler tests:
`cut_only` says that it does not, so that it is the cuts that find it.
"""

import os
import smtplib
import stat
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pytest

from batchmail.core import numbered
from batchmail.core.numbered import BATCH, REPORT, Number
from batchmail.core.outcome import DELIVERED, Outcome
from batchmail.flow.accept import Intake
from batchmail.flow.incoming import Answer, Arrivals
from batchmail.flow.seal import Sealer
from batchmail.flow.settle import Settler
from batchmail.proto.frames import Custody
from batchmail.store import arrivals, boxes, durable, group
from batchmail.store.durable import Directories, Draft
from batchmail.store.ledger import Ledger
from batchmail.store.notices import Notices
from batchmail.store.owed import Owed
from batchmail.store.received import Received
from batchmail.store.sent import Sent
from tests.crash.journal import Choice, Cut, Item
from tests.crash.world import World, new_world, record, survive

Patch = Callable[[pytest.MonkeyPatch, World], None]
_STRIDES = ((0, 8), (4, 8), (2, 4), (1, 2))  # all points, those far apart first


class Mutant(NamedTuple):
    name: str
    site: str
    patch: Patch
    near: str = "told"  # given, sent, told: see `World.mark`; commit: of a ledger
    cut_only: bool = True


def hunt(world: World, site: str, near: str) -> tuple[int, Cut | None, Choice, str]:
    """Look for a state that does not come right: how many were tried, and what was found."""
    tried = 0
    try:
        journal = record(world, world.live)
        world.recover()
        world.check()
    except Exception as error:
        return 0, None, {}, f"{type(error).__name__}: {error}"
    points = journal.points(world.roots[site])
    first = [n for n in points if any(near in step[:2] for _, step in journal.operations[max(0, n - 2) : n + 1])]
    seen = set()
    for some in (first, *(points[start::stride] for start, stride in _STRIDES)):
        known: set[tuple[Item, int]] = set()
        for cut in journal.cuts(world.roots[site], at=some):
            new = cut.items().items() - known
            known |= new
            for choice in cut.choices() if new else cut.choices()[:2]:
                signature = cut.signature(choice)
                if signature in seen:
                    continue
                seen.add(signature)
                tried += 1
                try:
                    survive(world, cut, choice)
                except Exception as error:
                    return tried, cut, choice, f"{type(error).__name__}: {error}"
    return tried, None, {}, ""


# -- what is left out -------------------------------------------------------------------------------------------


class Os:
    """The operating system as `durable` sees it, but for what a subclass changes."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


class SyncsNo(Os):
    """Syncs nothing of a kind."""

    def __init__(self, is_kind: Callable[[int], bool]):
        self._is_kind = is_kind

    def fsync(self, fd: int) -> None:
        if not self._is_kind(os.fstat(fd).st_mode):
            os.fsync(fd)


class SyncsLate(Os):
    """Syncs files when they have their names."""

    def __init__(self) -> None:
        self._late: list[int] = []

    def fsync(self, fd: int) -> None:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            self._late.append(os.dup(fd))
        else:
            os.fsync(fd)

    def link(self, old: str, new: str) -> None:
        os.link(old, new)
        while self._late:
            fd = self._late.pop()
            os.fsync(fd)
            os.close(fd)


def sees(system: Callable[[], Os]) -> Patch:
    return lambda patch, _: patch.setattr(durable, "os", system())


def a_new_bucket_is_not_synced(patch: pytest.MonkeyPatch, _: World) -> None:
    patch.setattr(Directories, "sync", lambda _, path, levels: durable.sync_dir(path))


def several_are_not_synced_in_their_bucket(patch: pytest.MonkeyPatch, _: World) -> None:
    def publish_all(members: list[tuple[Draft, str]], final: str) -> None:
        bundle = f"{members[0][0].path}.d"
        os.mkdir(bundle)
        for draft, name in members:
            draft.sync()
            draft.link(f"{bundle}/{name}")
        try:
            os.rename(bundle, final)
        except OSError:  # the same offer again
            raise FileExistsError(final) from None
        durable.sync_dir(os.path.dirname(final))

    patch.setattr(arrivals, "publish_all", publish_all)


def offers_are_not_synced(patch: pytest.MonkeyPatch, _: World) -> None:
    patch.setattr(group._Group, "sync_marks", lambda *_: None)


def partial_files_are_not_synced(patch: pytest.MonkeyPatch, _: World) -> None:
    patch.setattr(boxes, "adopt", durable.move)


def ledgers_are_not_synced(patch: pytest.MonkeyPatch, _: World) -> None:
    opened = Ledger.__init__

    def init(ledger: Ledger, *arguments: Any, **options: Any) -> None:
        opened(ledger, *arguments, **options)
        ledger.database.execute("PRAGMA synchronous=NORMAL")

    patch.setattr(Ledger, "__init__", init)


def nobody_fills_gaps(patch: pytest.MonkeyPatch, _: World) -> None:
    patch.setattr(Sealer, "_fill_gap", lambda *_: None)


def dots_are_not_recorded(patch: pytest.MonkeyPatch, _: World) -> None:
    patch.setattr(Received, "before_dot", lambda *_: False)


def dropped(half: type, write: str, answer: object = None) -> Patch:
    def drop(patch: pytest.MonkeyPatch, _: World) -> None:
        patch.setattr(half, write, lambda *_: answer)

    return drop


# -- what comes too early ---------------------------------------------------------------------------------------


def the_answer_comes_before_the_rename(patch: pytest.MonkeyPatch, world: World) -> None:
    commit = Intake.commit

    def early(intake: Intake) -> Any:
        world.mark(intake._spool.root, "told", intake._origin.queue_id)
        return commit(intake)

    patch.setattr(Intake, "commit", early)


def custody_is_said_before_the_rename(kind: str) -> Patch:
    def mutate(patch: pytest.MonkeyPatch, _: World) -> None:
        take = Arrivals._take

        def early(arrivals: Arrivals, incoming: Any, *rest: Any) -> Any:
            if incoming.number.kind == kind:
                arrivals._post(Answer(Custody(*incoming.number[:2]), incoming.number))
                time.sleep(0.03)  # the thread has bad luck
            return take(arrivals, incoming, *rest)

        patch.setattr(Arrivals, "_take", early)

    return mutate


def the_row_comes_before_the_name(patch: pytest.MonkeyPatch, _: World) -> None:
    def adopt(path: str, final: str) -> None:
        fd = os.open(path, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        os.link(path, final)
        os.unlink(path)

    patch.setattr(boxes, "adopt", adopt)


def what_waits_is_removed_before_it_is_sealed(patch: pytest.MonkeyPatch, _: World) -> None:
    write = Sealer._write_batch

    def early(sealer: Sealer, far: str, items: Any, texts: Iterable[Iterable[bytes]], *rest: Any) -> Number:
        read = [list(text) for text in texts]
        found = [sealer._room.find(item.entry.id) for item in items]
        sealer._room.remove([one.path for one in found if one])
        return write(sealer, far, items, read, *rest)

    patch.setattr(Sealer, "_write_batch", early)


def outcomes_are_reported_before_the_report(patch: pytest.MonkeyPatch, _: World) -> None:
    write = Sealer._write_lines

    def early(sealer: Sealer, number: Number, rows: Any) -> Number:
        if number.kind == REPORT:
            sealer._received.reported(number, rows)
        return write(sealer, number, rows)

    patch.setattr(Sealer, "_write_lines", early)


def the_outcome_comes_before_the_reply(patch: pytest.MonkeyPatch, _: World) -> None:
    before_dot = Received.before_dot

    def early(received: Received, identifier: str) -> bool:
        doubtful = before_dot(received, identifier)
        number = received._ledger.rows("SELECT recipients FROM in_tx WHERE id = ?", identifier)[0][0]
        done = received.finished(identifier)
        found = [Outcome(n, DELIVERED, 250, "2.0.0", b"", b"", 0) for n in range(number) if n not in done]
        received.outcomes(identifier, found, 0)
        return doubtful

    patch.setattr(Received, "before_dot", early)


def reports_are_done_before_they_are_settled(patch: pytest.MonkeyPatch, _: World) -> None:
    settle = Settler._settle_report

    def early(settler: Settler, number: Number, *rest: Any) -> Any:
        settler._received.done(number)
        return settle(settler, number, *rest)

    patch.setattr(Settler, "_settle_report", early)


def notices_are_handed_over_before_they_are_owed(patch: pytest.MonkeyPatch, world: World) -> None:
    write, settle = Notices.write, Sent.settle

    def early(notices: Notices, identifier: str, now_ms: int, envelope: Any, content: Iterable[bytes]) -> None:
        octets = b"".join(content)
        write(notices, identifier, now_ms, envelope, [octets])
        port = int(world.pair.mx.context.peer.target.rpartition(":")[2])
        with smtplib.SMTP("127.0.0.1", port, "mx.example") as server:
            server.sendmail("", [r.address.decode() for r in envelope.recipients], octets)

    def settled(sent: Sent, *values: Any) -> None:
        settle(sent, *values)
        sent._ledger.rows("UPDATE notice SET state = 'sent'")

    patch.setattr(Notices, "write", early)
    patch.setattr(Sent, "settle", settled)


# -- what is taken for something else ---------------------------------------------------------------------------


def numbers_are_taken_from_the_directory(patch: pytest.MonkeyPatch, _: World) -> None:
    def reserve(sent: Sent, kind: str, now_ms: int) -> Number:
        root, _, peer = sent._ledger.path.rpartition("/ledger/")
        there = filter(None, map(numbered.parse, os.listdir(f"{root}/out/{peer}/outbox")))
        last = max((found.seq for found in there), default=0)
        number = Number(sent._ledger.stream, last + 1, kind)
        sent._ledger.rows(
            "INSERT OR REPLACE INTO sent (stream, seq, kind, identity, octets, state, sealed_ms)"
            " VALUES (?,?,?,'',0,'reserved',?)",
            *number,
            now_ms,
        )
        return number

    patch.setattr(Sent, "reserve", reserve)


def owed_notices_are_swept(patch: pytest.MonkeyPatch, _: World) -> None:
    keep_only = Notices.keep_only
    patch.setattr(Notices, "keep_only", lambda notices, _: keep_only(notices, set()))


def outcomes_are_taken_twice(patch: pytest.MonkeyPatch, _: World) -> None:
    def new_outcomes(sent: Sent, reported: list[Any]) -> list[Any]:
        found = []
        for row in reported:
            place = sent._ledger.rows("SELECT stream, seq FROM out_tx WHERE id = ?", row.id)
            found += [(row, Number(place[0][0], place[0][1], BATCH))] if place else []
        return found

    patch.setattr(Sent, "new_outcomes", new_outcomes)


MUTANTS = (
    Mutant("no file is synced", "mx", sees(lambda: SyncsNo(stat.S_ISREG))),
    Mutant("no directory is synced", "mx", sees(lambda: SyncsNo(stat.S_ISDIR))),
    Mutant("the name of a new bucket is not synced", "mx", a_new_bucket_is_not_synced),
    Mutant("the names of several in one input are not synced", "mx", several_are_not_synced_in_their_bucket),
    Mutant("what was offered under a queue id is not synced", "mx", offers_are_not_synced),
    Mutant("a partial file is not synced before custody", "home", partial_files_are_not_synced, "commit"),
    Mutant("a partial report is not synced before custody", "mx", partial_files_are_not_synced),
    Mutant("the ledger's commits are not synced", "home", ledgers_are_not_synced, "given"),
    Mutant("the origin's ledger's commits are not synced", "mx", ledgers_are_not_synced, "given"),
    Mutant("a name comes before its data are synced", "mx", sees(SyncsLate)),
    Mutant("the door answers before the rename", "mx", the_answer_comes_before_the_rename),
    Mutant("custody of a batch is said before the rename", "home", custody_is_said_before_the_rename(BATCH), "sent"),
    Mutant("a report is acknowledged before it is on disk", "mx", custody_is_said_before_the_rename(REPORT), ""),
    Mutant("the inbox's row comes before its name is synced", "home", the_row_comes_before_the_name, "commit"),
    Mutant("waiting files go before the batch is there", "mx", what_waits_is_removed_before_it_is_sealed),
    Mutant(
        "outcomes count as reported before the report is there",
        "home",
        outcomes_are_reported_before_the_report,
        "commit",
    ),
    Mutant("the outcome is recorded before the reply", "home", the_outcome_comes_before_the_reply, "given"),
    Mutant("a report is done before it is settled", "mx", reports_are_done_before_they_are_settled, ""),
    Mutant("a notice is handed over before it is owed", "mx", notices_are_handed_over_before_they_are_owed, "given"),
    Mutant("a notice that is owed is swept", "mx", owed_notices_are_swept, "given"),
    Mutant("an outcome that is known is taken again", "mx", outcomes_are_taken_twice, ""),
    Mutant("a number without a file gets no void", "mx", nobody_fills_gaps, "commit"),
    Mutant("the dot is not recorded before it is sent", "home", dots_are_not_recorded, "given"),
    Mutant("SEQ is taken from the directory", "mx", numbers_are_taken_from_the_directory, "", False),
    Mutant("the row of a sealed batch is dropped", "mx", dropped(Sent, "seal"), "", False),
    Mutant("the row of custody here is dropped", "home", dropped(Received, "custody"), "", False),
    Mutant("the row of custody there is dropped", "mx", dropped(Sent, "custody", []), "", False),
    Mutant("the row of an outcome is dropped", "home", dropped(Received, "outcomes", True), "", False),
    Mutant("the rows of a report are dropped", "mx", dropped(Sent, "settle"), "", False),
    Mutant("the row of a notice handed over is dropped", "mx", dropped(Owed, "done"), "", False),
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_the_harness_finds(mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    with new_world() as world:
        mutant.patch(monkeypatch, world)
        tried, cut, _, found = hunt(world, mutant.site, mutant.near)
        monkeypatch.undo()
        print(f"{mutant.name}: found after {tried} states: {found[:200]}")
        assert found, "not found"
        assert bool(cut) == mutant.cut_only, found

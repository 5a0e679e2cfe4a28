"""A name that is found after a kill may not be durable: what relies on it syncs it first, and then the power fails."""

import os
from collections.abc import Callable

import pytest

from batchmail.flow.incoming import Arrivals
from batchmail.flow.seal import Sealer
from batchmail.store import dropdir, durable
from batchmail.store.sent import Sent, SentFile
from tests.crash.journal import Journal
from tests.sites import Mailbox, Options, Pair, make_pair, make_site, messages

DAY_MS = 86_400_000


class Kill(BaseException):
    """The process is no more."""


class _Killed:
    """While it is entered, the process dies before the names in a directory are synced."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, place: str):
        self._monkeypatch, self._place = monkeypatch, place

    def __enter__(self) -> None:
        real = durable.sync_dir

        def sync_dir(path: str) -> None:
            if self._place in path:
                raise Kill
            real(path)

        self._monkeypatch.setattr(durable, "sync_dir", sync_dir)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        self._monkeypatch.undo()
        return kind is Kill


def always(journal: Journal, root: str, is_there: Callable[[], bool]) -> bool:
    """Whether something is there in every state that a power cut now may leave; and there are some."""
    states = 0
    for cut in journal.cuts(root, at=[len(journal.operations)]):
        for choice in cut.choices():
            cut.restore(choice)
            states += 1
            if not is_there():
                return False
    return states > 0


def batches(site: Mailbox) -> list[str]:
    return [name for name in site.outbox() if name.endswith(".batch")]


def seal(site: Mailbox) -> None:
    ledger = site.context.open_ledger()
    try:
        sealer = Sealer(site.context, ledger)
        sealer.recover()
        sealer.seal_batch("home.example", 1 << 30, 1 << 30)
    finally:
        ledger.close()


def test_a_batch_in_the_outbox(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    site = make_site(f"{tmp_path}/mx", "mx.example", "home")
    site.accept(*messages(2))
    with Journal(site.root) as journal:
        with _Killed(monkeypatch, "/outbox"):
            seal(site)
        seal(site)
        assert (len(batches(site)), site.waiting()) == (1, [])
    assert always(journal, site.root, lambda: bool(batches(site)))


def test_a_file_in_the_inbox(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = make_pair(tmp_path)
    pair.mx.accept(*messages(2))
    seal(pair.mx)
    home = pair.home
    (name,) = batches(pair.mx)
    home.context.open_ledger().close()
    with Journal(home.root) as journal:
        with _Killed(monkeypatch, "/inbox"), durable.Draft(home.spool.tmp) as draft:
            with open(f"{pair.mx.root}/out/home/outbox/{name}", "rb") as file:
                draft.write(file.read())
            draft.publish(f"{home.root}/in/mx/inbox/{name}")
        ledger = home.context.open_ledger()
        arrivals = Arrivals(home.context, ledger, lambda _: None)
        arrivals.recover()
        assert [have.up_to for have in arrivals.have()[0]] == [1]
        arrivals.close()
        ledger.close()
    assert always(journal, home.root, lambda: home.inbox() == [name])


@pytest.mark.parametrize(
    ("place", "act"),
    [
        ("/held", lambda sealer, file: sealer.reseal(file, "home.example", "no")),
        ("/waiting/", lambda sealer, file: sealer.unseal(file.number)),
    ],
)
def test_what_comes_out_of_a_batch(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, place: str, act: Callable[[Sealer, SentFile], None]
) -> None:
    site = make_site(f"{tmp_path}/mx", "mx.example", "home")
    site.accept(*messages(1))
    seal(site)

    def do() -> None:
        ledger = site.context.open_ledger()
        try:
            sealer = Sealer(site.context, ledger)
            sealer.recover()
            act(sealer, Sent(ledger).files("sealed")[0])
        finally:
            ledger.close()

    with Journal(site.root) as journal:
        with _Killed(monkeypatch, place):
            do()
        do()
        assert batches(site) == []
    assert always(journal, site.root, lambda: bool(batches(site) or site.waiting() or site.held()))


@pytest.mark.parametrize("kind", ["bsmtp", "maildir"])
def test_what_a_directory_was_given(tmp_path: object, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    drop = f"{tmp_path}/drop"
    for name in ("tmp", "new", "cur", "ledger", "lock"):
        os.makedirs(f"{drop}/{name}")
    given = dropdir.drop_bsmtp if kind == "bsmtp" else dropdir.drop_maildir
    place = drop if kind == "bsmtp" else f"{drop}/new"
    with Journal(drop) as journal:
        with _Killed(monkeypatch, place):
            given(drop, "X", [b"text"], lambda: None)
        given(drop, "X", [b"text"], lambda: None)
    assert always(journal, drop, lambda: any(name.startswith("X") for name in os.listdir(place)))


def test_what_is_in_a_batch_without_a_row_does_not_end_here(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the file and its row; then `batchmail run` after the lifetime, then a call."""
    pair: Pair = make_pair(tmp_path)
    assert pair.call(options=Options())[0].error is None
    pair.mx.accept(*messages(1))
    with monkeypatch.context() as patch:
        patch.setattr(Sent, "seal", lambda *_: (_ for _ in ()).throw(Kill))
        with pytest.raises(Kill):
            seal(pair.mx)
    for days in (31, 1):  # the clock leaps, and a day later it is believed
        pair.mx.clock.now_ms += days * DAY_MS
        pair.mx.run()
    is_told = any(b"Action: failed" in text for text in pair.mx.dropped().values())
    pair.call()
    assert is_told
    assert pair.home.dropped() == {}

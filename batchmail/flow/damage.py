"""Damage in the files of one peer: torn or changed files, strays, files and rows without each other.

Only looks, and reads every file; `flow.repair` mends where a `Repairer` is given.
A call that goes on meanwhile moves files: what is gone or new since it was
listed is no finding.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from typing import NamedTuple

from batchmail.core import numbered
from batchmail.core.errors import BatchmailError
from batchmail.core.names import is_id
from batchmail.core.numbered import BATCH, Number
from batchmail.flow.context import Context
from batchmail.flow.overview import numbers_in
from batchmail.flow.repair import Repairer
from batchmail.flow.transaction import check_text
from batchmail.store import batchfile, quarantine
from batchmail.store.boxes import Inbox, Outbox
from batchmail.store.notices import Notices
from batchmail.store.reader import Damaged
from batchmail.store.shelf import Shelf
from batchmail.store.spool import names_in, user_name
from batchmail.store.view import OpenBatch, View, open_view
from batchmail.store.waiting import Waiting, WaitingRoom, read_entry

Progress = Callable[[int], None]  # files read
Mend = Callable[[str, str], str]  # given a path and what is wrong there; says what was done

_SPOOL_FILE = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}\.[0-9]{1,15}\.bsmtp\Z")
_PARTIAL = re.compile(r"[0-9A-Z]{16}\.[0-9]{1,16}\.[a-z]{1,10}\.[0-9a-f]{64}\.[A-Za-z0-9.]{1,40}\Z")
_PIECE = 200


class Finding(NamedTuple):
    """What was looked at, and what is wrong with it; empty when nothing is."""

    subject: str
    problem: str = ""
    repaired: str = ""  # what was done about it


class Damage:
    """Looks through the files of one peer."""

    def __init__(self, context: Context, repairer: Repairer | None, progress: Progress):
        self._context, self._repairer, self._progress = context, repairer, progress
        self._outbox = Outbox(context.spool, context.peer.name)
        self._inbox = Inbox(context.spool, context.peer.name)
        self._count = 0

    def findings(self) -> Iterator[Finding]:
        """Only what is wrong, then one finding for the rest."""
        yield from self._waiting()
        view = open_view(self._context.spool, self._context.peer.name)
        if view is not None:
            with closing(view):
                yield from self._ledger(view)
                yield from self._numbered(view)
                yield from self._missing(view)
                yield from self._owed(view)
        yield from self._strays()
        yield Finding(f"files of {self._context.peer.name}: {self._count} read")

    def _counted(self) -> None:
        self._count += 1
        if self._count % _PIECE == 0:
            self._progress(self._count)

    def _waiting(self) -> Iterator[Finding]:
        room = WaitingRoom(self._context.spool, self._context.peer.name)
        for scan in (room.scan_held(), room.scan(), Shelf(self._context.spool, self._context.peer.name).ended()):
            for waiting in scan:
                self._counted()
                if problem := _waiting_problem(waiting):
                    mend = partial(self._repairer.waiting_file, waiting.id) if self._repairer else None
                    yield _finding(waiting.path, problem, "; its sender has to send it again", mend)

    def _ledger(self, view: View) -> Iterator[Finding]:
        if problem := view.damage():
            yield Finding(f"ledger of {self._context.peer.name}", problem)

    def _numbered(self, view: View) -> Iterator[Finding]:
        boxes: tuple[tuple[Outbox | Inbox, str], ...] = (
            (self._outbox, "; batchmail check --repair seals anew what is intact of it"),
            (self._inbox, f"; at {self._context.peer.name}, batchmail resend sends it again"),
        )
        for box, advice in boxes:
            for number in numbers_in(box):
                self._counted()
                problem = _numbered_problem(view, number, box.path(number))
                if problem:
                    yield _finding(
                        box.path(number), problem, "" if self._repairer else advice, self._mend_of(box, number)
                    )

    def _mend_of(self, box: Outbox | Inbox, number: Number) -> Mend | None:
        if self._repairer is None:
            return None
        mend = self._repairer.outbox_file if box is self._outbox else self._repairer.inbox_file
        return lambda _path, why: mend(number, why)

    def _missing(self, view: View) -> Iterator[Finding]:
        """Rows whose files are not there."""
        for one in view.open_batches():
            if self._outbox.octets(one.number) is None and one in view.open_batches():
                yield Finding(self._outbox.path(one.number), self._gone(one))
        for number in view.files_in_custody():
            if _size(self._inbox.path(number)) is None and number in view.files_in_custody():
                yield Finding(
                    self._inbox.path(number),
                    f"is missing; at {self._context.peer.name}, batchmail resend sends it again",
                )

    def _gone(self, batch: OpenBatch) -> str:
        """Of one that the far side has, the outcomes will come: only its text is lost here, as for notices."""
        peer = self._context.peer.name
        open_ones = f"of its transactions {batch.transactions} are not settled"
        place = quarantine.place_of(self._context.spool, self._outbox.path(batch.number))
        if place and batch.state == "custody":
            return f"was damaged and lies in {place}; {open_ones}: {peer} has them, and tells what becomes of them"
        where = f"was damaged and lies in {place}" if place else "is missing"
        give_up = "" if batch.state else ", or batchmail bounce ID gives them up, and the postmaster is told"
        return f"{where}, and {open_ones}; restore it{' from a backup' if place else ''}{give_up}"

    def _owed(self, view: View) -> Iterator[Finding]:
        """Notices: of one that is handed over meanwhile the file is gone, and the row says so."""
        notices = Notices(self._context.spool, self._context.peer.name)
        for identifier in view.owed_ids():
            self._counted()
            if (problem := notices.problem(identifier)) and identifier in view.owed_ids():
                mend = partial(self._mend_notice, self._repairer, identifier) if self._repairer else None
                yield _finding(notices.path(identifier), problem, "; --repair has the postmaster told instead", mend)

    @staticmethod
    def _mend_notice(repairer: Repairer, identifier: str, _path: str, why: str) -> str:
        return repairer.notice(identifier, why)

    def _strays(self) -> Iterator[Finding]:
        root, peer = self._context.spool.root, self._context.peer.name
        waiting = f"out/{peer}/waiting"
        for place, is_ours in (
            (waiting, _is_none),
            *((f"{waiting}/{priority}", _is_none) for priority in names_in(f"{root}/{waiting}")),
            (f"out/{peer}/held", _is_spool_file),
            (f"out/{peer}/ended", _is_spool_file),
            (f"out/{peer}/outbox", _is_numbered),
            (f"in/{peer}/inbox", _is_numbered),
            (f"in/{peer}/partial", _is_partial),
            (f"in/{peer}/notices", _is_notice),
            *((f"{waiting}/{bucket}", _is_spool_file) for bucket in _buckets(f"{root}/{waiting}")),
        ):
            for entry in _files(f"{root}/{place}"):
                if not is_ours(entry.name):
                    mend = self._repairer.set_aside if self._repairer else None
                    advice = ": batchmail check --repair moves it away"
                    yield _finding(entry.path, "does not belong there", advice, mend)


def _finding(path: str, problem: str, advice: str, mend: Mend | None) -> Finding:
    """What is wrong with a file, and mended; one that is another's is left, and the others are gone on with."""
    me = os.geteuid()
    try:
        owner = os.lstat(path).st_uid
    except FileNotFoundError:
        owner = me
    if owner != me:
        return Finding(path, f"{problem}; belongs to {user_name(owner)}: chown {user_name(me)} {path}, and check again")
    try:
        return Finding(path, problem + advice, mend(path, problem) if mend else "")
    except OSError as error:
        return Finding(path, f"{problem}{advice}; cannot be repaired: {error.strerror}")


def _is_none(_name: str) -> bool:
    return False


def _is_spool_file(name: str) -> bool:
    return _SPOOL_FILE.match(name) is not None


def _is_numbered(name: str) -> bool:
    return numbered.parse(name) is not None


def _is_notice(name: str) -> bool:
    return name.endswith(".bsmtp") and is_id(name.removesuffix(".bsmtp"))


def _is_partial(name: str) -> bool:
    return _PARTIAL.match(name) is not None


def _buckets(waiting: str) -> Iterator[str]:
    for priority in names_in(waiting):
        for bucket in names_in(f"{waiting}/{priority}"):
            yield f"{priority}/{bucket}"


def _size(path: str) -> int | None:
    try:
        return os.stat(path).st_size
    except FileNotFoundError:
        return None


def _files(path: str) -> list[os.DirEntry[str]]:
    """Regular files, and what is neither file nor directory."""
    try:
        with os.scandir(path) as entries:
            return [entry for entry in entries if not entry.is_dir(follow_symlinks=False)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _waiting_problem(waiting: Waiting) -> str:
    try:
        _, text = read_entry(waiting)
        check_text(text())
    except FileNotFoundError:  # sealed meanwhile
        return ""
    except Damaged as error:
        return f"is damaged: {error.what}"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except BatchmailError as error:
        return str(error)
    return ""


def _numbered_problem(view: View, number: Number, path: str) -> str:
    try:
        identity = batchfile.check_batch(path)[2] if number.kind == BATCH else batchfile.unpack(path)[1]
    except FileNotFoundError:  # settled meanwhile
        return ""
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    except BatchmailError as error:
        return str(error)
    known = view.identity(number)
    return (
        "" if known in ("", identity) else "not the file that the ledger knows under its number: its identity differs"
    )

"""How transactions come to wait for a peer: a file each, below a directory for priority and time of arrival.

PRIORITY is two digits, 00 the most urgent; BUCKET the first characters of the
ID, about 33 seconds of arrivals.  Several transactions of one input are a
bucket of their own, renamed into place at once.  `offered` remembers for a
day or two what an MTA handed over under its queue id.  The states of a
transaction are told in `store.waiting`, which finds what is written here.
"""

import os

from batchmail.core import entry_lines
from batchmail.core.envelope import Client, Envelope, find
from batchmail.core.names import next_id
from batchmail.store.durable import Directories, Draft, make_dir, mark, publish_all, retire, sync_dir, sync_file
from batchmail.store.group import Put, levels_above, put_group
from batchmail.store.spool import Spool
from batchmail.store.writer import Writer

BUCKET_LENGTH = 7
_HELD_OCTETS = 1 << 18  # of a draft in memory
DAY_MS = 86_400_000


def priority_dir(priority: int) -> str:
    """00 for priority 9 to 18 for -9, so that names sort with the most urgent first."""
    return f"{9 - priority:02d}"


class Arrivals:
    """What comes to wait for one peer."""

    def __init__(self, spool: Spool, peer: str):
        self._spool, self.peer = spool, peer
        self._out = f"{spool.root}/out/{peer}"
        self._root = f"{self._out}/waiting"

    def write(
        self,
        identifier: str,
        now_ms: int,
        priority: int,
        queue_id: str,
        client: Client,
        envelope: Envelope,
        held_octets: int = _HELD_OCTETS,
    ) -> tuple[Draft, Writer]:
        """Begin a draft; where it is to be delivered by a time, its mark is durable then."""
        if find(envelope.parameters, b"BY"):
            from batchmail.store.deadlines import Deadlines, deadline_of  # seldom

            Deadlines(self._spool, self.peer).mark(identifier, deadline_of(envelope, now_ms))
        head = entry_lines.head(now_ms, priority, queue_id, client)
        draft = Draft(self._spool.tmp, held_octets=held_octets)
        try:
            return draft, Writer(draft, identifier, head, envelope)
        except BaseException:
            draft.discard()
            raise

    def put(self, draft: Draft, name: str, priority: int, offered: str, now_ms: int) -> str:
        """Accept a finished draft: when this returns it is on stable storage.  Returns its ID.

        `offered` (hex digits, or empty) names what the MTA offered: the same once
        more gets the first one's name, so a crash or a lost exit status costs no
        duplicate; its draft is left to the caller.  A crash before the link: nothing was accepted.
        """
        directories = Directories()
        try:
            (result,) = put_group([[Put(self, draft, name, priority, offered, now_ms)]], directories)
        finally:
            directories.close()
        if isinstance(result, OSError):
            raise result
        draft.leave()
        return result[0]

    def put_all(self, drafts: list[tuple[Draft, str]], priority: int, offered: str, now_ms: int) -> list[str]:
        """Accept several finished drafts at once or not at all, as `put`.  Returns their IDs, which follow each other.

        The first one's ID decides the others', so that the same offer once more gets the same IDs.
        """
        first = drafts[0][1]
        target = f"{priority_dir(priority)}/{first[:BUCKET_LENGTH]}.{first[:26]}"
        if offered:
            target, day = self._remember(offered, target, now_ms)
            if day:
                sync_dir(os.path.dirname(day))
                sync_dir(day)
        identifiers = [next_id(target[-26:], step) for step in range(len(drafts))]
        members = [
            (draft, identifier + name[26:])
            for (draft, name), identifier in zip(drafts, identifiers, strict=True)
            if not (offered and self.is_held(identifier + name[26:]))
        ]
        bucket = f"{self._root}/{target}"
        above = os.path.dirname(bucket)
        make_dir(above)
        for _ in range(1, levels_above(bucket)):
            sync_dir(self._root)
        try:
            publish_all(members, bucket)
        except FileExistsError:  # the same offer again, and the first one still waits
            sync_dir(above)
        return identifiers

    def choose(self, put: Put) -> tuple[str, str]:
        """Where a draft is to go, and the directory of the mark of what is offered, if it is.

        What was offered before goes where it went then.
        """
        target = f"{priority_dir(put.priority)}/{put.name[:BUCKET_LENGTH]}/{put.name}"
        day = ""
        if put.offered:
            target, day = self._remember(put.offered, target, put.now_ms)
        return f"{self._root}/{target}", day

    def link(self, draft: Draft, path: str) -> bool:
        """Give a draft its final name, in its bucket; False where the same was accepted before, and is synced now.

        A file that a power cut has torn gives way, for nobody was told yes; nor is he by a crash behind that.  One that
        has gone with a batch just then is there again, and a leftover.
        """
        for _ in range(3):
            try:
                draft.link(path)
                return True
            except FileNotFoundError:  # no bucket yet, or it was emptied and removed
                _make_bucket(os.path.dirname(path))
            except FileExistsError:  # the same offer again, and the first one still waits
                try:
                    if _is_whole(path):
                        sync_file(path)
                        return False
                    retire(path)
                except FileNotFoundError:
                    pass
        draft.link(path)
        return True

    def is_held(self, name: str) -> bool:
        """Whether an operator has set aside what is offered once more; a torn file gives way, as above."""
        path = f"{self._out}/held/{name}"
        if not os.path.exists(path):
            return False
        if not _is_whole(path):
            retire(path)
            return False
        return True

    def _remember(self, offered: str, target: str, now_ms: int) -> tuple[str, str]:
        """Where the first of what is offered went or is to go, and the directory of its mark.

        Whoever made the mark may not have synced it.
        """
        today = f"{self._out}/offered/{now_ms // DAY_MS}"
        for day in (f"{self._out}/offered/{now_ms // DAY_MS - 1}", today):
            try:
                return os.readlink(f"{day}/{offered}"), day
            except FileNotFoundError:
                pass
        make_dir(today)
        try:
            mark(target, f"{today}/{offered}")
        except FileExistsError:
            return os.readlink(f"{today}/{offered}"), today
        return target, today


def _is_whole(path: str) -> bool:
    """Whether a transaction is as it was written."""
    from batchmail.store import reader  # seldom

    return reader.is_whole(path)


def _make_bucket(bucket: str) -> None:
    make_dir(os.path.dirname(bucket))
    try:
        os.mkdir(bucket, 0o700)
    except FileExistsError:
        pass

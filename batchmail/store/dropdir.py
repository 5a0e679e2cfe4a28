"""Transactions as files for others to fetch: a directory of BSMTP files, or a maildir.

The name is made from the transaction's ID alone, so a second delivery finds
the first and leaves it alone; that is what makes it happen once.

    BSMTP  tmp/X  ID.bsmtp                       maildir  tmp/X  new/NAME or cur/NAME:2,…
           +      -          being written, or dropped after a crash: the next delivery writes anew
           ?      +          delivered; a crash may leave tmp/X, which is swept after a day and a half

Whoever reads a BSMTP directory takes `*.bsmtp` and removes what it has taken;
a transaction given again after that is written again.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator

from batchmail.core.envelope import Envelope, format_mail, format_rcpt
from batchmail.core.lines import Stuffer, to_lf
from batchmail.core.names import ALPHABET
from batchmail.store import durable

_ABANDONED_S = 36 * 3600  # as maildir(5) has it
_COMMON_OCTETS = 64 << 10  # most messages are smaller


def drop_bsmtp(directory: str, transaction_id: str, pieces: Iterable[bytes], before: Callable[[], None]) -> str:
    """Write ID.bsmtp unless it is there; its path.  `before` is called when only the name lacks.  Raises OSError."""
    durable.make_dir(f"{directory}/tmp")
    final = f"{directory}/{transaction_id}.bsmtp"
    if os.path.exists(final):
        durable.sync_dir(directory)  # a crash may have come before that
    else:
        _drop(f"{directory}/tmp", final, pieces, before)
    return final


def drop_maildir(directory: str, name: str, pieces: Iterable[bytes], before: Callable[[], None]) -> str:
    """Write `name` into the maildir unless it is there, seen or not; as `drop_bsmtp`."""
    for part in ("tmp", "new", "cur"):
        durable.make_dir(f"{directory}/{part}")
    final = f"{directory}/new/{name}"
    if os.path.exists(final):
        durable.sync_dir(f"{directory}/new")
    elif not _was_seen(f"{directory}/cur", name):
        _drop(f"{directory}/tmp", final, pieces, before)
    return final


def has_room(directory: str) -> bool:
    """Whether a message of common size can still be written."""
    try:
        with durable.Draft(f"{directory}/tmp") as draft:
            draft.write(bytes(_COMMON_OCTETS))
            draft.sync()
    except OSError:
        return False
    return True


def sweep(directory: str, now_ms: int) -> None:
    """Remove drafts that a crash left behind, as far as possible."""
    with contextlib.suppress(OSError), os.scandir(f"{directory}/tmp") as entries:
        for entry in entries:
            if now_ms / 1000 - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED_S:
                durable.retire(entry.path)


def bsmtp_text(me: str, envelope: Envelope, content: Iterable[bytes]) -> Iterator[bytes]:
    """A transaction as RFC 2442 text."""
    commands = [b"EHLO " + me.encode(), format_mail(envelope.sender, envelope.parameters)]
    commands += [format_rcpt(recipient) for recipient in envelope.recipients]
    yield b"".join(command + b"\r\n" for command in (*commands, b"DATA"))
    stuffer = Stuffer()
    for piece in content:
        yield stuffer.feed(piece)
    yield stuffer.end() + b"QUIT\r\n"


def maildir_name(transaction_id: str, me: str) -> str:
    """A name as maildir readers know it: seconds (those the ID begins with), something unique, host."""
    made_ms = 0
    for character in transaction_id[:10]:
        made_ms = made_ms * 32 + ALPHABET.index(character)
    return f"{made_ms // 1000}.{transaction_id}.{me}"


def maildir_text(envelope: Envelope, content: Iterable[bytes]) -> Iterator[bytes]:
    """A message with its envelope above it, with LF line ends as maildirs have them."""
    lines = [b"Return-Path: <%b>\n" % envelope.sender]
    lines += [b"X-Envelope-To: <%b>\n" % recipient.address for recipient in envelope.recipients]
    yield b"".join(lines)
    yield from to_lf(content)


def _drop(tmp_dir: str, final: str, pieces: Iterable[bytes], before: Callable[[], None]) -> None:
    with durable.Draft(tmp_dir) as draft:
        for piece in pieces:
            draft.write(piece)
        draft.sync()
        before()
        draft.publish_or_find(final)


def _was_seen(cur: str, name: str) -> bool:
    """A reader moves a message to `cur` and adds its flags behind a colon, some a size behind a comma."""
    with os.scandir(cur) as entries:
        return any(entry.name.startswith(name) and entry.name[len(name) :][:1] in ("", ":", ",") for entry in entries)

"""The mail log: facility mail, ident `batchmail/STEP`, the transaction's ID first, then `key=value`.

One function for each kind of event.  What peers, senders and servers chose is
escaped to printable ASCII and bounded, so that no value can look like another.
"""

import syslog

from batchmail.wire.doorlog import escape, show, write
from batchmail.wire.doorlog import open_log as open_log


def held(identifier: str, peer: str, reason: str) -> None:
    """A transaction was set aside for an operator."""
    write(syslog.LOG_WARNING, f"{identifier}: held, peer={peer}", reason=reason)


def quarantined(identifier: str, peer: str, path: str, reason: str) -> None:
    """A transaction whose file is damaged was moved away: it goes nowhere."""
    write(syslog.LOG_ERR, f"{identifier}: quarantined, peer={peer}, path={escape(path)}", reason=reason)


def sealed(file_name: str, peer: str, transactions: int, text_octets: int, file_octets: int) -> None:
    """A batch is in the outbox."""
    write(
        syslog.LOG_INFO,
        f"{file_name}: sealed, peer={peer}, count={transactions}, text={text_octets}, file={file_octets}",
    )


def in_batch(identifier: str, peer: str, file_name: str) -> None:
    """A transaction travels in this batch."""
    write(syslog.LOG_INFO, f"{identifier}: sealed, peer={peer}, batch={file_name}")


def custody(file_name: str, peer: str, octets: int) -> None:
    """A numbered file of the peer is on stable storage here."""
    write(syslog.LOG_INFO, f"{file_name}: custody, peer={peer}, octets={octets}")


def refused_file(file_name: str, peer: str, for_good: bool, reason: str) -> None:
    """A numbered file was not taken, by us or by the peer."""
    write(syslog.LOG_WARNING, f"{file_name}: refused, peer={peer}, for-good={int(for_good)}", reason=reason)


def outcome(identifier: str, peer: str, address: bytes, action: str, status: str, text: bytes, mta: bytes) -> None:
    """What the target said of a recipient here, or, at the origin, what the peer reported."""
    write(
        syslog.LOG_INFO,
        f"{identifier}: {action}, peer={peer}, to={show(address)}, dsn={status}",
        mta=mta,
        reply=text,
    )


def doubtful(identifier: str, peer: str) -> None:
    """The reply to a final dot was lost before: it is given again and may come twice (RFC 1047)."""
    write(syslog.LOG_WARNING, f"{identifier}: in doubt, given again, peer={peer}")


def target_down(peer: str, reason: str) -> None:
    """The target takes nothing now."""
    write(syslog.LOG_WARNING, f"target down, peer={peer}", reason=reason)


def ignored(file_name: str, peer: str, outcomes: int) -> None:
    """A report holds outcomes that are known already, or of transactions that were never sent to this peer."""
    write(syslog.LOG_INFO, f"{file_name}: outcomes ignored, peer={peer}, count={outcomes}")


def notice(identifier: str, state: str, transaction: str, recipient: bytes, reason: bytes = b"") -> None:
    """A notification for a transaction was written (owed), handed over (sent) or refused."""
    level = syslog.LOG_WARNING if state == "refused" else syslog.LOG_INFO  # nobody else hears of it
    write(level, f"{identifier}: notice {state}, for={transaction}, to={show(recipient)}", reason=reason)


def untold(identifier: str, peer: str, action: str, text: str) -> None:
    """An outcome of a transaction whose text is gone: its sender is told nothing."""
    write(syslog.LOG_WARNING, f"{identifier}: {action}, peer={peer}, sender unknown", reason=text)


def settled(file_name: str, peer: str) -> None:
    """Every outcome of a batch of ours is known and every notice is with an MTA."""
    write(syslog.LOG_INFO, f"{file_name}: settled, peer={peer}")


def moved(identifier: str, peer: str, verb: str, to_peer: str, new_id: str) -> None:
    """What the far side gave back is written anew."""
    write(syslog.LOG_NOTICE, f"{identifier}: {verb}, peer={peer}, to-peer={to_peer or peer}, new-id={new_id}")


def planned(identifier: str, peer: str, verb: str, result: str) -> None:
    """What was decided about a transaction is done, or cannot be any more."""
    write(syslog.LOG_NOTICE, f"{identifier}: {verb}, peer={peer}", reason=result)


def request(identifier: str, peer: str, kind: str, verdict: str, text: str) -> None:
    """A request was carried out here, or ours was answered there."""
    write(syslog.LOG_INFO, f"{identifier}: request {escape(kind)}, peer={peer}, verdict={escape(verdict)}", reason=text)


def call_ended(peer: str, role: str, reason: str, sent_octets: int, received_octets: int, seconds: float) -> None:
    """A call is over."""
    write(
        syslog.LOG_INFO,
        f"call ended, peer={peer}, role={role}, sent={sent_octets}, received={received_octets}, seconds={seconds:.1f}",
        reason=reason,
    )


def trouble(peer: str, text: str) -> None:
    """Something that an operator should look at."""
    write(syslog.LOG_ERR, f"trouble, peer={peer}", reason=text)

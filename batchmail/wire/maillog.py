"""The mail log: facility mail, ident `batchmail/STEP`, the transaction's ID first, then `key=value`.

One function for each kind of event.  What peers, senders and servers chose is
escaped to printable ASCII and bounded, so that no value can look like another.
The pipe door loads this once per message: it imports next to nothing.
"""

import syslog

from batchmail.core.envelope import Client

_MAX_VALUE = 300


def open_log(step: str) -> None:
    """Name the step whose lines follow."""
    syslog.openlog(f"batchmail/{step}", syslog.LOG_PID, syslog.LOG_MAIL)


def escape(value: bytes | str, unsafe: bytes = b"") -> str:
    """Printable ASCII on one line: other octets, backslashes and `unsafe` ones as \\xHH."""
    octets = value[:_MAX_VALUE].encode("utf-8", "surrogateescape") if isinstance(value, str) else value[:_MAX_VALUE]
    return "".join(chr(o) if 32 <= o < 127 and o != 92 and o not in unsafe else f"\\x{o:02x}" for o in octets)


def accepted(
    identifier: str, peer: str, sender: bytes, recipients: int, size_octets: int, queue_id: str, client: Client
) -> None:
    """A transaction is in the spool."""
    _write(
        syslog.LOG_INFO,
        f"{identifier}: accepted, peer={peer}, from={_address(sender)}, nrcpt={recipients}, size={size_octets}",
        queue_id=queue_id,
        client=client.name,
        address=client.address,
    )


def refused(peer: str, queue_id: str, status: str, text: str) -> None:
    """A door said no, for now (4.x.x) or for good (5.x.x)."""
    level = syslog.LOG_WARNING if status.startswith("4") else syslog.LOG_NOTICE
    _write(level, f"refused, peer={_word(peer)}, dsn={status}", queue_id=queue_id, reason=text)


def line_ends(identifier: str, bare_cr: int, bare_lf: int) -> None:
    """A message's content was changed: carriage returns or line feeds that stood alone became line ends."""
    _write(syslog.LOG_NOTICE, f"{identifier}: line ends normalized, bare_cr={bare_cr}, bare_lf={bare_lf}")


def not_carried(identifier: str, words: tuple[bytes, ...]) -> None:
    """Parameters that came beside a message and cannot be used."""
    _write(syslog.LOG_NOTICE, f"{identifier}: not carried", parameters=b" ".join(words))


def _write(level: int, text: str, **more: bytes | str) -> None:
    """A line; of `more`, which is escaped, the empty values are left out."""
    words = [f"{key.replace('_', '-')}={_word(value)}" for key, value in more.items() if value]
    syslog.syslog(level, ", ".join([text, *words]))


def _word(value: bytes | str) -> str:
    """A value; in quotation marks where it holds what ends one."""
    text = escape(value, unsafe=b'"')
    return f'"{text}"' if set(text) & set(" ,=") else text


def _address(address: bytes) -> str:
    return f"<{escape(address, unsafe=b' <>,')}>"


def held(identifier: str, peer: str, reason: str) -> None:
    """A transaction was set aside for an operator."""
    _write(syslog.LOG_WARNING, f"{identifier}: held, peer={peer}", reason=reason)


def sealed(file_name: str, peer: str, transactions: int, text_octets: int, file_octets: int) -> None:
    """A batch is in the outbox."""
    _write(
        syslog.LOG_INFO,
        f"{file_name}: sealed, peer={peer}, count={transactions}, text={text_octets}, file={file_octets}",
    )


def in_batch(identifier: str, peer: str, file_name: str) -> None:
    """A transaction travels in this batch."""
    _write(syslog.LOG_INFO, f"{identifier}: sealed, peer={peer}, batch={file_name}")


def custody(file_name: str, peer: str, octets: int) -> None:
    """A numbered file of the peer is on stable storage here."""
    _write(syslog.LOG_INFO, f"{file_name}: custody, peer={peer}, octets={octets}")


def refused_file(file_name: str, peer: str, for_good: bool, reason: str) -> None:
    """A numbered file was not taken, by us or by the peer."""
    _write(syslog.LOG_WARNING, f"{file_name}: refused, peer={peer}, for-good={int(for_good)}", reason=reason)


def outcome(identifier: str, peer: str, address: bytes, action: str, status: str, text: bytes, mta: bytes) -> None:
    """What the target said of a recipient here, or, at the origin, what the peer reported."""
    _write(
        syslog.LOG_INFO,
        f"{identifier}: {action}, peer={peer}, to={_address(address)}, dsn={status}",
        mta=mta,
        reply=text,
    )


def doubtful(identifier: str, peer: str) -> None:
    """The reply to a final dot was lost before: it is given again and may come twice (RFC 1047)."""
    _write(syslog.LOG_WARNING, f"{identifier}: in doubt, given again, peer={peer}")


def target_down(peer: str, reason: str) -> None:
    """The target takes nothing now."""
    _write(syslog.LOG_WARNING, f"target down, peer={peer}", reason=reason)


def ignored(file_name: str, peer: str, outcomes: int) -> None:
    """A report holds outcomes that are known already, or of transactions that were never sent to this peer."""
    _write(syslog.LOG_INFO, f"{file_name}: outcomes ignored, peer={peer}, count={outcomes}")


def notice(identifier: str, state: str, transaction: str, recipient: bytes, reason: bytes = b"") -> None:
    """A notification for a transaction was written (owed), handed over (sent) or refused."""
    level = syslog.LOG_WARNING if state == "refused" else syslog.LOG_INFO  # nobody else hears of it
    _write(level, f"{identifier}: notice {state}, for={transaction}, to={_address(recipient)}", reason=reason)


def settled(file_name: str, peer: str) -> None:
    """Every outcome of a batch of ours is known and every notice is with an MTA."""
    _write(syslog.LOG_INFO, f"{file_name}: settled, peer={peer}")


def call_ended(peer: str, role: str, reason: str, sent_octets: int, received_octets: int, seconds: float) -> None:
    """A call is over."""
    _write(
        syslog.LOG_INFO,
        f"call ended, peer={peer}, role={role}, sent={sent_octets}, received={received_octets}, seconds={seconds:.1f}",
        reason=reason,
    )


def trouble(peer: str, text: str) -> None:
    """Something that an operator should look at."""
    _write(syslog.LOG_ERR, f"trouble, peer={peer}", reason=text)

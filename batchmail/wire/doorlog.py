"""What the doors write to the mail log, and how a line of it is made: `wire.maillog` says more, and has the rest.

The pipe door loads this once per message.
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
    if octets.isascii() and (text := octets.decode()).isprintable() and not any(o in octets for o in b"\\" + unsafe):
        return text  # as nearly all are
    return "".join(chr(o) if 32 <= o < 127 and o != 92 and o not in unsafe else f"\\x{o:02x}" for o in octets)


def accepted(
    identifier: str, peer: str, sender: bytes, recipients: int, size_octets: int, queue_id: str, client: Client
) -> None:
    """A transaction is in the spool."""
    write(
        syslog.LOG_INFO,
        f"{identifier}: accepted, peer={peer}, from={show(sender)}, nrcpt={recipients}, size={size_octets}",
        queue_id=queue_id,
        client=client.name,
        address=client.address,
    )


def refused(peer: str, queue_id: str, status: str, text: str) -> None:
    """A door said no, for now (4.x.x) or for good (5.x.x)."""
    level = syslog.LOG_WARNING if status.startswith("4") else syslog.LOG_NOTICE
    write(level, f"refused, peer={word(peer)}, dsn={status}", queue_id=queue_id, reason=text)


def line_ends(identifier: str, bare_cr: int, bare_lf: int) -> None:
    """A message's content was changed: carriage returns or line feeds that stood alone became line ends."""
    write(syslog.LOG_NOTICE, f"{identifier}: line ends normalized, bare_cr={bare_cr}, bare_lf={bare_lf}")


def not_carried(identifier: str, words: tuple[bytes, ...]) -> None:
    """Parameters that came beside a message and cannot be used."""
    write(syslog.LOG_NOTICE, f"{identifier}: not carried", parameters=b" ".join(words))


def write(level: int, text: str, **more: bytes | str) -> None:
    """A line; of `more`, which is escaped, the empty values are left out."""
    words = [f"{key.replace('_', '-')}={word(value)}" for key, value in more.items() if value]
    syslog.syslog(level, ", ".join([text, *words]))


def word(value: bytes | str) -> str:
    """A value; in quotation marks where it holds what ends one."""
    text = escape(value, unsafe=b'"')
    return f'"{text}"' if set(text) & set(" ,=") else text


def show(address: bytes) -> str:
    return f"<{escape(address, unsafe=b' <>,')}>"

"""The path of a MAIL or RCPT command: what stands in it before the parameters (RFC 5321 §4.1.2, RFC 6531 §3).

The pipe door loads this to check the addresses it is given; the parameters are read in `core.commands`.
"""

MAX_COMMAND_OCTETS = 4096  # of a line with its end that a door takes; RFC 3461 §5.4 asks for 1036
# Of one as it is kept: doors complete the parameters, and a notice is addressed to whoever was accepted as a sender.
MAX_KEPT_OCTETS = 2 * MAX_COMMAND_OCTETS

# Of a path, outside of quoted strings; octets above 127 are left to SMTPUTF8 and the target.
_OF_PATH = bytes(range(33, 127)).translate(None, b'"<>') + bytes(range(128, 256))
_QUOTE, _BACKSLASH, _CLOSING = b'"\\>'


class CommandError(Exception):
    """A MAIL or RCPT command that cannot be taken: reply code, enhanced status and a text for the writer."""

    def __init__(self, code: int, status: str, text: str):
        super().__init__(text)
        self.code, self.status, self.text = code, status, text


def split_command(line: bytes, verb: bytes) -> tuple[bytes, bytes]:
    """Address and parameters, not yet parsed, of a MAIL or RCPT command.  Raises CommandError.

    The address may be written into such a command and is read as the same again.
    """
    if len(line) > MAX_KEPT_OCTETS:
        raise CommandError(500, "5.5.2", f"{verb.decode()} command longer than {MAX_KEPT_OCTETS} octets")
    head, _, rest = line.partition(b":")
    if head.upper().split() != [verb, b"FROM" if verb == b"MAIL" else b"TO"]:
        raise CommandError(501, "5.5.4", f"not a {verb.decode()} command: {show(line)}")
    rest = rest.lstrip(b" ")  # `FROM: <x>` is tolerated on reading
    end = _end_of_path(rest)
    address = _without_route(rest[1:end]) if end >= 0 else None
    if address is None:
        raise CommandError(501, "5.1.7" if verb == b"MAIL" else "5.1.3", f"malformed address in {show(line)}")
    tail = rest[end + 1 :]
    if tail and not tail.startswith(b" "):
        raise CommandError(501, "5.5.4", f"text after the address in {show(line)}")
    return address, tail.strip(b" ")


def check_address(address: bytes) -> bytes:
    """The address itself, when it can stand between angle brackets.  Raises CommandError."""
    line = b"RCPT TO:<" + address + b">"
    parsed, rest = split_command(line, b"RCPT")
    if not address or rest or parsed != address or len(line) > MAX_COMMAND_OCTETS:
        raise CommandError(501, "5.1.3", f"malformed address {show(address)}")
    return address


def show(octets: bytes) -> str:
    """For a reply or the log: one printable line, whatever the writer sent."""
    return "".join(chr(octet) if 32 <= octet < 127 else f"\\x{octet:02x}" for octet in octets[:200])


def _without_route(address: bytes) -> bytes | None:
    """RFC 5321 App. C: a source route is accepted and ignored.  None where no mailbox is left, or it begins as one."""
    if not address.startswith(b"@"):
        return address
    _, _, mailbox = address.partition(b":")
    return mailbox if mailbox and not mailbox.startswith(b"@") else None


def _end_of_path(text: bytes) -> int:
    """Where the bracket stands that closes the one which `text` begins with; -1 where it does not begin with a path."""
    if not text.startswith(b"<"):
        return -1
    end = text.find(b">")
    if b'"' in text[:end]:
        return _end_of_quoted_path(text)
    return -1 if text[1:end].translate(None, _OF_PATH) else end


def _end_of_quoted_path(text: bytes) -> int:
    """The same where quoted strings may hold blanks and brackets."""
    quoted = escaped = False
    for position in range(1, len(text)):
        octet = text[position]
        if octet < 32 or octet == 127 or (escaped and octet > 127):
            return -1
        if escaped:
            escaped = False
        elif octet == _QUOTE:
            quoted = not quoted
        elif quoted:
            escaped = octet == _BACKSLASH
        elif octet == _CLOSING:
            return position
        elif octet not in _OF_PATH:
            return -1
    return -1

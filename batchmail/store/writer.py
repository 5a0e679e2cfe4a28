"""Writing one transaction as a spool file: entry, MAIL and RCPT, content, final dot, and the entry's end.

The file is a draft until `store.waiting` accepts it.
"""

from batchmail.core import entry_lines
from batchmail.core.digest import sha256
from batchmail.core.envelope import Envelope, format_mail, format_rcpt
from batchmail.core.lines import Stuffer
from batchmail.store.durable import Draft


class Writer:
    """Writes one transaction as a draft: envelope, then content, then its end."""

    def __init__(self, draft: Draft, identifier: str, head: bytes, envelope: Envelope):
        self._id, self._draft = identifier, draft
        self._stuffer = Stuffer()
        self._digest = sha256()
        self._size_octets = self._text_octets = 0
        self._bits = 7
        self._recipients = len(envelope.recipients)
        draft.write(head)
        lines = [
            format_mail(envelope.sender, envelope.parameters),
            *map(format_rcpt, envelope.recipients),
            b"DATA",
            b"",
        ]
        self._write(b"\r\n".join(lines))

    def _write(self, text: bytes) -> None:
        self._digest.update(text)
        self._text_octets += len(text)
        self._draft.write(text)

    def content(self, octets: bytes) -> None:
        """A piece of CRLF content, not stuffed."""
        self._size_octets += len(octets)
        if not octets.isascii():
            self._bits = 8
        self._write(self._stuffer.feed(octets))

    def end(self) -> tuple[str, str]:
        """Finish the draft: its file name, and the digest of its text."""
        closing = self._stuffer.end()
        self._size_octets += len(closing) - len(b".\r\n")  # the line end that the content lacked
        self._write(closing)
        digest = self._digest.hexdigest()
        self._draft.write(entry_lines.tail(self._size_octets, self._text_octets, self._bits, self._recipients, digest))
        return f"{self._id}.{self._text_octets}.bsmtp", digest

"""The content of a transaction on its way in, and what it and the addresses say of the envelope.

Content is held in memory up to a bound and in a draft beyond it, because the MAIL command above it in the
spool file depends on what it holds (RFC 6152: BODY=8BITMIME).  The pipe door starts once per message and loads this.
"""

from batchmail.core.digest import sha256
from batchmail.core.envelope import Envelope, Parameter, find, format_mail, format_rcpt, without
from batchmail.core.errors import BadAddress, BadContent, TooLarge
from batchmail.core.lines import CRLF, Normalizer
from batchmail.core.value import Iterator
from batchmail.store.durable import Draft
from batchmail.store.room import check_room
from batchmail.store.spool import Door, Spool

MAX_HELD_OCTETS = 1 << 18  # of content in memory


class Body:
    """The content of a transaction while it comes in: checked, with CRLF line ends, not stuffed."""

    def __init__(self, spool: Spool, door: Door, eol: bytes, max_held_octets: int = MAX_HELD_OCTETS):
        self._spool, self._door = spool, door
        self._max_held_octets = max_held_octets
        self._crlf = eol == CRLF  # else a line feed is the line end
        self._normalizer = Normalizer()
        self._memory: list[bytes] = []
        self._draft: Draft | None = None
        self._last = CRLF
        self.size_octets = 0
        self.ascii = True

    def add(self, octets: bytes) -> None:
        if b"\0" in octets:
            raise BadContent("the message holds a NUL octet, which mail cannot carry")
        self._hold(self._normalizer.feed(octets))

    def end(self) -> None:
        self._hold(self._normalizer.end())
        if self._last != CRLF:
            self._hold(CRLF)  # RFC 5321 §4.1.1.4: a last line without its end gets one
        if self._door.odd_octets == "refuse" and (self.bare_cr or self.bare_lf):
            raise BadContent(
                f"the message holds carriage returns ({self.bare_cr}) or line feeds ({self.bare_lf}) that stand alone"
            )

    @property
    def bare_cr(self) -> int:
        return self._normalizer.bare_cr

    @property
    def bare_lf(self) -> int:
        return self._normalizer.bare_lf if self._crlf else 0

    def pieces(self) -> Iterator[bytes]:
        if self._draft is not None:
            yield from self._draft.read_back()
        yield from self._memory

    def top(self, octets: int) -> bytes:
        """Its first octets."""
        found = b""
        for piece in self.pieces():
            found += piece[:octets]
            if len(found) >= octets:
                break
        return found[:octets]

    def discard(self) -> None:
        if self._draft is not None:
            self._draft.discard()

    def _hold(self, octets: bytes) -> None:
        if not octets:
            return
        self.size_octets += len(octets)
        self.ascii = self.ascii and octets.isascii()
        self._last = (self._last + octets)[-2:]
        if self.size_octets > self._door.max_message_octets:
            raise TooLarge(
                f"the message is larger than {self._door.peer} takes ({self._door.max_message_octets} octets)"
            )
        self._memory.append(octets)
        if self._draft is not None or self.size_octets > self._max_held_octets:
            self._spill()

    def _spill(self) -> None:
        check_room(self._spool.root, self._door.reserve_octets)
        if self._draft is None:
            self._draft = Draft(self._spool.tmp)
        for octets in self._memory:
            self._draft.write(octets)
        self._memory.clear()


def identity_of(envelope: Envelope, body: Body, digest: str) -> str:
    """What tells a transaction from others under one queue id: the digest of its text, where it has no BY.

    BY's seconds are counted down by who offers it again (RFC 2852 §4), so only how many digits they have counts: the
    second one's file has the first one's name, in which the length of its text stands.
    """
    by = find(envelope.parameters, b"BY")
    if by is None:
        return digest
    seconds, _, mode = (by.value or b"").partition(b";")
    anew = (*without(envelope.parameters, b"BY"), Parameter(by.name, b"0" * len(seconds) + mode.upper()))
    lines = [format_mail(envelope.sender, anew), *map(format_rcpt, envelope.recipients), b""]
    identity = sha256(b"\n".join(lines))
    for octets in body.pieces():
        identity.update(octets)
    return str(identity.hexdigest())


def imply(envelope: Envelope, is_ascii: bool) -> Envelope:
    """The envelope with what addresses and content say by themselves, where no parameter does.  Raises BadAddress."""
    parameters = envelope.parameters
    if not is_ascii and not find(parameters, b"BODY"):
        parameters += (Parameter(b"BODY", b"8BITMIME"),)
    addresses = [envelope.sender, *(recipient.address for recipient in envelope.recipients)]
    if not all(map(bytes.isascii, addresses)):
        _check_utf8(addresses)
        if not find(parameters, b"SMTPUTF8"):
            parameters += (Parameter(b"SMTPUTF8", None),)
    return envelope if parameters is envelope.parameters else envelope._replace(parameters=parameters)


def _check_utf8(addresses: list[bytes]) -> None:
    """RFC 6531 §3.3: octets above 127 are UTF-8, or no server takes them."""
    for address in addresses:
        try:
            address.decode()
        except UnicodeDecodeError:
            shown = address.decode("utf-8", "surrogateescape")
            raise BadAddress(f"the address {shown} is neither ASCII nor UTF-8") from None


def priority_of(envelope: Envelope, otherwise: int) -> int:
    """What MT-PRIORITY says (RFC 6710)."""
    given = find(envelope.parameters, b"MT-PRIORITY")
    return int(given.value) if given and given.value else otherwise


def offer_name(queue_id: str, digests: list[str]) -> str:
    """What an MTA offers under its queue id, as a name: the same again, to the octet, has the same.

    Empty where there is no queue id: then nothing tells a second offer from a second message.
    """
    if not queue_id:
        return ""
    return str(sha256("".join([queue_id, "\n", *digests]).encode()).hexdigest()[:40])

"""HELLO: what each side says of itself and of what it has, at once and without waiting.

It carries state, so the other side knows where to go on the moment it comes.
Its outer form never changes; unknown keys are ignored.
"""

from typing import NamedTuple

from batchmail.core import jsontext, numbered
from batchmail.core.errors import PeerError
from batchmail.core.names import SEQ_MAX, is_site, is_stream
from batchmail.core.numbered import Number
from batchmail.core.valid import is_identity

VERSIONS = (1, 2)
MAX_RANGES = 1000
MAX_PARTIALS = 64
MAX_OFFERS = 50
_MAX_KEYWORD = 32
_MAX_REQUESTS = 50


class Limits(NamedTuple):
    """What a side takes: octets of a numbered file, of a transaction, and in all for now."""

    file_octets: int
    transaction_octets: int
    room_octets: int


class Have(NamedTuple):
    """What a side has of the other's stream: all up to a number, with that file's identity, and ranges beyond."""

    stream: str
    up_to: int
    identity: str  # empty when up_to is 0
    beyond: tuple[tuple[int, int], ...]
    remembered: str = ""  # the encoding of files compressed against what came up to there; empty: none is understood

    def holds(self, seq: int) -> bool:
        return seq <= self.up_to or any(first <= seq <= last for first, last in self.beyond)

    @property
    def last(self) -> int:
        return max(self.up_to, *(last for _, last in self.beyond)) if self.beyond else self.up_to


class PartialFile(NamedTuple):
    """A file of which a part has come: how much, and the digest of that."""

    number: Number
    identity: str
    encoding: str
    octets: int
    digest: str


class Hello(NamedTuple):
    """One side's state at the start of a call."""

    site: str
    versions: tuple[int, ...]
    clock_ms: int
    memory: str  # made with the ledger: who remembers
    limits: Limits
    have: tuple[Have, ...]
    partial: tuple[PartialFile, ...]
    requests: tuple[str, ...] = ()  # the kinds of requests that are understood
    offers: tuple[str, ...] = ()  # the EHLO keywords that its target offered last; empty: not known
    recipients: str = ""  # which list of the other side's valid recipients is in force; empty: none

    def of_stream(self, stream: str) -> Have:
        """What the side has of a stream; nothing when it does not name it."""
        return next((have for have in self.have if have.stream == stream), Have(stream, 0, "", ()))


def write(hello: Hello) -> bytes:
    """As the payload of a frame."""
    return jsontext.write(
        {
            "site": hello.site,
            "versions": list(hello.versions),
            "clock": hello.clock_ms,
            "memory": hello.memory,
            "limits": {
                "file": hello.limits.file_octets,
                "transaction": hello.limits.transaction_octets,
                "room": hello.limits.room_octets,
            },
            "have": [_write_have(have) for have in hello.have],
            "partial": [_write_partial(partial) for partial in hello.partial[:MAX_PARTIALS]],
            **({"requests": list(hello.requests)} if hello.requests else {}),
            **({"offers": _short(hello.offers)} if hello.offers else {}),
            **({"recipients": hello.recipients} if hello.recipients else {}),
        }
    )


def _short(offers: tuple[str, ...]) -> list[str]:
    """A target says what it likes; HELLO has to fit its frame."""
    return [keyword for keyword in offers if len(keyword) <= _MAX_KEYWORD][:MAX_OFFERS]


def _write_have(have: Have) -> dict[str, object]:
    line: dict[str, object] = {"stream": have.stream, "up_to": have.up_to}
    if have.identity:
        line["identity"] = have.identity
    if have.beyond:
        line["beyond"] = [edge for pair in have.beyond[:MAX_RANGES] for edge in pair]
    if have.remembered:
        line["remembered"] = have.remembered
    return line


def _write_partial(partial: PartialFile) -> dict[str, object]:
    return {
        "file": partial.number.file_name,
        "identity": partial.identity,
        "encoding": partial.encoding,
        "octets": partial.octets,
        "digest": partial.digest,
    }


def read(payload: bytes) -> Hello:
    """From a frame's payload.  Raises PeerError."""
    fields = jsontext.read(payload, "HELLO")
    limits = fields.object("limits")
    hello = Hello(
        fields.text("site"),
        tuple(n for n in fields.items("versions", 100) if type(n) is int),
        fields.integer("clock"),
        fields.text("memory", 64),
        Limits(limits.integer("file"), limits.integer("transaction"), limits.integer("room")),
        tuple(map(_read_have, fields.objects("have", 10))),
        tuple(map(_read_partial, fields.objects("partial", MAX_PARTIALS))),
        tuple(filter(jsontext.is_text, fields.items("requests", _MAX_REQUESTS))),
        tuple(filter(jsontext.is_text, fields.items("offers", MAX_OFFERS))),
        fields.text("recipients", 16, ""),
    )
    if hello.recipients and not is_identity(hello.recipients):
        raise PeerError("HELLO: malformed list of recipients")
    if not is_site(hello.site):
        raise PeerError("HELLO: malformed site name")
    if not set(hello.versions) & set(VERSIONS):
        raise PeerError(
            f"{hello.site} speaks versions {hello.versions} of the call, this program {VERSIONS}:"
            " install a newer batchmail at the older one"
        )
    return hello


def _read_have(fields: jsontext.Fields) -> Have:
    up_to = fields.integer("up_to", 0, SEQ_MAX)
    edges = fields.items("beyond", 2 * MAX_RANGES)
    if len(edges) % 2 or any(type(e) is not int or e > SEQ_MAX for e in edges) or sorted(edges) != edges:
        raise PeerError("HELLO: malformed ranges")
    stream = fields.text("stream")
    if not is_stream(stream):
        raise PeerError("HELLO: malformed stream name")
    identity = fields.digest("identity") if up_to else ""
    return Have(
        stream, up_to, identity, tuple(zip(edges[::2], edges[1::2], strict=True)), fields.text("remembered", 20, "")
    )


def _read_partial(fields: jsontext.Fields) -> PartialFile:
    number = numbered.parse(fields.text("file"))
    if number is None:
        raise PeerError("HELLO: malformed file name")
    return PartialFile(
        number,
        fields.digest("identity"),
        fields.text("encoding", 20),
        fields.integer("octets"),
        fields.digest("digest"),
    )

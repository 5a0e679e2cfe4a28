"""The valid recipients here, told to a peer whose door then refuses others with 550 5.1.1 in its session.

HELLO names the list that is in force at the peer; where that is not the one of
the configuration, what is new and what is gone goes there as requests, in
parts.  So a list that was lost there, or here, is told again.  Order: requests
in the ledger, then our copy of the list; a crash in between costs octets: the
whole list is told where changes would do.  The other side is `flow.listed`.
"""

import base64
import os
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from batchmail.core import jsontext, request
from batchmail.core.digest import sha256
from batchmail.core.errors import SpoolError
from batchmail.core.request import RECIPIENTS, Answer, Request
from batchmail.core.settings import Peer
from batchmail.core.valid import (
    KEY_OCTETS,
    Terms,
    addresses_in,
    identity_of,
    is_identity,
    key_of,
    read_lines,
    words_of,
)
from batchmail.flow.context import Context
from batchmail.proto.hello import Hello
from batchmail.store.ledger import Ledger
from batchmail.store.recipients import Head, open_sound, remove_list, told_path, write_list
from batchmail.store.requests import Requests
from batchmail.wire import maillog

_PIECE_OCTETS = 40_000  # of a payload, as it stands in JSON
_MAX_FILE_OCTETS = 64 << 20
_AGAIN_MS = 86_400_000  # what was refused is asked for again, if the list is still the same
_SETTLED_MS = 2000  # a file changed just now may be changed again without its time telling
NONE = "none"
# Facts.  What the peer said is in force there: an identity, or NONE; empty: it takes no lists, or was never heard.
THERE = "recipients_there"
WANTED = "recipients_wanted"  # identity of the list that the configuration has, and what it was made of
ASKED = "recipients_asked"  # memory of the peer, and the list that it was asked to take
REFUSED = "recipients_refused"  # identity, when, and why
TROUBLE = "recipients_trouble"  # why the list cannot be read


def greet(ledger: Ledger, hello: Hello) -> None:
    """Note which list the peer has; the next pass tells it another, if there is one."""
    there = (hello.recipients or NONE) if RECIPIENTS in hello.requests else ""
    ledger.note(THERE, there)
    if ledger.fact(ASKED):
        with ledger.transaction():  # the worker may be asking just now
            if not any(Requests(ledger).open_of(RECIPIENTS)):
                ledger.note(ASKED, "")  # all was answered: what is not in force now is asked for once more


def answered(context: Context, ledger: Ledger, asked: Request, answer: Answer) -> None:
    """The peer says what became of a part.  Idempotent."""
    if answer.verdict not in (request.DONE, request.MISSING):
        ledger.note(REFUSED, f"{asked.payload.get('list', '')} {context.now_ms()} {answer.text}")
    there = answer.payload.get("list")
    if type(there) is str and (is_identity(there) or not there):
        ledger.note(THERE, there or NONE)


def first_word(text: str | None) -> str:
    return (text or "").partition(" ")[0]


class Source(NamedTuple):
    """The list as the configuration has it."""

    terms: Terms
    words: dict[bytes, bytes]  # by key
    keys: list[bytes]  # sorted

    @property
    def identity(self) -> str:
        return identity_of(self.terms, self.keys) if self.keys else NONE


class Publisher:
    """Tells one peer who is valid here."""

    def __init__(self, context: Context, ledger: Ledger):
        self._context, self._ledger, self._peer = context, ledger, context.peer
        self._requests = Requests(ledger)
        self._path = told_path(context.spool.root, context.peer.name)

    def run(self, _stopped: Callable[[], bool]) -> None:
        """Ask for the list to be taken, where another one is in force; one that cannot be read changes nothing."""
        try:
            wanted = self._wanted()
        except (OSError, ValueError) as error:
            self._trouble(f"valid_recipients: {error}; what was told before stays in force")
            return
        self._trouble("")
        there = self._ledger.fact(THERE)
        if there and self._is_due(wanted, there):
            self._ask(wanted, there)

    def _trouble(self, text: str) -> None:
        if text and text != self._ledger.fact(TROUBLE):
            maillog.trouble(self._peer.name, text)
        self._ledger.note(TROUBLE, text)

    def _is_due(self, wanted: str, there: str) -> bool:
        memory, _, asked = (self._ledger.fact(ASKED) or "").partition(" ")
        unsent, carried = self._requests.open_of(RECIPIENTS)
        if memory != self._ledger.fact("peer_memory"):
            carried = 0  # to a ledger that is lost there: nothing comes of them any more
        elif asked == wanted:
            return False  # on its way, or answered and not in force: the next call may try again
        if unsent:
            with self._ledger.transaction():
                self._requests.drop_unsent(RECIPIENTS)
        if carried:
            return False  # what becomes of them decides what is to be changed
        return wanted != there and not self._was_refused(wanted)

    def _was_refused(self, wanted: str) -> bool:
        refused, _, rest = (self._ledger.fact(REFUSED) or "").partition(" ")
        return refused == wanted and self._context.now_ms() < int(first_word(rest)) + _AGAIN_MS

    # -- the list that is wanted ----------------------------------------------------------------------------------

    def _wanted(self) -> str:
        """Its identity.  Raises OSError, ValueError."""
        if not self._peer.valid_recipients and not self._peer.valid_recipients_file:
            self._ledger.note(WANTED, "")
            return NONE
        stamp = self._stamp()
        known, _, made_of = (self._ledger.fact(WANTED) or "").partition(" ")
        if known and stamp and stamp == made_of:
            return known
        found = self._source().identity
        self._ledger.note(WANTED, f"{found} {stamp}")
        return found

    def _stamp(self) -> str:
        """What a list is made of; while it stays the same, it is not read again.  Empty: it is to be read."""
        peer = self._peer
        said = repr((peer.valid_recipients, peer.recipient_delimiter, peer.hide_recipients, self._ledger.memory))
        digest = str(sha256(said.encode()).hexdigest()[:16])
        if not peer.valid_recipients_file:
            return digest
        status = os.stat(peer.valid_recipients_file)
        if status.st_mtime_ns // 1_000_000 > self._context.now_ms() - _SETTLED_MS:
            return ""
        return f"{digest} {status.st_mtime_ns} {status.st_size} {status.st_ino}"

    def _source(self) -> Source:
        """Raises OSError, ValueError."""
        # The same salt for all hidden lists to this peer, so that two of them can be compared.
        salt = sha256(f"{RECIPIENTS} {self._ledger.memory}".encode()).hexdigest()[:16]
        terms = Terms(salt if self._peer.hide_recipients else "", self._peer.recipient_delimiter)
        words = {key_of(word, terms.salt): word for word in read_words(self._peer)}
        return Source(terms, words, sorted(words))

    # -- telling --------------------------------------------------------------------------------------------------

    def _ask(self, wanted: str, there: str) -> None:
        """Ask for what makes the wanted list out of the one that is in force there."""
        source = None if wanted == NONE else self._source()
        if source and source.identity != wanted:
            return  # it changes under our eyes: the next pass
        payloads = list(self._payloads(source, there)) if source else [{"list": ""}]
        with self._ledger.transaction():
            for payload in payloads:
                asked = Request(RECIPIENTS, self._context.new_id(), payload)
                self._requests.ask_too(asked, self._context.now_ms())
            self._ledger.set_fact(ASKED, f"{self._ledger.fact('peer_memory')} {wanted}")
        if source:
            addresses = addresses_in(source.words.values())
            head = Head(wanted, self._context.now_ms(), addresses, len(source.keys), source.terms)
            write_list(self._context.spool, self._path, head, source.keys)
        else:
            remove_list(self._path)

    def _payloads(self, source: Source, there: str) -> Iterator[dict[str, object]]:
        base = self._base(source, there)
        new, gone = sorted(set(source.keys) - base), sorted(base - set(source.keys))
        parts = list(_parts(_pieces(source, new, gone)))
        said: dict[str, object] = {"list": source.identity, "of": len(parts)}
        said |= {"addresses": addresses_in(source.words.values())}
        said |= {name: value for name, value in source.terms._asdict().items() if value}
        said |= {"base": there} if base else {}
        for number, part in enumerate(parts):
            yield said | {"part": number} | part

    def _base(self, source: Source, there: str) -> set[bytes]:
        """The keys of the list that is in force there, where we know them and they are less to change than to tell."""
        try:
            told = open_sound(self._path)
        except SpoolError:
            return set()
        if told is None:
            return set()
        with told:
            if told.head.identity != there or told.head.terms.salt != source.terms.salt:
                return set()
            base = told.keys()
        return base if len(base - set(source.keys)) < len(source.keys) else set()


def read_words(peer: Peer) -> set[bytes]:
    """The words of the list that the configuration has.  Raises OSError, and ValueError with what is wrong."""
    path = peer.valid_recipients_file
    if not path:
        return words_of(entry.encode() for entry in peer.valid_recipients)
    number = 0

    def counted(lines: Iterable[bytes]) -> Iterator[bytes]:
        nonlocal number
        for number, line in enumerate(lines, 1):  # noqa: B007  the last that was read
            yield line

    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size > _MAX_FILE_OCTETS:
            raise ValueError(f"{path}: larger than {_MAX_FILE_OCTETS} octets")
        try:
            return words_of(read_lines(counted(file)))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None


def _parts(pieces: Iterable[tuple[str, str]]) -> Iterator[dict[str, str]]:
    """Pieces together as they fit; one part at least, where only the terms are others."""
    part: dict[str, str] = {}
    for name, text in pieces:
        if name in part or sum(map(len, part.values())) + len(text) > _PIECE_OCTETS:
            yield part
            part = {}
        part[name] = text
    yield part


def _pieces(source: Source, new: list[bytes], gone: list[bytes]) -> Iterator[tuple[str, str]]:
    """Texts for payloads: names where they may be known, else keys; and the keys that go."""
    if source.terms.salt:
        yield from _pieces_of_keys("keys", new)
    else:
        yield from _pieces_of_names(source.words[key] for key in new)
    yield from _pieces_of_keys("gone", gone)


def _pieces_of_keys(name: str, keys: list[bytes]) -> Iterator[tuple[str, str]]:
    step = _PIECE_OCTETS * 3 // 4 // KEY_OCTETS
    for first in range(0, len(keys), step):
        yield name, base64.b64encode(b"".join(keys[first : first + step])).decode()


def _pieces_of_names(words: Iterable[bytes]) -> Iterator[tuple[str, str]]:
    text = ""
    for word in sorted(words, key=lambda word: word.rpartition(b"@")[::-1]):  # neighbours alike compress well
        shown = jsontext.octets(word)
        if text and len(text) + len(shown) > _PIECE_OCTETS:
            yield "names", text
            text = ""
        text += f" {shown}" if text else shown
    if text:
        yield "names", text

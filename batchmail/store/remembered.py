"""What both sides remember of the files exchanged in one direction, to compress the next ones against.

The text of each numbered file (what its identity is over), or its end when it
is long, is kept in the ledger with the word of custody, by both.  The text
behind which number N comes is that of the numbers up to N, in their order,
down to the first that is missing, and at most 1 MiB of it: so both sides have
the same or know by its digest that they have not.  It is a cache: it may be
lost at any time, and no version of the ledger counts its table.
"""

import re
import zlib
from collections.abc import Iterator
from hashlib import sha256
from typing import NamedTuple

from batchmail.core.errors import SpoolError
from batchmail.core.numbered import Number
from batchmail.store.ledger import Ledger

PIECE_OCTETS = 128 << 10  # of one file
TEXT_OCTETS = 1 << 20  # that is compressed against
_KEPT_OCTETS = 5 << 20  # some more than that: files that are under way may name an older number
_MAX_SEQ = 10**10 - 1
_WORD = re.compile(r"r([0-9a-f]{8})\.([1-9][0-9]{0,9})\Z")

_TABLE = """
CREATE TABLE IF NOT EXISTS remembered (
  direction TEXT NOT NULL,           -- in, out
  stream TEXT NOT NULL, seq INTEGER NOT NULL, octets INTEGER NOT NULL, packed BLOB NOT NULL,
  PRIMARY KEY (direction, stream, seq))
"""


class Text(NamedTuple):
    """What is remembered up to a number, and the word for it in HELLO and OPEN; no word: nothing is."""

    word: str
    octets: bytes


class Remembered:
    """One direction of one peer."""

    def __init__(self, ledger: Ledger, direction: str):
        self._ledger, self._direction = ledger, direction
        ledger.rows(_TABLE)

    def add(self, number: Number, piece: bytes) -> None:
        """The end of a file's text, at most PIECE_OCTETS; in the transaction that records its custody."""
        self._ledger.rows(
            "INSERT OR REPLACE INTO remembered VALUES (?,?,?,?,?)",
            *(self._direction, *number[:2], len(piece), zlib.compress(piece)),
        )
        if number.seq % 16 == 0:
            self._prune()

    def _prune(self) -> None:
        self._ledger.rows(
            "DELETE FROM remembered WHERE direction = ?1 AND rowid IN (SELECT id FROM (SELECT rowid AS id,"
            " sum(octets) OVER (ORDER BY rowid DESC) AS newer FROM remembered WHERE direction = ?1) WHERE newer > ?2)",
            *(self._direction, _KEPT_OCTETS),
        )

    def up_to(self, stream: str, seq: int) -> Text:
        """What is remembered of a stream up to a number; nothing where that is damaged."""
        try:
            octets = b"".join(reversed(list(self._pieces(stream, seq))))[-TEXT_OCTETS:]
        except (SpoolError, zlib.error, TypeError):
            return Text("", b"")
        if not octets or seq > _MAX_SEQ:
            return Text("", b"")
        return Text(f"r{sha256(octets).hexdigest()[:8]}.{seq}", octets)

    def _pieces(self, stream: str, seq: int) -> Iterator[bytes]:
        """The last first, down to the first that is missing, and no more than are needed."""
        rows = self._ledger.each(
            "SELECT seq, packed FROM remembered WHERE direction = ? AND stream = ? AND seq <= ? ORDER BY seq DESC",
            *(self._direction, stream, seq),
        )
        room = TEXT_OCTETS
        for steps, (found, packed) in enumerate(rows):
            if found != seq - steps or room <= 0:
                break
            piece = zlib.decompress(packed)
            room -= len(piece)
            yield piece

    def by_word(self, stream: str, word: str) -> Text:
        """The text that the other side means; nothing when ours is not the same."""
        match = _WORD.match(word)
        found = self.up_to(stream, int(match[2])) if match else Text("", b"")
        return found if found.word == word else Text("", b"")

    def newest(self, stream: str, seq: int) -> int:
        """The last of the numbers from `seq` on of which none is missing."""
        rows = self._ledger.rows(
            "SELECT seq FROM remembered WHERE direction = ? AND stream = ? AND seq > ? ORDER BY seq",
            *(self._direction, stream, seq),
        )
        for (found,) in rows:
            if found != seq + 1:
                break
            seq = found
        return int(seq)


def is_word(text: str) -> bool:
    """Whether an encoding names remembered text."""
    return _WORD.match(text) is not None

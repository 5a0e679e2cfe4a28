"""The valid recipients of a peer, as it tells them: parts of a list, which comes into force when the last has come.

A list is what its identity says, or it is refused: neither a peer that is
mistaken nor a damaged file makes the door refuse what exists.  Order: the list
in place, then the parts removed, then the answer; a crash in between repeats
a request that finds its list in force.  Who is told is `flow.recipients`.
"""

import base64
import binascii

from batchmail.core import jsontext, request, xtext
from batchmail.core.errors import PeerError, SpoolError
from batchmail.core.request import RECIPIENTS, Answer, Request
from batchmail.core.valid import (
    KEY_OCTETS,
    MAX_KEYS,
    MAX_WORD_OCTETS,
    Terms,
    identity_of,
    is_identity,
    is_terms,
    key_of,
)
from batchmail.flow.context import Context
from batchmail.store.ledger import Ledger
from batchmail.store.recipients import (
    Common,
    Head,
    Parts,
    identity_at,
    listed_path,
    open_sound,
    remove_list,
    write_list,
)

MAX_PARTS = 1000


def in_force(context: Context) -> str:
    """The identity of the peer's list that our doors go by; empty: none."""
    return identity_at(listed_path(context.spool.root, context.peer.name))


def take(context: Context, _ledger: Ledger, asked: Request) -> Answer:
    """A part of a list, or that there is none any more.  Raises PeerError."""
    fields = jsontext.Fields(asked.payload, RECIPIENTS)
    path = listed_path(context.spool.root, context.peer.name)
    identity = fields.text("list", 16)
    if not identity:
        remove_list(path)
        return _answer(context, asked, request.DONE, "all recipients are accepted")
    common = _common(identity, fields)
    parts = Parts(context.spool, context.peer.name, common)
    if in_force(context) == identity:
        parts.drop()
        return _answer(context, asked, request.DONE, "in force")
    new, gone = _keys(fields, "keys") + _names(fields, common.terms.salt), _keys(fields, "gone")
    if not parts.put(fields.integer("part", 0, common.of - 1), new, gone):
        return _answer(context, asked, request.DONE, "kept until the rest of the list comes")
    keys = _base(path, common.base)
    if keys is None:
        parts.drop()
        return _answer(context, asked, request.MISSING, "the list that is to be changed is not in force")
    parts.apply(keys)
    table = sorted(keys)
    if len(table) > MAX_KEYS or identity_of(common.terms, table) != identity:
        parts.drop()
        raise PeerError(f"{RECIPIENTS}: the parts do not make the list that they name")
    head = Head(identity, context.now_ms(), common.addresses, len(table), common.terms)
    write_list(context.spool, path, head, table)
    parts.drop()
    return _answer(context, asked, request.DONE, f"in force: {common.addresses} addresses")


def _answer(context: Context, asked: Request, verdict: str, text: str) -> Answer:
    return Answer(asked.id, verdict, text, {"list": in_force(context)})


def _common(identity: str, fields: jsontext.Fields) -> Common:
    base = fields.text("base", 16, "")
    terms = Terms(fields.text("salt", 16, ""), fields.text("delimiters", 8, ""))
    if not is_identity(identity) or (base and not is_identity(base)) or not is_terms(terms):
        raise PeerError(f"{RECIPIENTS}: malformed list, base, salt or delimiters")
    return Common(identity, base, fields.integer("of", 1, MAX_PARTS), fields.integer("addresses", 0, MAX_KEYS), terms)


def _base(path: str, identity: str) -> set[bytes] | None:
    """The keys of the list that is to be changed; none of no list; None where another one is in force."""
    if not identity:
        return set()
    try:
        found = open_sound(path)
    except SpoolError:
        return None
    if found is None:
        return None
    with found:
        return found.keys() if found.head.identity == identity else None


def _names(fields: jsontext.Fields, salt: str) -> list[bytes]:
    try:
        words = [xtext.decode(word.encode()) for word in _text(fields, "names").split(" ") if word]
    except ValueError:
        raise PeerError(f"{RECIPIENTS}: malformed names") from None
    if any(len(word) > MAX_WORD_OCTETS for word in words):
        raise PeerError(f"{RECIPIENTS}: a name is too long")
    return [key_of(word, salt) for word in words]


def _keys(fields: jsontext.Fields, name: str) -> list[bytes]:
    try:
        data = base64.b64decode(_text(fields, name), validate=True)
    except binascii.Error:
        raise PeerError(f"{RECIPIENTS}: malformed keys") from None
    if len(data) % KEY_OCTETS:
        raise PeerError(f"{RECIPIENTS}: malformed keys")
    return [data[at : at + KEY_OCTETS] for at in range(0, len(data), KEY_OCTETS)]


def _text(fields: jsontext.Fields, name: str) -> str:
    return fields.text(name, request.MAX_PAYLOAD_OCTETS, "")

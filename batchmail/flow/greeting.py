"""What a HELLO settles besides the files: who it is; and what each side tells the people at the other."""

from batchmail.core.errors import ConfigError
from batchmail.flow.context import Context
from batchmail.proto.frames import Note
from batchmail.proto.hello import Hello
from batchmail.store.ledger import Ledger
from batchmail.store.offers import write_offers
from batchmail.wire import maillog

_MOST = 3  # notes that are taken in one call: each is a write


def check_site(context: Context, ledger: Ledger, hello: Hello) -> None:
    """The peer's site name is learned in the first call and then fixed.  Raises ConfigError: a person has to act."""
    known = context.peer.site or ledger.fact("peer_site")
    if hello.site == context.site.name:
        raise ConfigError(f"both sides are called {hello.site}: give one of them another `site` in its configuration")
    if known and known != hello.site:
        raise ConfigError(
            f"peer {context.peer.name} was {known} until now and says it is {hello.site}:"
            f' if that is right, set site = "{hello.site}" in [peers.{context.peer.name}] on {context.site.name}'
        )
    ledger.note("peer_site", hello.site)
    if hello.offers:
        write_offers(context.spool, context.peer.name, hello.offers)  # for the doors


class Notes:
    """Notes of one call, in both directions."""

    def __init__(self, context: Context, ledger: Ledger):
        self._context, self._ledger = context, ledger
        self._taken = 0
        self.text = ""  # the last that came

    def greet(self, stopped: str, held: str) -> list[Note]:
        """The HELLO has come: forget what the peer said in an earlier call; what we have to say, if anything."""
        self._ledger.note("stopped", stopped)
        self._ledger.note("peer_note", "")
        text = "; ".join(filter(None, (stopped, held)))
        return [Note(text)] if text else []

    def take(self, note: Note) -> None:
        """The last word stays, for `status`."""
        if note.text == self.text or self._taken == _MOST:
            return
        self._taken += 1
        self.text = note.text
        self._ledger.note("peer_note", note.text)
        maillog.trouble(self._context.peer.name, f"the other side says: {note.text}")
